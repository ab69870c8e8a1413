"""samunet_plan_and_preprocess: measure, plan and preprocess datasets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from samunet.cli import planning
from samunet.cli.common import make_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_plan_and_preprocess",
        (
            "Measure a dataset of nnUNet_raw, decide spacing, slab depth, patch and encoder grid, and preprocess the "
            "training cases."
        ),
        "Next: samunet_train DATASET 3d_adapter 0   (2d_adapter for 2D images)\n"
        "Why the plan is as it is: samunet_plan_experiment -d DATASET --explain",
    )
    planning.add_dataset(parser)
    planning.add_fingerprint_options(parser, "-npfp")
    parser.add_argument("--no_pp", action="store_true", help="stop after planning")
    planning.add_plan_options(parser)
    planning.add_preprocess_options(parser)
    planning.add_output_options(parser, "also print the reason of every decision")
    return run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> None:
    from samunet import pipeline
    from samunet.core.lock import held
    from samunet.core.workspace import workspace_from_environment

    options = planning.plan_options(arguments)
    workspace = workspace_from_environment()
    _ = workspace.raw, workspace.preprocessed  # complain before work begins
    for wanted in arguments.d:
        with held(workspace.preprocessed / workspace.dataset_name(wanted), name=options.plans_name):
            dataset, fingerprint = planning.open_and_measure(workspace, wanted, arguments)
            plan = pipeline.plan(workspace, dataset, fingerprint, options)
            planning.print_plan(plan, explain=arguments.verbose)
            planning.print_time_without_gpu(plan, dataset.spec)
            if not arguments.no_pp:
                planning.preprocess_configurations(workspace, dataset, plan, arguments)
