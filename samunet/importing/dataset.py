"""Write a dataset of nnUNet_raw from cases that were found in another layout."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

from samunet.core import parts
from samunet.core.codec import read_json, write_json
from samunet.core.labels import parse_labels
from samunet.core.lock import held
from samunet.core.names import check_case_name
from samunet.core.units import counted
from samunet.errors import ConfigError, DatasetError
from samunet.imageio import itk_pool, output_ending, reader_for, reader_of_image
from samunet.imageio.natural import JPEG, NaturalImage2DIO
from samunet.imageio.nifti import is_nifti
from samunet.imageio.tiff3d import Tiff3DIO, spacing_file
from samunet.importing.repair import Repairs, repair_file, write_label
from samunet.importing.structures import refuse_overlaps, unite_masks
from samunet.machine.progress import each

DATASET_NAME = re.compile(r"Dataset(\d{3,})_[A-Za-z0-9]+")
REPORT = "repairs.json"
NONE = Repairs()
SERIES_ENDING = ".nii.gz"  # what DICOM series become


@dataclass(frozen=True, kw_only=True)
class FoundCase:
    """A case in its own layout."""

    identifier: str
    images: tuple[Path, ...]
    """One file per channel, or one file with all channels."""
    label: Path | None
    """None for a case without reference, which becomes a test case, and for one with masks."""
    masks: Mapping[str, Path] = field(default_factory=dict)
    """In place of a label, structures and a file for each, which become one label map."""

    def __post_init__(self) -> None:
        check_case_name(self.identifier, self.images[0])

    @property
    def references(self) -> tuple[Path, ...]:
        """The label, or the masks."""
        return (self.label,) if self.label is not None else tuple(self.masks.values())

    @property
    def training(self) -> bool:
        return bool(self.references)


def write_dataset(
    raw_folder: Path,
    name: str,
    cases: Sequence[FoundCase],
    *,
    channels: Sequence[str],
    labels: Mapping[str, object],
    repairs: Repairs = NONE,
    more: Mapping[str, object] | None = None,
    threads: int,
    quiet: bool = False,
) -> Path:
    """Copy cases to raw_folder/name under nnU-Net's names; NIfTI files of several channels become one file each.

    The folder appears when all of it is written, and not before.

    Args:
        name: DatasetXXX_Name.
        channels: names in order; they choose the normalization.
        labels: the `labels` of dataset.json, background included.
        repairs: applied to the copies; repairs.json beside them then says what was changed. `priority` also says which
            masks of structures may share voxels.
        more: further keys of dataset.json.

    Raises:
        ConfigError: the name is none of a dataset.
        DatasetError: the folder or another of that number exists, the labels are wrong, two cases have one name, the
            files differ in ending or number of channels, or masks cannot be united.
        InUseError: another command writes this dataset.
    """
    target = raw_folder / name
    refuse_taken(target)
    parse_labels(labels, (more or {}).get("regions_class_order"))
    ending = common_ending(cases)
    training = [case for case in cases if case.training]
    if not training:
        raise DatasetError(
            f"{name}: none of the {counted(len(cases), 'case')} found has a label, so there is nothing to train on."
        )
    refuse_repeated(name, cases)
    with held(raw_folder, name=name):
        refuse_taken(target)  # by a command that has ended since
        partial = raw_folder / parts.part_name()
        parts.begin_part(partial)
        try:
            with parts.naming(target):
                for part in ("imagesTr", "labelsTr", *(["imagesTs"] if len(training) < len(cases) else [])):
                    (partial / part).mkdir(parents=True)
                united = each(
                    lambda case: _write_case(partial, case, ending, len(channels), labels, repairs),
                    cases,
                    threads=threads,
                    title="Copying cases",
                    quiet=quiet,
                )
                description = {
                    "channel_names": {str(index): channel for index, channel in enumerate(channels)},
                    "labels": dict(labels),
                    "numTraining": len(training),
                    "file_ending": ending,
                    **(more or {}),
                }
                write_json(partial / "dataset.json", description)
                if repairs:
                    changes = _repair(partial, ending, repairs, threads=threads, quiet=quiet)
                    write_json(partial / REPORT, [*itertools.chain(*united), *changes])
                partial.rename(target)
        finally:
            parts.end_part(partial)
    return target


def _repair(folder: Path, ending: str, repairs: Repairs, *, threads: int, quiet: bool) -> list[dict[str, Any]]:
    """Repair every copy; returns what was changed in which file."""
    files = [path for path in sorted(folder.glob("*/*")) if path.name.endswith(ending)]
    reader = reader_for(ending, example=next(path for path in files if path.parent.name == "imagesTr"))

    def run(path: Path) -> list[dict[str, Any]]:
        labeled = path.parent.name == "labelsTr"
        image = folder / "imagesTr" / f"{path.name.removesuffix(ending)}_0000{ending}" if labeled else None
        changes = repair_file(path, reader, repairs, image=image)
        return [{"file": path.relative_to(folder).as_posix(), **change} for change in changes]

    return [
        change for changes in each(run, files, threads=threads, title="Repairing", quiet=quiet) for change in changes
    ]


def refuse_taken(target: Path) -> None:
    """Raise ConfigError for a folder not named DatasetXXX_Name, DatasetError where it or its number is taken."""
    match = DATASET_NAME.fullmatch(target.name)
    if match is None:
        raise ConfigError(
            f"'{target.name}' is no name of a dataset; expected DatasetXXX_Name with three digits or more, e.g. "
            "Dataset017_Liver."
        )
    if target.exists():
        raise DatasetError(f"{target} exists already; remove it, or give another name.")
    folders = sorted(target.parent.iterdir()) if target.parent.is_dir() else []
    taken = [
        folder.name
        for folder in folders
        if (other := DATASET_NAME.fullmatch(folder.name)) and int(other[1]) == int(match[1])
    ]
    if taken:
        raise DatasetError(f"The number {match[1]} belongs to {taken[0]} already; give another one.")


def refuse_repeated(name: str, cases: Sequence[FoundCase]) -> None:
    """Raise DatasetError where cases of a dataset have one name, in capitals or not: some file systems do not tell them
    apart.
    """
    counts = Counter(case.identifier.casefold() for case in cases)
    repeated = sorted(identifier for identifier, count in counts.items() if count > 1)
    if repeated:
        raise DatasetError(
            f"{name}: several cases have one name, first '{repeated[0]}' ({counted(len(repeated), 'name')} in all); "
            "rename the files."
        )


def identifier_of(text: str) -> str:
    """Turn a name into a case identifier: letters of any script, digits, '.', '-' and '_' only."""
    kept = "".join(
        character if character in ".-" or unicodedata.category(character)[0] in "LMN" else "_" for character in text
    )
    return re.sub("_+", "_", kept).strip("_") or "case"


def ending_of(path: Path) -> str:
    """Return the ending that an image's copy gets, its own but for JPEG; an empty string where no reader knows it."""
    return output_ending(path, "")


def common_ending(cases: Sequence[FoundCase]) -> str:
    """Return the one ending of all copies; raises DatasetError where files are absent or have several."""
    files = _files_of(cases)
    missing = [path for path in files if not path.exists()]
    if missing:
        raise DatasetError(
            f"{counted(len(missing), 'file')} cannot be found, first {missing[0]}; correct the list, or add the files."
        )
    return one_ending(cases)


def _files_of(cases: Sequence[FoundCase]) -> list[Path]:
    return [path for case in cases for path in (*case.images, *case.references)]


def one_ending(cases: Sequence[FoundCase]) -> str:
    """Return the one ending of all copies, of files that need not exist yet; raises DatasetError where they have
    several.
    """
    files = _files_of(cases)
    endings = sorted({SERIES_ENDING if path.is_dir() else ending_of(path) for path in files})
    if len(endings) != 1 or not endings[0]:
        example = next((path for path in files if not ending_of(path)), files[0] if files else None)
        raise DatasetError(
            "The files must share one known ending; found "
            f"{', '.join(ending or f'that of {example}' for ending in endings) or 'no file'}. "
            "Convert them to one format, e.g. .nii.gz."
        )
    return endings[0]


def _write_case(
    folder: Path, case: FoundCase, ending: str, channels: int, labels: Mapping[str, Any], repairs: Repairs
) -> list[dict[str, Any]]:
    """Write the copies of a case; returns what it took to unite its masks."""
    images = folder / ("imagesTr" if case.training else "imagesTs")
    if len(case.images) == 1:
        held = _channels_of(case.images[0], ending)
        if held != channels:
            raise DatasetError(
                f"Case '{case.identifier}': {case.images[0]} holds {counted(held, 'channel')}, {channels} are named; "
                "name them "
                "all."
            )
    elif len(case.images) != channels:
        raise DatasetError(
            f"Case '{case.identifier}' has {counted(len(case.images), 'image file')}; {channels} channels are named."
        )
    if len(case.images) == 1 and channels > 1 and is_nifti(case.images[0]):
        _split(case.images[0], images, case.identifier, ending)
    else:
        for channel, path in enumerate(case.images):
            _copy_image(path, images / f"{case.identifier}_{channel:04d}{ending}")
    _copy_spacing(case.images, images / f"{case.identifier}.json")
    if case.label is not None:
        if case.label.suffix.lower() in JPEG:
            raise DatasetError(
                f"Case '{case.identifier}': label {case.label} is a JPEG, which changes label values; save labels as "
                ".png."
            )
        shutil.copyfile(case.label, folder / "labelsTr" / f"{case.identifier}{ending}")
        _copy_spacing([case.label], folder / "labelsTr" / f"{case.identifier}.json")
    if not case.masks:
        return []
    first, target = images / f"{case.identifier}_0000{ending}", folder / "labelsTr" / f"{case.identifier}{ending}"
    united = unite_masks(case.identifier, case.masks, first, labels, repairs)
    refuse_overlaps(united.overlaps, repairs.priority)
    write_label(united.label, reader_of_image(first, None), united.grid, target)
    return [{"file": target.relative_to(folder).as_posix(), **change} for change in united.changes]


def _copy_image(source: Path, target: Path) -> None:
    """Copy a file; a folder's DICOM series becomes NIfTI, a JPEG PNG, with the same numbers on the same grid."""
    if source.is_dir():
        itk_pool.convert_series(source, target)
    elif source.suffix.lower() in JPEG:
        pixels = NaturalImage2DIO().load(source)[0][:, 0]
        Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, -1))).save(
            target
        )
    else:
        shutil.copyfile(source, target)


def _copy_spacing(stacks: Sequence[Path], target: Path) -> None:
    """Copy the spacing file of TIFF stacks, where there is one; all channels share it."""
    spacing_files = [
        beside
        for path in stacks
        if path.suffix.lower() in Tiff3DIO.endings and (beside := spacing_file(path)).is_file()
    ]
    if len({json.dumps(read_json(path)) for path in spacing_files}) > 1:
        raise DatasetError(
            f"The spacing files of one case differ: {', '.join(map(str, spacing_files))}; make them equal."
        )
    if spacing_files:
        shutil.copyfile(spacing_files[0], target)


def _channels_of(path: Path, ending: str) -> int:
    """Count the channels of a file; the reader refuses damaged ones."""
    return len(reader_for(ending, example=path).read_image([path]).array)


def _split(path: Path, folder: Path, identifier: str, ending: str) -> None:
    """Write each channel of a NIfTI file to a file of its own, stored numbers and header as they are."""
    image: Any = nibabel.load(path)
    stored = np.asanyarray(image.dataobj.get_unscaled())
    if stored.dtype.names:
        raise DatasetError(f"{path} holds colors as one number type; save red, green and blue as three files.")
    stored = stored.reshape(*stored.shape[:3], -1)  # the reader found one long axis behind those of space
    for channel in range(stored.shape[-1]):
        whole = type(image)(stored[..., channel], image.affine, image.header)
        whole.header.set_slope_inter(image.dataobj.slope, image.dataobj.inter)
        nibabel.save(whole, folder / f"{identifier}_{channel:04d}{ending}")
