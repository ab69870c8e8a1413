"""Copy images and labels into nnUNet_raw under nnU-Net's names. What is copied stays as it is.

samunet_import FOLDER looks at any folder, proposes a dataset, and asks; a folder that is named as a layout is ./NAME.
samunet_import FOLDER --help and samunet_import LAYOUT --help show the options.
Next: samunet_check_dataset -d DATASET
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from samunet.cli.common import DEFAULT_THREADS, Actions, Quiet, Threads, agrees, pairs, print_next, run_action
from samunet.core.units import counted

if TYPE_CHECKING:
    from samunet.importing.dataset import FoundCase
    from samunet.importing.repair import Repairs

ANY = "any"


@dataclass(frozen=True, kw_only=True)
class Copying:
    """How files are copied."""

    map_labels: Annotated[tuple[str, ...], "--map_labels OLD=NEW"] = ()
    """Change label values in the copies, e.g. 255=1."""
    copy_grid: bool = False
    """Give the copies of labels the grid (origin, spacing, direction) of their image."""
    orthonormalize: bool = False
    """Turn NIfTI axes in the copies to the nearest that meet at right angles."""
    threads: Threads = DEFAULT_THREADS
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class AnyFolder(Copying):
    """Any folder of images and labels; shows what it would become, and asks."""

    folder: Annotated[Path, "FOLDER"]
    """Folder that holds images and labels, in any folders below it."""
    name: Annotated[str | None, "-d NAME"] = None
    """Name to give: DatasetXXX_Name (default: after the folder, with a free number)."""
    channels: Annotated[tuple[str, ...], "--channels NAME"] = ()
    """In order; CT is normalized as CT, others as MR (default: what is proposed)."""
    labels: Annotated[tuple[str, ...], "--labels NAME=VALUE"] = ()
    """Structures with their values in the copies (default: what is proposed); of masks, those to keep."""
    priority: Annotated[tuple[str, ...], "--priority NAME"] = ()
    """Structures whose masks may overlap, the one on top last."""
    yes: bool = False
    """Copy without asking."""


@dataclass(frozen=True, kw_only=True)
class Layout(Copying):
    """What every layout takes, but for the channels, which videos know themselves."""

    name: Annotated[str, "-d NAME"]
    """Name to give: DatasetXXX_Name."""
    labels: Annotated[tuple[str, ...], "--labels NAME=VALUE"]
    """Structures, e.g. liver=1 tumor=2."""

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
    words = list(sys.argv[1:] if argv is None else argv)
    layouts = {"folders": Folders, "csv": Table, "datalist": Datalist, "bids": Bids, "video": Video}
    actions: Actions = {ANY: (AnyFolder, _propose), **{name: (layout, _import) for name, layout in layouts.items()}}
    if words and not words[0].startswith("-") and words[0] not in actions:
        words.insert(0, ANY)
    return run_action("samunet_import", __doc__, actions, words, metavar="FOLDER | LAYOUT")


def _propose(options: AnyFolder) -> None:
    from samunet.core.workspace import workspace_from_environment
    from samunet.errors import ConfigError
    from samunet.importing.dataset import refuse_taken
    from samunet.importing.proposal import propose
    from samunet.importing.repair import Repairs

    workspace = workspace_from_environment()
    raw = workspace.raw  # where it is not set, that is said before all labels are read
    if options.name is not None:
        refuse_taken(raw / options.name)
    labels = dict(_labels(options.labels))
    repairs = Repairs(priority=options.priority, copy_grid=options.copy_grid, orthonormalize=options.orthonormalize)
    proposal = propose(
        options.folder, workspace, given=labels, repairs=repairs, threads=options.threads, quiet=options.quiet
    )
    proposal = replace(
        proposal,
        name=options.name or proposal.name,
        channels=options.channels or proposal.channels,
        labels=labels or proposal.labels,
        label_values=dict(_values(options.map_labels)) or proposal.label_values,
        reasons={
            **proposal.reasons,
            **({"channels": "as given"} if options.channels else {}),
            **({"labels": f"as given; {proposal.held}"} if options.labels else {}),
        },
    )
    print("\n".join(proposal.lines()))
    names = [f"{name}={value}" for name, value in proposal.labels.items()]
    words = [str(options.folder), "-d", proposal.name, "--channels", *proposal.channels, "--labels", *names]
    if options.map_labels:
        words += ["--map_labels", *options.map_labels]
    if options.priority:
        words += ["--priority", *options.priority]
    if not (options.name and options.channels and options.labels):
        print(f"Other names: samunet_import {shlex.join(words)}")
    if not agrees(options.yes, f"Copy {counted(len(proposal.cases), 'case')} to {raw}?"):
        raise ConfigError("Nothing was copied; add --yes to copy, or correct the names in the line above.")
    repairs = replace(repairs, label_values=proposal.label_values)
    _write(options, proposal.cases, proposal.name, proposal.channels, proposal.labels, repairs)


def _import(options: Layout) -> None:
    from samunet.importing.repair import Repairs
    from samunet.importing.video import CHANNELS

    labels, values = dict(_labels(options.labels)), dict(_values(options.map_labels))
    with tempfile.TemporaryDirectory() as scratch:
        cases = options.cases(Path(scratch))
        channels = options.channels if isinstance(options, Images) else CHANNELS
        repairs = Repairs(label_values=values, orthonormalize=options.orthonormalize, copy_grid=options.copy_grid)
        _write(options, cases, options.name, channels, labels, repairs)


def _write(
    options: Copying,
    cases: Sequence[FoundCase],
    name: str,
    channels: Sequence[str],
    labels: Mapping[str, int],
    repairs: Repairs,
) -> None:
    from samunet.core.codec import read_json
    from samunet.core.workspace import workspace_from_environment
    from samunet.importing.dataset import REPORT, write_dataset

    folder = write_dataset(
        workspace_from_environment().raw,
        name,
        cases,
        channels=channels,
        labels={"background": 0, **labels},
        repairs=repairs,
        threads=options.threads,
        quiet=options.quiet,
    )
    if repairs:
        print(f"Made {counted(len(read_json(folder / REPORT)), 'change')} in copies; {folder / REPORT} lists them")
    training = sum(case.training for case in cases)
    print(f"Wrote {counted(len(cases), 'case')}, {training} of them with a label, to {folder}")
    print_next("samunet_check_dataset", "-d", folder.name)


def _labels(texts: Sequence[str]) -> list[tuple[str, int]]:
    return pairs("--labels needs NAME=VALUE with a whole number", texts, r"(.+)=(\d+)", "liver=1")


def _values(texts: Sequence[str]) -> list[tuple[int, int]]:
    mapping = pairs("--map_labels needs OLD=NEW with whole numbers", texts, r"(\d+)=(\d+)", "255=1")
    return [(int(old), new) for old, new in mapping]
