"""Copy images and labels into nnUNet_raw under nnU-Net's names. What is copied stays as it is.

Next: samunet_check_dataset -d DATASET
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from samunet.cli.common import DEFAULT_THREADS, Actions, Quiet, Threads, pairs, print_next, run_action

if TYPE_CHECKING:
    from samunet.importing.dataset import FoundCase


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What every layout takes, but for the channels, which videos know themselves."""

    name: Annotated[str, "-d NAME"]
    """Name to give: DatasetXXX_Name."""
    labels: Annotated[tuple[str, ...], "--labels NAME=VALUE"]
    """Structures, e.g. liver=1 tumor=2."""
    map_labels: Annotated[tuple[str, ...], "--map_labels OLD=NEW"] = ()
    """Change label values in the copies, e.g. 255=1."""
    copy_grid: bool = False
    """Give the copies of labels the grid (origin, spacing, direction) of their image."""
    orthonormalize: bool = False
    """Turn NIfTI axes in the copies to the nearest that meet at right angles."""
    threads: Threads = DEFAULT_THREADS
    quiet: Quiet = False

    def cases(self, scratch: Path) -> Sequence[FoundCase]:
        """Find the cases; what has to be made of them first goes into a folder that is removed afterwards."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Images(Layout):
    """What every layout of images takes."""

    channels: Annotated[tuple[str, ...], "--channels NAME"]
    """In order; CT is normalized as CT, others as MR."""


@dataclass(frozen=True, kw_only=True)
class Folders(Images):
    """One folder of images per channel and one of labels, matched by file name."""

    images: Annotated[tuple[Path, ...], "-i FOLDER"]
    """Images, one folder per channel in their order."""
    label_folder: Annotated[Path, "-l FOLDER"]
    """Labels; an image without one becomes a test case."""

    def cases(self, scratch: Path) -> Sequence[FoundCase]:
        from samunet.importing.layouts import from_folders

        return from_folders(self.images, self.label_folder)


@dataclass(frozen=True, kw_only=True)
class Table(Images):
    """A table with the columns case, image (or image_0, image_1, ...) and label."""

    table: Annotated[Path, "-i FILE"]
    """The table; paths are relative to it."""

    def cases(self, scratch: Path) -> Sequence[FoundCase]:
        from samunet.importing.layouts import from_table

        return from_table(self.table)


@dataclass(frozen=True, kw_only=True)
class Datalist(Images):
    """A MONAI datalist."""

    datalist: Annotated[Path, "-i FILE"]
    """The list."""
    root: Annotated[Path | None, "--root FOLDER"] = None
    """Folder the files are relative to (default: the list's own)."""

    def cases(self, scratch: Path) -> Sequence[FoundCase]:
        from samunet.importing.layouts import from_datalist

        return from_datalist(self.datalist, self.root)


@dataclass(frozen=True, kw_only=True)
class Bids(Images):
    """A BIDS dataset with labels among its derivatives."""

    folder: Annotated[Path, "-i FOLDER"]
    """The dataset."""
    suffixes: Annotated[tuple[str, ...], "--suffixes SUFFIX"]
    """Of one image per channel, e.g. T1w FLAIR."""
    label_suffix: Annotated[str, "--label_suffix SUFFIX"] = "dseg"
    """Of the labels."""

    def cases(self, scratch: Path) -> Sequence[FoundCase]:
        from samunet.importing.layouts import from_bids

        return from_bids(self.folder, self.suffixes, self.label_suffix)


@dataclass(frozen=True, kw_only=True)
class Video(Layout):
    """Folders of frames, one per clip, which become volumes of time, height and width."""

    frames: Annotated[Path, "-i FOLDER"]
    """Frames, one folder per clip, ordered by the numbers in their names."""
    masks: Annotated[Path, "-l FOLDER"]
    """Masks, one folder per clip, files named as the frames."""

    def cases(self, scratch: Path) -> Sequence[FoundCase]:
        from samunet.importing.video import stack_clips

        return stack_clips(self.frames, self.masks, scratch)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    layouts = {"folders": Folders, "csv": Table, "datalist": Datalist, "bids": Bids, "video": Video}
    actions: Actions = {name: (layout, _import) for name, layout in layouts.items()}
    return run_action("samunet_import", __doc__, actions, argv, metavar="LAYOUT")


def _import(options: Layout) -> None:
    from samunet.core.codec import read_json
    from samunet.core.workspace import workspace_from_environment
    from samunet.importing.dataset import REPORT, write_dataset
    from samunet.importing.repair import Repairs
    from samunet.importing.video import CHANNELS

    raw = workspace_from_environment().raw
    labels = pairs("--labels needs NAME=VALUE with a whole number", options.labels, r"(.+)=(\d+)", "liver=1")
    mapping = pairs("--map_labels needs OLD=NEW with whole numbers", options.map_labels, r"(\d+)=(\d+)", "255=1")
    repairs = Repairs(
        label_values={int(old): new for old, new in mapping},
        orthonormalize=options.orthonormalize,
        copy_grid=options.copy_grid,
    )
    with tempfile.TemporaryDirectory() as scratch:
        cases = options.cases(Path(scratch))
        folder = write_dataset(
            raw,
            options.name,
            cases,
            channels=options.channels if isinstance(options, Images) else CHANNELS,
            labels={"background": 0, **dict(labels)},
            repairs=repairs,
            threads=options.threads,
            quiet=options.quiet,
        )
    if repairs:
        print(f"Changed {len(read_json(folder / REPORT))} things in copies; {folder / REPORT} lists them")
    print(f"Wrote {len(cases)} cases, {sum(case.training for case in cases)} of them with a label, to {folder}")
    print_next("samunet_check_dataset", "-d", folder.name)
