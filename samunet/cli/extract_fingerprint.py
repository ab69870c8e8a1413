"""Measure spacings, shapes, intensities and class sizes of a dataset of nnUNet_raw.

Next: samunet_plan_experiment -d DATASET --explain
"""

from __future__ import annotations

from dataclasses import dataclass

from samunet.cli import planning
from samunet.cli.common import DEFAULT_THREADS, Threads, command, print_next
from samunet.core.units import counted


@dataclass(frozen=True, kw_only=True)
class Options(planning.Common):
    threads: Threads = DEFAULT_THREADS
    measuring: planning.Measuring


@command("samunet_extract_fingerprint", __doc__, Options)
def main(options: Options) -> None:
    from samunet import pipeline
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    for wanted in options.datasets:
        dataset, _ = planning.open_and_measure(
            workspace, wanted, options.measuring, threads=options.threads, quiet=options.quiet
        )
        print(
            f"Measured {counted(len(dataset.cases), 'case')}: "
            f"{workspace.preprocessed / dataset.spec.name / pipeline.FINGERPRINT_FILE}"
        )
        print_next("samunet_plan_experiment", "-d", wanted, "--explain")
