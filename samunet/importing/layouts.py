"""Find the cases of a dataset in the layouts that others use: the Medical Segmentation Decathlon, tables, MONAI's lists, BIDS."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from samunet.core.codec import read_json
from samunet.errors import DatasetError
from samunet.importing.dataset import FoundCase, ending_of, identifier_of

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
    raw = read_json(folder / "dataset.json")
    channels, meaning = raw.get("modality", raw.get("channel_names")), raw.get("labels")
    if not isinstance(channels, dict) or not isinstance(meaning, dict):
        raise DatasetError(f"{folder / 'dataset.json'} lacks 'modality' or 'labels'; it is no task of the Medical Segmentation Decathlon.")
    labels = {str(name): int(value) for value, name in meaning.items()}
    cases = [FoundCase(identifier=_stem(image), images=(image,), label=folder / "labelsTr" / image.name) for image in _visible(folder / "imagesTr")]
    if (folder / "imagesTs").is_dir():
        cases += [FoundCase(identifier=_stem(image), images=(image,), label=None, training=False) for image in _visible(folder / "imagesTs")]
    return f"Dataset{int(match[1]):03d}_{match[2].replace('_', '')}", cases, [str(channels[str(index)]) for index in range(len(channels))], labels


def from_folders(images: Sequence[Path], labels: Path) -> list[FoundCase]:
    """Match one folder of images a channel with a folder of labels by file name; a case without label becomes a test case."""
    for folder in (*images, labels):
        if not folder.is_dir():
            raise DatasetError(f"Folder {folder} does not exist.")
    channels = [{_stem(path): path for path in _visible(folder)} for folder in images]
    known = {_stem(path): path for path in _visible(labels)}
    strangers = sorted(set(known) - set(channels[0]))
    if strangers:
        raise DatasetError(
            f"{labels} holds {len(strangers)} files without an image of the same name in {images[0]}, first '{strangers[0]}'; rename them."
        )
    cases = []
    for name in sorted(channels[0]):
        absent = next((folder for folder, files in zip(images, channels, strict=True) if name not in files), None)
        if absent is not None:
            raise DatasetError(f"{absent} has no image of case '{name}'; every channel needs one.")
        files = tuple(channel[name] for channel in channels)
        cases.append(FoundCase(identifier=identifier_of(name), images=files, label=known.get(name), training=name in known))
    return cases


def from_table(table: Path) -> list[FoundCase]:
    """Read a CSV file with the columns case, image (or image_0, image_1, ...) and label; paths are relative to the file."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"Table {table} cannot be read: {error}.") from None
    columns = sorted(name for name in rows[0] if name) if rows else []
    numbered = [name for name in columns if re.fullmatch(rf"{IMAGE_COLUMN}_\d+", name)]
    images = [IMAGE_COLUMN] if IMAGE_COLUMN in columns else sorted(numbered, key=lambda name: int(name.rsplit("_", 1)[1]))
    if not rows or CASE_COLUMN not in columns or LABEL_COLUMN not in columns or not images:
        raise DatasetError(
            f"Table {table} needs the columns case, image (or image_0, image_1, ...) and label; it has {', '.join(columns) or 'none'}."
        )
    return [
        _listed(table.parent, row[CASE_COLUMN], [row[name] for name in images], row[LABEL_COLUMN], f"{table}, case {row[CASE_COLUMN]}")
        for row in rows
    ]


def from_datalist(path: Path, root: Path | None = None) -> list[FoundCase]:
    """Read a MONAI datalist: {"training": [{"image": file or files, "label": file}], "testing"/"test": [...]}.

    Args:
        root: folder the files are relative to; None takes the list's own.
    """
    raw, folder = read_json(path), root or path.parent
    if not isinstance(raw, dict) or not isinstance(raw.get("training"), list):
        raise DatasetError(f'{path} is no MONAI datalist; expected {{"training": [{{"image": ..., "label": ...}}, ...]}}.')
    cases = []
    for part, training in (("training", True), ("validation", True), ("testing", False), ("test", False)):
        for index, entry in enumerate(raw.get(part) or []):
            entry = {"image": entry} if isinstance(entry, str) else entry
            if not isinstance(entry, Mapping) or "image" not in entry:
                raise DatasetError(f"{path}: entry {index} of '{part}' has no image; got {str(entry)[:80]}.")
            images = [entry["image"]] if isinstance(entry["image"], str) else entry["image"]
            if not isinstance(images, list) or not images or not isinstance(images[0], str):
                raise DatasetError(f"{path}: entry {index} of '{part}' must name one image or a list of them; got {str(entry['image'])[:80]}.")
            label = entry.get("label") if training else None
            cases.append(_listed(folder, _stem(Path(images[0])).removesuffix("_0000"), images, label, f"{path}, entry {index} of '{part}'"))
    return cases


def from_bids(folder: Path, suffixes: Sequence[str], label_suffix: str) -> list[FoundCase]:
    """Read a BIDS dataset: images in sub-*/[ses-*/]anat, labels of the same entities in derivatives/*/sub-*.

    Args:
        suffixes: of one image a channel, e.g. T1w and FLAIR.
        label_suffix: of the labels, e.g. dseg or mask.
    """
    firsts = {_entities(path, suffixes[0]): path for path in sorted(folder.glob(f"sub-*/**/*_{suffixes[0]}.nii*")) if not path.name.startswith(".")}
    labels: dict[str, list[Path]] = {}
    for path in sorted({*folder.glob(f"derivatives/**/*{label_suffix}.nii*"), *folder.glob(f"sub-*/**/*{label_suffix}.nii*")}):
        # A label may have more entities than its image; where several images fit, it belongs to the one that says most.
        fitting = [stem for stem in firsts if path.name.startswith(f"{stem}_")]
        if fitting:
            labels.setdefault(max(fitting, key=len), []).append(path)
    cases = []
    for stem, first in firsts.items():
        images = []
        for suffix in suffixes:
            found = sorted(first.parent.glob(f"{stem}_{suffix}.nii*"))
            if len(found) != 1:
                raise DatasetError(f"{first.parent} holds {len(found)} files {stem}_{suffix}.nii.gz, expected one; every channel needs one.")
            images.append(found[0])
        own = labels.get(stem, [])
        if len(own) > 1:
            raise DatasetError(
                f"{stem} has {len(own)} labels that end in {label_suffix}: {own[0]} and {own[1]}; give a --label_suffix that only one has."
            )
        cases.append(FoundCase(identifier=identifier_of(stem), images=tuple(images), label=own[0] if own else None, training=bool(own)))
    if not cases:
        raise DatasetError(f"{folder} holds no file sub-*/.../*_{suffixes[0]}.nii.gz; check the folder and --suffixes.")
    return cases


def _entities(path: Path, suffix: str) -> str:
    """The part of a BIDS name before the suffix."""
    return path.name.split(".")[0].removesuffix(f"_{suffix}")


def _listed(folder: Path, name: str, images: Sequence[Any], label: Any, where: str) -> FoundCase:
    if not all(isinstance(image, str) and image for image in images):
        raise DatasetError(f"{where}: every channel needs a file; got {list(images)}.")
    reference = folder / label if isinstance(label, str) and label else None
    return FoundCase(
        identifier=identifier_of(name), images=tuple(folder / image for image in images), label=reference, training=reference is not None
    )


def _visible(folder: Path) -> list[Path]:
    """Image files of a folder, by name."""
    if not folder.is_dir():
        raise DatasetError(f"Folder {folder} does not exist.")
    return sorted(path for path in folder.iterdir() if path.is_file() and ending_of(path) and not path.name.startswith("."))


def _stem(path: Path) -> str:
    ending = ending_of(path)
    return path.name[: len(path.name) - len(ending)] if ending else path.stem
