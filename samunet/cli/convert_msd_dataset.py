"""samunet_convert_MSD_dataset: bring a task of the Medical Segmentation Decathlon into nnUNet_raw."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samunet.cli.common import DEFAULT_THREADS, make_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_convert_MSD_dataset",
        "Copy a task of the Medical Segmentation Decathlon into nnUNet_raw: one file per channel, labels by name. The "
        "task stays as it is.",
        "Next: samunet_check_dataset -d DATASET",
    )
    parser.add_argument(
        "-i", type=Path, required=True, metavar="FOLDER", help="TaskXX_Name with dataset.json, imagesTr, labelsTr"
    )
    parser.add_argument("-overwrite_id", type=int, metavar="ID", help="dataset id to use instead of the task's number")
    parser.add_argument(
        "-np", type=int, default=DEFAULT_THREADS, metavar="N", help="cases copied at a time (default: %(default)s)"
    )
    parser.add_argument("--no_pbar", action="store_true", help="no progress bar")
    return run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> None:
    from samunet.core.workspace import workspace_from_environment
    from samunet.importing.dataset import write_dataset
    from samunet.importing.layouts import from_msd

    raw = workspace_from_environment().raw
    name, cases, channels, labels = from_msd(arguments.i)
    if arguments.overwrite_id is not None:
        name = f"Dataset{arguments.overwrite_id:03d}_{name.split('_', 1)[1]}"
    folder = write_dataset(
        raw, name, cases, channels=channels, labels=labels, threads=arguments.np, quiet=arguments.no_pbar
    )
    print(f"Wrote {len(cases)} cases to {folder}")
