"""samunet_pretrain: a promptable network from procedural scenes alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from samunet.cli.common import make_parser, run
from samunet.cli.fields import add_fields, given_fields
from samunet.pretraining.recipe import Recipe
from samunet.training.config import RunConfig, TrainingConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    typed = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser(
        "samunet_pretrain",
        "Pretrain a network that segments what prompts show on procedural scenes, and write its weights: no image of "
        "anybody is needed.",
        "Example: samunet_pretrain -o seed --minutes 60\n"
        "Ctrl-C ends it after the step, with everything saved; --c goes on.",
    )
    parser.add_argument("-o", required=True, type=Path, metavar="FOLDER", help="where logs, checkpoints and weights go")
    parser.add_argument("--c", action="store_true", dest="resume", help="continue what is in the folder")
    parser.add_argument("--overwrite", action="store_true", help="pretrain again what is finished")
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to start from; 2D ones fit in 3D")
    parser.add_argument("-device", default=None, help="cpu, cuda or mps (default: what is there)")
    add_fields(parser.add_argument_group("network and scenes"), Recipe)
    add_fields(parser.add_argument_group("training"), TrainingConfig)
    add_fields(parser.add_argument_group("this run"), RunConfig)
    return run(parser, lambda arguments: _command(arguments, tuple(typed)), argv)


def _command(arguments: argparse.Namespace, typed: tuple[str, ...]) -> int:
    from samunet.pipeline.pretraining import PretrainOptions, pretrain

    written = pretrain(
        given_fields(TrainingConfig, arguments),
        PretrainOptions(
            folder=arguments.o,
            recipe=Recipe(**given_fields(Recipe, arguments)),
            device=arguments.device,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            start=arguments.start,
            run=RunConfig(**given_fields(RunConfig, arguments)),
            command=("samunet_pretrain", *typed),
        ),
    )
    print("Stopped, nothing is lost. The same command with --c goes on." if written is None else f"Wrote {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
