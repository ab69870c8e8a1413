"""samunet_accumulate_crossval_results: the validation predictions of several folds in one folder, with their scores."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samunet.cli.common import DEFAULT_FOLDS, DEFAULT_THREADS, add_model_options, make_parser, model_meant, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_accumulate_crossval_results",
        "Copy the validation predictions of a model's folds into one folder and score them together.",
        "Next: open summary.json in the output folder.",
    )
    add_model_options(parser)
    parser.add_argument("-c", required=True, metavar="CONFIGURATION", help="configuration of the model")
    parser.add_argument("-f", nargs="+", default=DEFAULT_FOLDS, metavar="FOLD", help="folds (default: 0 1 2 3 4)")
    parser.add_argument(
        "-o", type=Path, metavar="FOLDER", help="folder to write (default: crossval_results_folds_... in the model's)"
    )
    parser.add_argument(
        "-np", type=int, default=DEFAULT_THREADS, metavar="N", help="cases at a time (default: %(default)s)"
    )
    return run(parser, _accumulate, argv)


def _accumulate(arguments: argparse.Namespace) -> None:
    from samunet.comparison.selection import accumulate, crossval_folder
    from samunet.core.lock import held
    from samunet.core.parts import is_part
    from samunet.errors import ConfigError
    from samunet.evaluation.summary import SUMMARY

    workspace, dataset, model = model_meant(arguments, arguments.c)
    target = arguments.o or crossval_folder(model, arguments.f)
    if arguments.o is not None and target.is_dir() and not all(map(is_part, target.iterdir())):
        raise ConfigError(f"{target} holds files already; give a new folder with -o.")
    with held(target.parent, name=target.name):  # the folder itself is made again
        summary = accumulate(model, workspace.raw / dataset, arguments.f, target, threads=arguments.np)
    print(
        f"Mean foreground Dice {summary.foreground_mean.dice:.4f} on {len(summary.cases)} cases. Wrote "
        f"{target / SUMMARY}"
    )
