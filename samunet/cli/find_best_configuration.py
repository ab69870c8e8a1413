"""samunet_find_best_configuration: choose among trained models, and mark the best for prediction."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from samunet.cli.common import DEFAULT_FOLDS, DEFAULT_THREADS, make_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_find_best_configuration",
        (
            "Score trained models, and ensembles of two, on the validation cases of their folds; mark the best, which "
            "samunet_predict then takes."
        ),
        "Next: the commands in inference_instructions.txt",
    )
    parser.add_argument("dataset_name_or_id", help="dataset id or name")
    parser.add_argument(
        "-c", nargs="+", metavar="CONFIGURATION", help="configurations to consider (default: all that are trained)"
    )
    parser.add_argument("-p", nargs="+", metavar="NAME", help="plans to consider (default: all)")
    parser.add_argument("-tr", nargs="+", metavar="NAME", help="trainers to consider (default: all of samunet's)")
    parser.add_argument("-f", nargs="+", default=DEFAULT_FOLDS, metavar="FOLD", help="folds (default: 0 1 2 3 4)")
    parser.add_argument("--disable_ensembling", action="store_true", help="single models only")
    parser.add_argument(
        "-np", type=int, default=DEFAULT_THREADS, metavar="N", help="cases at a time (default: %(default)s)"
    )
    return run(parser, _find, argv)


def _find(arguments: argparse.Namespace) -> None:
    from samunet.comparison.selection import find_best
    from samunet.core.lock import held
    from samunet.core.results import trained_models
    from samunet.core.workspace import workspace_from_environment
    from samunet.errors import ConfigError

    workspace = workspace_from_environment()
    dataset = workspace.dataset_name(arguments.dataset_name_or_id)
    wanted = (arguments.tr, arguments.p, arguments.c)
    names = [folder.name for folder in trained_models(workspace) if folder.parent.name == dataset]
    models = [
        name
        for name in names
        if all(given is None or part in given for given, part in zip(wanted, name.split("__"), strict=True))
    ]
    if names and not models:
        raise ConfigError(f"No trained model of {dataset} fits these options. Trained: {', '.join(names)}.")
    with held(workspace.results / dataset, name="find_best"):
        choice = find_best(
            workspace, dataset, models, arguments.f, ensembling=not arguments.disable_ensembling, threads=arguments.np
        )
    width = max(len(candidate.name) for candidate in choice.candidates)
    for candidate in choice.candidates:
        print(f"{candidate.name:<{width}}  {candidate.dice:.4f}")
    print(f"\n{choice.instructions}Wrote {workspace.results / dataset / 'inference_instructions.txt'}")
