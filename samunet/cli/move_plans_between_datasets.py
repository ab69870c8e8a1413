"""samunet_move_plans_between_datasets: use the plan of one dataset for another."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from samunet.cli.common import make_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_move_plans_between_datasets",
        "Save the plan of one dataset as a plan of another, for pretraining: all decisions and intensity statistics "
        "stay as they are.",
        "Next: samunet_preprocess -d TARGET -plans_name NAME",
    )
    parser.add_argument("-s", required=True, metavar="DATASET", help="id or name of the dataset that has the plan")
    parser.add_argument("-t", required=True, metavar="DATASET", help="id or name of the dataset that gets it")
    parser.add_argument("-sp", required=True, metavar="NAME", help="the plan")
    parser.add_argument("-tp", metavar="NAME", help="its name there (default: the same)")
    parser.add_argument(
        "-c",
        nargs="+",
        default=[],
        metavar="CONFIGURATION",
        help="configurations to move besides those in the plan, e.g. 3d_ma_sam",
    )
    return run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> None:
    from samunet import pipeline
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    source, target = workspace.dataset_name(arguments.s), workspace.dataset_name(arguments.t)
    names = {"source_plans": arguments.sp, "target_plans": arguments.tp or arguments.sp, "configurations": arguments.c}
    print(f"Wrote {pipeline.move_plan(workspace, source, target, **names)}")
