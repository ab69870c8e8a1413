"""samunet_preprocess: preprocess datasets by a saved plan."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from samunet.cli import planning
from samunet.cli.common import make_parser, run
from samunet.core.names import DEFAULT_PLANS_NAME


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_preprocess",
        "Preprocess the training cases of planned datasets.",
        "Next: samunet_train DATASET 3d_adapter 0   (2d_adapter for 2D images)",
    )
    planning.add_dataset(parser)
    parser.add_argument(
        "-plans_name", default=DEFAULT_PLANS_NAME, metavar="NAME", help="plan to follow (default: %(default)s)"
    )
    planning.add_preprocess_options(parser)
    planning.add_output_options(parser)
    return run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> None:
    from samunet import pipeline
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    for wanted in arguments.d:
        dataset = pipeline.open_dataset(workspace, wanted)
        planning.keep_up_splits(workspace, dataset, arguments)
        plan = pipeline.open_plan(workspace, dataset.spec.name, arguments.plans_name)
        planning.preprocess_configurations(workspace, dataset, plan, arguments)
