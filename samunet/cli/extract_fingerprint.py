"""samunet_extract_fingerprint: measure datasets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from samunet.cli import planning
from samunet.cli.common import make_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_extract_fingerprint",
        "Measure spacings, shapes, intensities and class sizes of a dataset of nnUNet_raw.",
        "Next: samunet_plan_experiment -d DATASET --explain",
    )
    planning.add_dataset(parser)
    planning.add_fingerprint_options(parser, "-np")
    planning.add_output_options(parser)
    return run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> None:
    from samunet import pipeline
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    for wanted in arguments.d:
        dataset, _ = planning.open_and_measure(workspace, wanted, arguments)
        print(
            f"Measured {len(dataset.cases)} cases: "
            f"{workspace.preprocessed / dataset.spec.name / pipeline.FINGERPRINT_FILE}"
        )
