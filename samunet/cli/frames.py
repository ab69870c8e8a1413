"""samunet_frames: write predictions of videos as frames."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samunet.cli.common import make_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_frames",
        "Write predicted volumes of videos, brought in by 'samunet_import video', as one PNG per frame.",
    )
    parser.add_argument("-i", type=Path, required=True, metavar="FOLDER", help="predictions, one volume per clip")
    parser.add_argument(
        "--frames",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="frames that the volumes were made from, one folder per clip",
    )
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="folder for the frames")
    return run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> None:
    from samunet.core.lock import held
    from samunet.importing.video import write_frames

    with held(arguments.o):
        print(f"Wrote {write_frames(arguments.i, arguments.frames, arguments.o)} frames to {arguments.o}")
