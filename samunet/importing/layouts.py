"""Find cases in others' layouts: the Medical Segmentation Decathlon, folders, tables, MONAI's lists, BIDS."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from samunet.core.codec import read_json
from samunet.core.names import check_case_name
from samunet.core.units import counted
from samunet.errors import DatasetError
from samunet.imageio import stem_of
from samunet.importing.dataset import FoundCase, ending_of, identifier_of

logger = logging.getLogger(__name__)

MSD_NAME = re.compile(r"Task(\d{2,})_(\w+)")
CASE_COLUMN, LABEL_COLUMN, IMAGE_COLUMN = "case", "label", "image"


def from_msd(folder: Path) -> tuple[str, list[FoundCase], list[str], dict[str, int]]:
    """Read a task of the Medical Segmentation Decathlon.

    Args:
        folder: TaskXX_Name with its dataset.json, imagesTr, labelsTr and imagesTs.

    Returns:
        The dataset's name, its cases, channel names and labels.
    """
    match = MSD_NAME.fullmatch(folder.resolve().name)
    if match is None:
        raise DatasetError(f"{folder} is not named TaskXX_Name, as tasks of the Medical Segmentation Decathlon are.")
    channels, labels = described(folder / "dataset.json", ("modality",))
    if not channels:
        raise DatasetError(
            f"{folder / 'dataset.json'} is none of the Medical Segmentation Decathlon: 'modality' and 'labels' must "
            'map "0", "1", ... to names.'
        )
    images = by_stem(folder / "imagesTr")
    cases = [
        FoundCase(identifier=name, images=(image,), label=folder / "labelsTr" / image.name)
        for name, image in images.items()
    ]
    if (folder / "imagesTs").is_dir():
        cases += [
            FoundCase(identifier=name, images=(image,), label=None)
            for name, image in by_stem(folder / "imagesTs").items()
        ]
    return (
        f"Dataset{int(match[1]):03d}_{match[2].replace('_', '')}",
        cases,
        list(channels),
        labels,
    )


def described(
    path: Path, keys: Sequence[str] = ("channel_names", "modality")
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the channels and labels that a dataset.json of the Decathlon or nnU-Net names; () and {} without both.

    Args:
        keys: of which one maps "0", "1", ... to the names of channels.

    Raises:
        DatasetError: labels are regions.
    """
    raw = read_json(path) if path.is_file() else None
    if not isinstance(raw, dict):
        return (), {}
    channels, meaning = next((raw[key] for key in keys if key in raw), None), raw.get("labels")
    if isinstance(meaning, dict) and any(isinstance(value, list) for value in meaning.values()):
        raise DatasetError(f"{path} names regions, as nnU-Net does; copy its folder to nnUNet_raw as it is.")
    if isinstance(meaning, dict) and not _counts(meaning):
        meaning = {str(value): name for name, value in meaning.items()}
    if not _counts(channels) or not _counts(meaning):
        return (), {}
    labels = {str(name): int(value) for value, name in meaning.items()}
    return tuple(str(channels[str(index)]) for index in range(len(channels))), labels


def _counts(mapping: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether the keys of a mapping are "0", "1", ... without a gap."""
    return isinstance(mapping, dict) and bool(mapping) and set(mapping) == {str(index) for index in range(len(mapping))}


def from_folders(images: Sequence[Path], labels: Path) -> list[FoundCase]:
    """Match one folder of images per channel with labels by file name; a case without label is a test case."""
    channels, labeled = [by_stem(folder) for folder in images], by_stem(labels)
    for folder, files in ((labels, labeled), *zip(images[1:], channels[1:], strict=True)):
        if strangers := sorted(set(files) - set(channels[0])):
            raise DatasetError(
                f"{folder} holds {counted(len(strangers), 'file')} without an image of the same name in {images[0]}, "
                f"first '{strangers[0]}'; rename them."
            )
        if folder is not labels and (lacking := sorted(set(channels[0]) - set(files))):
            raise DatasetError(f"{folder} has no image of case '{lacking[0]}'; every channel needs one.")
    return [
        FoundCase(
            identifier=identifier_of(name), images=tuple(channel[name] for channel in channels), label=labeled.get(name)
        )
        for name in channels[0]
    ]


def from_table(table: Path) -> list[FoundCase]:
    """Read a CSV file with columns case, image (or image_0, image_1, ...) and label; paths are relative to it."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"Table {table} cannot be read: {error}.") from None
    columns = sorted(name for name in rows[0] if name) if rows else []
    numbered = [name for name in columns if re.fullmatch(rf"{IMAGE_COLUMN}_\d+", name)]
    images = (
        [IMAGE_COLUMN] if IMAGE_COLUMN in columns else sorted(numbered, key=lambda name: int(name.rsplit("_", 1)[1]))
    )
    if not rows or CASE_COLUMN not in columns or LABEL_COLUMN not in columns or not images:
        raise DatasetError(
            f"Table {table} needs the columns case, image (or image_0, image_1, ...) and label; it has "
            f"{', '.join(columns) or 'none'}."
        )
    return [
        _listed(
            table.parent, row[CASE_COLUMN], [row[name] for name in images], row[LABEL_COLUMN], f"{table}, row {number}"
        )
        for number, row in enumerate(rows, start=2)
    ]


def from_datalist(path: Path, root: Path | None = None) -> list[FoundCase]:
    """Read a MONAI datalist: {"training": [{"image": file or files, "label": file}], "testing"/"test": [...]}.

    Entries of "validation" become training cases too; their `fold` is not taken over.

    Args:
        root: folder the files are relative to; None takes the list's own.
    """
    raw, folder = read_json(path), root or path.parent
    if not isinstance(raw, dict) or not isinstance(raw.get("training"), list):
        raise DatasetError(
            f'{path} is no MONAI datalist; expected {{"training": [{{"image": ..., "label": ...}}, ...]}}.'
        )
    cases = []
    for part, training in (("training", True), ("validation", True), ("testing", False), ("test", False)):
        entries = raw.get(part) or []
        if not isinstance(entries, list):
            raise DatasetError(f"{path}: '{part}' must be a list of entries; got {str(entries)[:80]}.")
        for index, entry in enumerate(entries):
            entry = {"image": entry} if isinstance(entry, str) else entry
            if not isinstance(entry, Mapping) or "image" not in entry:
                raise DatasetError(f"{path}: entry {index} of '{part}' has no image; got {str(entry)[:80]}.")
            images = [entry["image"]] if isinstance(entry["image"], str) else entry["image"]
            if not isinstance(images, list) or not images or not isinstance(images[0], str):
                raise DatasetError(
                    f"{path}: entry {index} of '{part}' must name one image or a list of them; got "
                    f"{str(entry['image'])[:80]}."
                )
            label = entry.get("label") if training else None
            cases.append(
                _listed(
                    folder,
                    stem_of(Path(images[0])).removesuffix("_0000"),
                    images,
                    label,
                    f"{path}, entry {index} of '{part}'",
                )
            )
    return cases


def from_bids(folder: Path, suffixes: Sequence[str], label_suffix: str) -> list[FoundCase]:
    """Read a BIDS dataset: images in sub-*/[ses-*/]anat, labels of the same entities in derivatives/*/sub-*.

    Args:
        suffixes: of one image per channel, e.g. T1w and FLAIR.
        label_suffix: of the labels, e.g. dseg or mask.
    """
    firsts = _with_suffix(folder, suffixes[0])
    for suffix in suffixes[1:]:
        if alone := sorted(set(_with_suffix(folder, suffix)) - set(firsts)):
            raise DatasetError(
                f"{alone[0]}_{suffix} has no {alone[0]}_{suffixes[0]} beside it; every channel needs one."
            )
    labels: dict[str, list[Path]] = {}
    unused = []
    for path in sorted(
        {*folder.glob(f"derivatives/**/*_{label_suffix}.nii*"), *folder.glob(f"sub-*/**/*_{label_suffix}.nii*")}
    ):
        # A label may have more entities than its image; where several images fit, it belongs to the one that says most.
        fitting = [stem for stem in firsts if path.name.startswith(f"{stem}_")]
        if fitting:
            labels.setdefault(max(fitting, key=len), []).append(path)
        else:
            unused.append(path)
    if unused:
        text = "Left out as labels in _%s of no %s image: %s, first %s."
        logger.warning(text, label_suffix, suffixes[0], counted(len(unused), "file"), unused[0])
    cases = []
    for stem, first in firsts.items():
        images = []
        for suffix in suffixes:
            files = sorted(first.parent.glob(f"{stem}_{suffix}.nii*"))
            if len(files) != 1:
                raise DatasetError(
                    f"{first.parent} holds {counted(len(files), 'file')} {stem}_{suffix}.nii.gz, expected one; every "
                    "channel needs one."
                )
            images.append(files[0])
        own = labels.get(stem, [])
        if len(own) > 1:
            raise DatasetError(
                f"{stem} has {counted(len(own), 'label')} that end in {label_suffix}: {own[0]} and {own[1]}; give a "
                "--label_suffix that only one has."
            )
        cases.append(FoundCase(identifier=identifier_of(stem), images=tuple(images), label=own[0] if own else None))
    if not cases:
        raise DatasetError(f"{folder} holds no file sub-*/.../*_{suffixes[0]}.nii.gz; check the folder and --suffixes.")
    return cases


def _with_suffix(folder: Path, suffix: str) -> dict[str, Path]:
    """Map the part of the name before the suffix to the images of a BIDS dataset."""
    files = sorted(path for path in folder.glob(f"sub-*/**/*_{suffix}.nii*") if not path.name.startswith("."))
    return {path.name.split(".")[0].removesuffix(f"_{suffix}"): path for path in files}


def _listed(folder: Path, name: str | None, images: Sequence[Any], label: Any, where: str) -> FoundCase:
    if not name:
        raise DatasetError(f"{where}: the case has no name; give it one.")
    check_case_name(name, where)
    if not all(isinstance(image, str) and image for image in images):
        raise DatasetError(f"{where}: every channel needs a file; got {list(images)}.")
    if not isinstance(label, str | None):
        raise DatasetError(f"{where}: a label is one file; got {label}.")
    return FoundCase(
        identifier=identifier_of(name),
        images=tuple(folder / image for image in images),
        label=folder / label if label else None,
    )


def by_stem(folder: Path) -> dict[str, Path]:
    """Map names without ending to the image files and DICOM folders of a folder, sorted."""
    if not folder.is_dir():
        raise DatasetError(f"Folder {folder} does not exist.")
    by_stem: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if (path.is_dir() or ending_of(path)) and not path.name.startswith("."):
            other = by_stem.setdefault(path.name if path.is_dir() else stem_of(path), path)
            if other != path:
                raise DatasetError(f"{other} and {path.name} would be one case; rename or remove one of them.")
    return by_stem
