"""samunet_plan_experiment: plan from a fingerprint, and say why."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from samunet.cli import planning
from samunet.cli.common import DEFAULT_THREADS, make_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_plan_experiment",
        "Decide spacing, slab depth, patch, encoder grid and backbone from a dataset's fingerprint; measures the dataset first if need be.",
        "Next: samunet_preprocess -d DATASET",
    )
    planning.add_dataset(parser)
    planning.add_plan_options(parser)
    parser.add_argument(
        "--explain", action="store_true", help="print the reason of every decision; without further options, of the plan that is there"
    )
    parser.add_argument(
        "--measure", action="store_true", help="run a training step of every configuration; plan smaller where it needs more than -gpu_memory_target"
    )
    parser.add_argument("-device", metavar="NAME", help="where to measure: cuda or cpu (default: the best one present)")
    return run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> None:
    from samunet import pipeline
    from samunet.core.workspace import workspace_from_environment
    from samunet.errors import ConfigError
    from samunet.hardware import choose_device

    if arguments.device is not None and not arguments.measure:
        raise ConfigError("-device says where --measure runs a step; give both, or neither.")
    options = planning.plan_options(arguments)
    workspace = workspace_from_environment()
    measure_on = choose_device(arguments.device) if arguments.measure else None
    for wanted in arguments.d:
        dataset = pipeline.open_dataset(workspace, wanted)
        planning.keep_up_splits(workspace, dataset, arguments)
        fingerprint = pipeline.extract(workspace, dataset, threads=DEFAULT_THREADS, clean=False)
        path = pipeline.plan_path(workspace, dataset.spec.name, options.plans_name)
        plain = options == pipeline.PlanOptions(plans_name=options.plans_name) and not arguments.measure
        only_explain = arguments.explain and path.is_file() and plain
        if only_explain:
            plan = pipeline.open_plan(workspace, dataset.spec.name, options.plans_name)
        else:
            plan = pipeline.plan(workspace, dataset, fingerprint, options, measure_on=measure_on)
        planning.print_plan(plan, explain=arguments.explain)
        print(f"{'Read' if only_explain else 'Wrote'} {path}")
