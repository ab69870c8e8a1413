"""samunet_apply_postprocessing: keep only largest components, as was determined."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samunet.cli.common import make_parser, run
from samunet.cli.determine_postprocessing import add_options, dataset_json


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_apply_postprocessing",
        "Apply what samunet_determine_postprocessing found to a folder of segmentations.",
    )
    parser.add_argument("-i", type=Path, required=True, metavar="FOLDER", help="segmentations")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="folder for the postprocessed ones")
    parser.add_argument(
        "-pp_file",
        "-pp_pkl_file",
        dest="pp_file",
        type=Path,
        required=True,
        metavar="FILE",
        help="postprocessing.json; never a pickle",
    )
    add_options(parser)
    return run(parser, _apply, argv)


def _apply(arguments: argparse.Namespace) -> None:
    from samunet.core.dataset import read_dataset_json
    from samunet.evaluation.postprocessing import apply_to_folder, load_postprocessing
    from samunet.imageio import reader_of_segmentations

    found = load_postprocessing(arguments.pp_file)
    dataset = read_dataset_json(dataset_json(arguments.i, arguments.dataset_json))
    reader = reader_of_segmentations(arguments.i, dataset)
    names = apply_to_folder(
        found, arguments.i, arguments.o, file_ending=dataset.file_ending, reader=reader, threads=arguments.np
    )
    print(f"Wrote {len(names)} segmentations to {arguments.o}")
