"""What a folder of images and labels would become: cases, channels, structures and a free number, read from names and
from the files themselves.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from samunet.core.labels import BACKGROUND_NAME, parse_labels
from samunet.core.names import LABEL, is_name, words_in
from samunet.core.units import counted
from samunet.core.workspace import Workspace
from samunet.errors import MOST_NAMES, ConfigError, DatasetError, SamunetError
from samunet.imageio import reader_of_image
from samunet.imageio.natural import NaturalImage2DIO
from samunet.imageio.nifti import is_nifti
from samunet.importing.dataset import NONE, FoundCase, common_ending
from samunet.importing.layouts import described, from_bids, from_datalist, from_table
from samunet.importing.matching import Matches, match_files
from samunet.importing.repair import Repairs
from samunet.importing.structures import (
    BY_MASKS,
    Overlap,
    labels_of_masks,
    lines_of_masks,
    refuse_overlaps,
    structures_of,
    unite_masks,
)
from samunet.machine.progress import each

FIRST_FREE = 11  # 1 to 10 are the Medical Segmentation Decathlon's
FULL = 255  # foreground of pictures of masks
MOST_GREYS = 16  # values beside 0 where 255 is one; more are the smoothed edges of a picture
MOST_CLASSES = 200  # more are numbers of objects
CT_MINIMUM = -500  # Hounsfield units: air has -1000, and values of no other common image are that low
CT_WORDS = ("ct", "cta", "cect", "ncct", "cbct")


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A dataset that a folder would become."""

    folder: Path
    name: str
    """DatasetXXX_Name."""
    cases: Sequence[FoundCase]
    ending: str
    """Of the copies."""
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    """Names and values in the copies, background left out."""
    values: tuple[int, ...]
    """Those that the label files hold."""
    label_values: Mapping[int, int]
    """Value in a label file to the one in its copy, where they differ."""
    reasons: Mapping[str, str]
    """Why channels and labels are what they are."""
    left_out: Mapping[str, tuple[Path, ...]]
    """Files that become nothing, by the reason."""
    overlaps: Sequence[Overlap] = ()
    """Voxels that masks of structures share."""

    def __post_init__(self) -> None:
        parse_labels({BACKGROUND_NAME: 0, **self.labels})
        copied = {self.label_values.get(value, value) for value in self.values}
        unnamed = sorted(copied - {0, *self.labels.values()})
        if unnamed:
            raise ConfigError(
                f"The copies of the label files would hold {', '.join(map(str, unnamed))}, which no label names; name "
                f"every value (--labels A=1 B=2), or give several one (--map_labels {unnamed[0]}=1)."
            )

    @property
    def held(self) -> str:
        """What the label files say of structures."""
        if any(case.masks for case in self.cases):
            return BY_MASKS
        return f"the files hold {', '.join(map(str, self.values))}"

    def lines(self) -> list[str]:
        """Return the proposal as lines for people."""
        training = [case for case in self.cases if case.training]
        channels = ", ".join(f"{index:04d} {name}" for index, name in enumerate(self.channels))
        labels = ", ".join(f"{value} {name}" for name, value in self.labels.items())
        text = [f"{self.folder} would become {self.name}:"]
        text.append(f"  cases     {len(training)} with a label, {len(self.cases) - len(training)} without")
        text.append(f"  channels  {channels} ({self.reasons['channels']})")
        text.append(f"  labels    0 {BACKGROUND_NAME}, {labels} ({self.reasons['labels']})")
        if self.label_values:
            changes = ", ".join(f"{old} becomes {new}" for old, new in self.label_values.items())
            text.append(f"  changed   label values in the copies: {changes}")
        text += lines_of_masks([case.masks for case in training], self.overlaps)
        first, last = training[0], f"{len(self.channels) - 1:04d}"
        split = len(first.images) < len(self.channels) and is_nifti(first.images[0])
        for index, path in enumerate(first.images):
            copy = f"{first.identifier}_{index:04d}{self.ending}{f' to _{last}' if split else ''}"
            text.append(f"  e.g.      {self._short(path)} -> imagesTr/{copy}")
        more = ", ..." if len(first.references) > 1 else ""
        text.append(f"            {self._short(first.references[0])}{more} -> labelsTr/{first.identifier}{self.ending}")
        for reason, paths in self.left_out.items():
            names = ", ".join(map(self._short, paths[:MOST_NAMES]))
            more = ", ..." if len(paths) > MOST_NAMES else ""
            text.append(f"  left out  {counted(len(paths), 'file')} {reason}: {names}{more}")
        return text

    def _short(self, path: Path) -> str:
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)


def propose(
    folder: Path,
    workspace: Workspace,
    *,
    given: Mapping[str, int] | None = None,
    repairs: Repairs = NONE,
    threads: int,
    quiet: bool = False,
) -> Proposal:
    """Look at a folder, and say which dataset it would become. Reads every label and writes nothing.

    Args:
        given: structures and their values in the copies; masks of other structures are left out.
        repairs: of which `priority` and `copy_grid` say how masks are united.

    Raises:
        ConfigError: it lies in nnUNet_raw already; or a structure is named that has no mask.
        DatasetError: it holds no images with labels that belong together by their names, or label files that cannot be
            read or do not hold label values, or masks that cannot be united.
    """
    if not folder.is_dir():
        fault = "is no folder" if folder.exists() else "does not exist"
        raise DatasetError(f"{folder} {fault}; give a folder that holds images and labels.")
    folder = folder.resolve()
    if workspace.raw_folder is not None and folder.parent == workspace.raw_folder.resolve():
        raise ConfigError(f"{folder} is in nnUNet_raw already; look at it: samunet_check_dataset -d {folder.name}")
    named_channels, named_labels = described(folder / "dataset.json")
    matches, count = _with_equal_channels(_cases_in(folder))
    overlaps: list[Overlap] = []
    values: tuple[int, ...]
    if structures := structures_of([case.masks for case in matches.cases]):
        labels, label_values = (
            labels_of_masks(structures, given or {}, named_labels, repairs.priority),
            dict[int, int](),
        )
        values, label_reason = (0, *labels.values()), BY_MASKS
        matches = _with_masks_of(matches, labels)
        overlaps = _overlaps(matches.cases, labels, repairs, threads=threads, quiet=quiet)
    else:
        if repairs.priority:
            raise ConfigError(
                f"The cases in {folder} have one label file each, in which nothing overlaps; leave out --priority."
            )
        paths = [case.label for case in matches.cases if case.label is not None]
        found = each(_values_of, paths, threads=threads, title="Reading labels", quiet=quiet)
        values = tuple(sorted(set[int]().union(*found)))
        labels, label_values, label_reason = _labels(values, named_labels, matches.structure)
    cases = matches.cases
    if len(named_channels) == count:
        channels, channel_reason = named_channels, "as dataset.json names them"
    else:
        channels, channel_reason = _channels(folder, cases, matches.channels, count)
    return Proposal(
        folder=folder,
        name=_name(folder, workspace),
        cases=cases,
        ending=common_ending(cases),
        channels=channels,
        labels=labels,
        values=values,
        label_values=label_values,
        reasons={"channels": channel_reason, "labels": label_reason},
        left_out=matches.left_out,
        overlaps=overlaps,
    )


def _with_masks_of(matches: Matches, labels: Mapping[str, int]) -> Matches:
    """Leave out the masks of other structures; a case that has no more becomes one without a label."""
    others = tuple(path for case in matches.cases for name, path in case.masks.items() if name not in labels)
    cases = tuple(
        replace(case, masks={name: path for name, path in case.masks.items() if name in labels})
        for case in matches.cases
    )
    left_out = {"of structures that no label names": others} if others else {}
    return replace(matches, cases=cases, left_out={**matches.left_out, **left_out})


def _overlaps(
    cases: Sequence[FoundCase], labels: Mapping[str, int], repairs: Repairs, *, threads: int, quiet: bool
) -> list[Overlap]:
    """Unite the masks of every case as copying will; returns what they share where `repairs` say what lies on top."""
    united = each(
        lambda case: unite_masks(case.identifier, case.masks, case.images[0], labels, repairs).overlaps,
        [case for case in cases if case.masks],
        threads=threads,
        title="Reading masks",
        quiet=quiet,
    )
    overlaps = [overlap for found in united for overlap in found]
    refuse_overlaps(overlaps, repairs.priority)
    return overlaps


def _cases_in(folder: Path) -> Matches:
    """Read BIDS as such, any other folder by its names, and a MONAI list or table where those tell nothing."""
    if any(folder.glob("sub-*/**/anat")):
        with suppress(DatasetError):
            return _bids(folder)
    try:
        return match_files(folder)
    except DatasetError as error:
        for pattern, read in (("*.json", from_datalist), ("*.csv", from_table)):
            for path in sorted(folder.glob(pattern)):
                with suppress(SamunetError):  # any file may be there
                    cases = tuple(read(path))
                    if any(case.training for case in cases):
                        channels = tuple(map(str, range(len(cases[0].images))))
                        return Matches(cases=cases, channels=channels, structure="", left_out={})
        raise error


def _bids(folder: Path) -> Matches:
    """Find which suffixes of a BIDS dataset are images that every subject has, and which are labels."""
    names = {pattern: _suffixes(folder, pattern) for pattern in ("sub-*/**/anat/*", "**/*")}
    images = {name: count for name, count in names["sub-*/**/anat/*"].items() if not LABEL.search(name)}
    labels = {name: count for name, count in names["**/*"].items() if LABEL.search(name)}
    if not labels or not images:
        raise DatasetError(f"{folder} holds no images and labels in BIDS's layout.")
    channels = tuple(sorted(name for name, count in images.items() if count == max(images.values())))
    cases = tuple(from_bids(folder, channels, max(labels, key=lambda name: (name == "dseg", labels[name]))))
    if not any(case.training for case in cases):
        raise DatasetError(f"{folder} holds no label of an image in BIDS's layout.")
    return Matches(cases=cases, channels=channels, structure="", left_out={})


def _suffixes(folder: Path, pattern: str) -> Counter[str]:
    names = [path.name.split(".")[0] for path in folder.glob(f"{pattern}_*.nii*")]
    return Counter(name.rpartition("_")[2] for name in names if name.startswith("sub-"))


def _with_equal_channels(matches: Matches) -> tuple[Matches, int]:
    """Leave out cases that have another number of channels than most with labels; returns that number too."""
    counts = {
        case.identifier: sum(reader_of_image(path, None).peek(path).channels for path in case.images)
        for case in matches.cases
    }
    usual = Counter(counts[case.identifier] for case in matches.cases if case.training).most_common(1)[0][0]
    cases = tuple(case for case in matches.cases if counts[case.identifier] == usual)
    others = tuple(path for case in matches.cases if counts[case.identifier] != usual for path in case.images)
    left_out = {f"of cases with another number of channels than {usual}": others} if others else {}
    return replace(matches, cases=cases, left_out={**matches.left_out, **left_out}), usual


def _values_of(path: Path) -> set[int]:
    return set(np.unique(reader_of_image(path, None).read_label(path)[0]).tolist())


def _labels(
    values: Sequence[int], named: Mapping[str, int], structure: str
) -> tuple[dict[str, int], dict[int, int], str]:
    """Return names with values from 1 up, which value in a file becomes which, and the reason."""
    foreground = [value for value in values if value]
    if not foreground or foreground[0] < 0:
        what = "nothing but 0" if not foreground else f"values down to {foreground[0]}"
        raise DatasetError(f"The label files hold {what}; structures need values from 1 up.")
    if set(foreground) <= set(named.values()):
        return {name: value for name, value in named.items() if value}, {}, "as dataset.json names them"
    if len(foreground) > MOST_CLASSES or (FULL in foreground and len(foreground) > MOST_GREYS):
        raise DatasetError(
            f"The label files hold {len(foreground)} values beside 0, up to {foreground[-1]}; expected one value for "
            "each structure. Write pictures of masks with 0 and 255 only, and all objects of a kind with one value."
        )
    reason = f"the files hold {', '.join(map(str, values))}; nothing names them"
    if len(foreground) == 1:
        names = [structure if is_name(structure) and not structure.isdecimal() else "foreground"]
    else:
        names = [f"class_{index}" for index in range(1, len(foreground) + 1)]
    changed = {value: index for index, value in enumerate(foreground, 1) if value != index}
    return {name: index for index, name in enumerate(names, 1)}, changed, reason


def _channels(
    folder: Path, cases: Sequence[FoundCase], names: Sequence[str], count: int
) -> tuple[tuple[str, ...], str]:
    """Return a name for each channel, and the reason."""
    if len(names) == count and all(name and not name.isdecimal() for name in names):
        return tuple("CT" if name.lower() in CT_WORDS else name for name in names), "from the names of the files"
    first, *others = cases[0].images
    if count == 3 and not others and first.suffix.lower() in NaturalImage2DIO.endings:
        return ("R", "G", "B"), "colors"
    if count > 1:
        return tuple(f"image_{index}" for index in range(count)), "nothing tells what they are"
    relative = first.relative_to(folder) if first.is_relative_to(folder) else first
    if {word.lower() for word in words_in(f"{folder.name}_{relative}")} & set(CT_WORDS):
        return ("CT",), "from the names of the files"
    lowest = min(float(reader_of_image(case.images[0], None).read_image(case.images).array.min()) for case in cases[:3])
    if lowest <= CT_MINIMUM:
        return ("CT",), f"values down to {lowest:.0f}, as Hounsfield units have"
    return ("image",), "nothing tells what it is; if it is CT, say --channels CT"


def _name(folder: Path, workspace: Workspace) -> str:
    """Return DatasetXXX_Name after the folder, with its own number where that is free."""
    number, text = re.fullmatch(r"(?:(?:Task|Dataset)(\d+)_)?(.*)", folder.name, re.DOTALL).groups()  # type: ignore[union-attr]
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = "".join(word[:1].upper() + word[1:] for word in words_in(ascii_text)) or "Mine"
    own = int(number or 0)
    identifier = own if own and workspace.free_id(own) == own else workspace.free_id(FIRST_FREE)
    return f"Dataset{identifier:03d}_{name}"
