"""samunet_import: bring images and labels of other layouts into nnUNet_raw."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samunet.cli.common import DEFAULT_THREADS, make_parser, run

if TYPE_CHECKING:
    from samunet.importing.dataset import FoundCase


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_import",
        "Copy images and labels into nnUNet_raw under nnU-Net's names. What is copied stays as it is.",
        "Next: samunet_check_dataset -d DATASET",
    )
    layouts = parser.add_subparsers(dest="layout", required=True, metavar="LAYOUT")
    folders = layouts.add_parser(
        "folders", help="one folder of images per channel and one of labels, matched by file name"
    )
    folders.add_argument(
        "-i",
        type=Path,
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="images, one folder per channel in their order",
    )
    folders.add_argument(
        "-l", type=Path, required=True, metavar="FOLDER", help="labels; an image without one becomes a test case"
    )
    table = layouts.add_parser("csv", help="a table with the columns case, image (or image_0, image_1, ...) and label")
    table.add_argument("-i", type=Path, required=True, metavar="FILE", help="the table; paths are relative to it")
    datalist = layouts.add_parser("datalist", help="a MONAI datalist")
    datalist.add_argument("-i", type=Path, required=True, metavar="FILE", help="the list")
    datalist.add_argument(
        "--root", type=Path, metavar="FOLDER", help="folder the files are relative to (default: the list's own)"
    )
    bids = layouts.add_parser("bids", help="a BIDS dataset with labels among its derivatives")
    bids.add_argument("-i", type=Path, required=True, metavar="FOLDER", help="the dataset")
    bids.add_argument(
        "--suffixes", nargs="+", required=True, metavar="SUFFIX", help="of one image per channel, e.g. T1w FLAIR"
    )
    bids.add_argument("--label_suffix", default="dseg", metavar="SUFFIX", help="of the labels (default: %(default)s)")
    video = layouts.add_parser(
        "video", help="folders of frames, one per clip, which become volumes of time, height and width"
    )
    video.add_argument(
        "-i",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="frames, one folder per clip, ordered by the numbers in their names",
    )
    video.add_argument(
        "-l", type=Path, required=True, metavar="FOLDER", help="masks, one folder per clip, files named as the frames"
    )
    for layout in (folders, table, datalist, bids, video):
        layout.add_argument("-d", required=True, metavar="NAME", help="name to give: DatasetXXX_Name")
        if layout is not video:
            layout.add_argument(
                "--channels",
                nargs="+",
                required=True,
                metavar="NAME",
                help="in order; CT is normalized as CT, others as MR",
            )
        layout.add_argument(
            "--labels", nargs="+", required=True, metavar="NAME=VALUE", help="structures, e.g. liver=1 tumor=2"
        )
        layout.add_argument(
            "--map_labels",
            nargs="+",
            default=[],
            metavar="OLD=NEW",
            help="change label values in the copies, e.g. 255=1",
        )
        layout.add_argument(
            "--copy_grid",
            action="store_true",
            help="give the copies of labels the grid (origin, spacing, direction) of their image",
        )
        layout.add_argument(
            "--orthonormalize",
            action="store_true",
            help="turn NIfTI axes in the copies to the nearest that meet at right angles",
        )
        layout.add_argument(
            "-np", type=int, default=DEFAULT_THREADS, metavar="N", help="cases copied at a time (default: %(default)s)"
        )
        layout.add_argument("--no_pbar", action="store_true", help="no progress bar")
    return run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> None:
    from samunet.core.codec import read_json
    from samunet.core.workspace import workspace_from_environment
    from samunet.importing.dataset import REPORT, write_dataset
    from samunet.importing.repair import Repairs
    from samunet.importing.video import CHANNELS

    raw = workspace_from_environment().raw
    labels = {
        "background": 0,
        **dict(_pairs("--labels needs NAME=VALUE with a whole number", arguments.labels, r"(.+)=(\d+)", "liver=1")),
    }
    mapping = _pairs("--map_labels needs OLD=NEW with whole numbers", arguments.map_labels, r"(\d+)=(\d+)", "255=1")
    repairs = Repairs(
        label_values={int(old): new for old, new in mapping},
        orthonormalize=arguments.orthonormalize,
        copy_grid=arguments.copy_grid,
    )
    channels = CHANNELS if arguments.layout == "video" else arguments.channels
    with tempfile.TemporaryDirectory() as scratch:
        cases = _cases(arguments, Path(scratch))
        settings = {
            "channels": channels,
            "labels": labels,
            "repairs": repairs,
            "threads": arguments.np,
            "quiet": arguments.no_pbar,
        }
        folder = write_dataset(raw, arguments.d, cases, **settings)
    if repairs:
        print(f"Changed {len(read_json(folder / REPORT))} things in copies; {folder / REPORT} lists them")
    print(f"Wrote {len(cases)} cases, {sum(case.training for case in cases)} of them with a label, to {folder}")


def _cases(arguments: argparse.Namespace, scratch: Path) -> list[FoundCase]:
    from samunet.importing import layouts, video

    if arguments.layout == "video":
        return video.stack_clips(arguments.i, arguments.l, scratch)
    if arguments.layout == "folders":
        return layouts.from_folders(arguments.i, arguments.l)
    if arguments.layout == "csv":
        return layouts.from_table(arguments.i)
    if arguments.layout == "datalist":
        return layouts.from_datalist(arguments.i, arguments.root)
    return layouts.from_bids(arguments.i, arguments.suffixes, arguments.label_suffix)


def _pairs(flag: str, texts: Sequence[str], pattern: str, example: str) -> list[tuple[str, int]]:
    """Split NAME=NUMBER texts that fit the pattern."""
    from samunet.errors import ConfigError

    matches = [re.fullmatch(pattern, text) for text in texts]
    if None in matches:
        raise ConfigError(f"{flag}, e.g. {example}; got '{texts[matches.index(None)]}'.")
    return [(match[1], int(match[2])) for match in matches if match]
