"""samunet_plot_overlay_pngs: a picture of every training case with its reference."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samunet.cli.common import DEFAULT_THREADS, make_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_plot_overlay_pngs",
        "Draw the slice with the most classes of every training case, image and reference side by side, from the raw "
        "files.",
        "Next: look through the folder; a label that lies beside its structure is seen at once.",
    )
    parser.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="folder for the pictures")
    parser.add_argument("-channel_idx", type=int, default=0, metavar="N", help="channel to draw (default: %(default)s)")
    parser.add_argument(
        "--use_raw", action="store_true", help="accepted as nnU-Net's command takes it; raw files are drawn anyway"
    )
    parser.add_argument(
        "-np", type=int, default=DEFAULT_THREADS, metavar="N", help="cases at a time (default: %(default)s)"
    )
    return run(parser, _plot, argv)


def _plot(arguments: argparse.Namespace) -> None:
    from samunet.comparison.report import draw_training_cases
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    dataset = workspace.dataset_name(arguments.d)
    cases = draw_training_cases(workspace, dataset, arguments.o, channel=arguments.channel_idx, threads=arguments.np)
    print(f"Wrote {len(cases)} pictures to {arguments.o}")
