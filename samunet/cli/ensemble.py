"""samunet_ensemble: average the probabilities of several models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samunet.cli.common import DEFAULT_THREADS, make_parser, run
from samunet.core.units import counted


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_ensemble",
        (
            "Average the probabilities of several prediction folders, of samunet's or nnU-Net's models, and write the "
            "segmentations."
        ),
        "Before: samunet_predict -i IMAGES -o FOLDER --save_probabilities, once per model",
    )
    parser.add_argument(
        "-i",
        type=Path,
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="prediction folders with <case>.npz; two or more",
    )
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="folder for the segmentations")
    parser.add_argument(
        "-np", type=int, default=min(2, DEFAULT_THREADS), metavar="N", help="cases at a time (default: %(default)s)"
    )
    parser.add_argument("--save_npz", action="store_true", help="also write the mean probabilities")
    return run(parser, _ensemble, argv)


def _ensemble(arguments: argparse.Namespace) -> None:
    from samunet.inference.ensemble import ensemble

    cases = ensemble(arguments.i, arguments.o, threads=arguments.np, save_probabilities=arguments.save_npz)
    print(f"Wrote {counted(len(cases), 'segmentation')} to {arguments.o}")
