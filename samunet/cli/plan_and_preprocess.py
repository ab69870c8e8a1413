"""Measure a dataset of nnUNet_raw, decide spacing, slab depth, patch and encoder grid, and preprocess the training
cases.

Next: samunet_train DATASET 3d_adapter 0   (2d_adapter for 2D images)
Why the plan is as it is: samunet_plan_experiment -d DATASET --explain
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from samunet.cli import planning
from samunet.cli.common import DEFAULT_THREADS, command


@dataclass(frozen=True, kw_only=True)
class Options(planning.Common):
    verbose: bool = False
    """Also print the reason of every decision."""
    threads: Annotated[int, "-npfp N"] = DEFAULT_THREADS
    """Cases measured at a time."""
    no_pp: bool = False
    """Stop after planning."""
    measuring: planning.Measuring
    plan: planning.Planning
    preprocessing: planning.Preprocessing


@command("samunet_plan_and_preprocess", __doc__, Options)
def main(options: Options) -> None:
    from samunet import pipeline
    from samunet.core.lock import held
    from samunet.core.workspace import workspace_from_environment

    asked = options.plan.settled()
    workspace = workspace_from_environment()
    _ = workspace.raw, workspace.preprocessed  # complain before work begins
    for wanted in options.datasets:
        with held(workspace.preprocessed / workspace.dataset_name(wanted), name=asked.plans_name):
            dataset, fingerprint = planning.open_and_measure(
                workspace,
                wanted,
                options.measuring,
                threads=options.threads,
                quiet=options.quiet,
                add_new_cases=options.preprocessing.add_new_cases,
            )
            plan = pipeline.plan(workspace, dataset, fingerprint, asked)
            planning.print_plan(plan, explain=options.verbose)
            planning.print_time_without_gpu(plan, dataset.spec)
            if not options.no_pp:
                planning.preprocess_configurations(workspace, dataset, plan, options.preprocessing, quiet=options.quiet)
        planning.print_training(dataset, plan, options.preprocessing, preprocessed=not options.no_pp)
