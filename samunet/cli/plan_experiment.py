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
        (
            "Decide spacing, slab depth, patch, encoder grid and backbone from a dataset's fingerprint; measures the "
            "dataset first if need be."
        ),
        "Next: samunet_preprocess -d DATASET",
    )
    planning.add_dataset(parser)
    planning.add_plan_options(parser)
    parser.add_argument(
        "--explain",
        action="store_true",
        help="print the reason of every decision; without further options, of the plan that is there",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="run a training step of every configuration; plan smaller where it needs more than -gpu_memory_target",
    )
    parser.add_argument(
        "-c",
        nargs="+",
        default=[],
        metavar="CONFIGURATION",
        help="show these, e.g. 3d_ma_sam or 2d_samed, which a plan need not hold; without further options, of the "
        "plan that is there",
    )
    parser.add_argument("-device", metavar="NAME", help="where to measure: cuda or cpu (default: the best one present)")
    return run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> None:
    from samunet import pipeline
    from samunet.core.lock import held
    from samunet.core.workspace import workspace_from_environment
    from samunet.errors import ConfigError
    from samunet.machine.hardware import choose_device

    if arguments.device is not None and not arguments.measure:
        raise ConfigError("-device says where --measure runs a step; give both, or neither.")
    if arguments.c and arguments.measure:
        raise ConfigError(
            "--measure runs steps of the configurations that the plan holds; leave -c out, and show others afterwards."
        )
    options = planning.plan_options(arguments)
    workspace = workspace_from_environment()
    measure_on = choose_device(arguments.device) if arguments.measure else None
    for wanted in arguments.d:
        dataset = pipeline.open_dataset(workspace, wanted)
        planning.keep_up_splits(workspace, dataset, arguments)
        fingerprint = pipeline.extract(workspace, dataset, threads=DEFAULT_THREADS, clean=False)
        path = pipeline.plan_path(workspace, dataset.spec.name, options.plans_name)
        plain = options == pipeline.PlanOptions(plans_name=options.plans_name) and not arguments.measure
        only_show = (arguments.explain or arguments.c) and path.is_file() and plain
        if only_show:
            plan = pipeline.open_plan(workspace, dataset.spec.name, options.plans_name)
        else:
            with held(path.parent, name=options.plans_name):
                plan = pipeline.plan(workspace, dataset, fingerprint, options, measure_on=measure_on)
        for name in arguments.c:
            plan = pipeline.resolve(workspace, plan, name)
        planning.print_plan(plan, explain=arguments.explain, names=arguments.c)
        if not only_show:
            planning.print_time_without_gpu(plan, dataset.spec)
        print(f"{'Read' if only_show else 'Wrote'} {path}")
