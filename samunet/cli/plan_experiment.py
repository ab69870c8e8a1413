"""Decide spacing, slab depth, patch, encoder grid and backbone from a dataset's fingerprint; measures the dataset first
if need be.

Next: samunet_preprocess -d DATASET
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from samunet.cli import planning
from samunet.cli.common import DEFAULT_THREADS, Datasets, Device, command


@dataclass(frozen=True, kw_only=True)
class Options:
    datasets: Datasets
    explain: bool = False
    """Print the reason of every decision; without further options, of the plan that is there."""
    measure: bool = False
    """Run a training step of every configuration; plan smaller where it needs more than -gpu_memory_target."""
    configurations: Annotated[tuple[str, ...], "-c CONFIGURATION"] = ()
    """Show these, e.g. 3d_ma_sam or 2d_samed, which a plan need not hold; without further options, of the plan that is
    there."""
    device: Device = None
    """Where to measure: cuda or cpu (default: the best one present)."""
    plan: planning.Planning


@command("samunet_plan_experiment", __doc__, Options)
def main(options: Options) -> None:
    from samunet import pipeline
    from samunet.core.lock import held
    from samunet.core.workspace import workspace_from_environment
    from samunet.errors import ConfigError

    if options.device is not None and not options.measure:
        raise ConfigError("-device says where --measure runs a step; give both, or neither.")
    if options.configurations and options.measure:
        raise ConfigError(
            "--measure runs steps of the configurations that the plan holds; leave -c out, and show others afterwards."
        )
    asked = options.plan.settled()
    workspace = workspace_from_environment()
    measure_on = None
    if options.measure:
        from samunet.machine.hardware import choose_device  # loads torch, which takes seconds

        measure_on = choose_device(options.device)
    for wanted in options.datasets:
        dataset = planning.open_dataset(workspace, wanted)
        fingerprint = pipeline.extract(workspace, dataset, threads=DEFAULT_THREADS, clean=False)
        path = pipeline.plan_path(workspace, dataset.spec.name, asked.plans_name)
        plain = asked == pipeline.PlanOptions(plans_name=asked.plans_name) and not options.measure
        only_show = (options.explain or options.configurations) and path.is_file() and plain
        if only_show:
            plan = pipeline.open_plan(workspace, dataset.spec.name, asked.plans_name)
        else:
            with held(path.parent, name=asked.plans_name):
                plan = pipeline.plan(workspace, dataset, fingerprint, asked, measure_on=measure_on)
        for name in options.configurations:
            plan = pipeline.resolve(workspace, plan, name)
        planning.print_plan(plan, explain=options.explain, names=options.configurations)
        if not only_show:
            planning.print_time_without_gpu(plan, dataset.spec)
        print(f"{'Read' if only_show else 'Wrote'} {path}")
        if not only_show:
            planning.print_training(dataset, plan, planning.Preprocessing(), preprocessed=False)
