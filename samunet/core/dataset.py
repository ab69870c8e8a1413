"""A raw dataset: dataset.json and the files of each case."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samunet.core.codec import read_json
from samunet.core.labels import Labels, parse_labels
from samunet.core.names import LONGEST_FILE_NAME, brief, check_case_name, is_name
from samunet.core.units import counted
from samunet.core.workspace import expand_path
from samunet.errors import DatasetError

CHANNEL_FILE = re.compile(r"(?P<case>.+)_(?P<channel>[0-9]{4})", re.DOTALL)
MOST_CHANNELS = 10_000  # four digits
PROPOSALS = "proposals"  # key of dataset.json: cases whose label a machine proposed and nobody has corrected
FILE_ENDING = re.compile(r"(\.[A-Za-z0-9]{1,16}){1,3}")


@dataclass(frozen=True, kw_only=True)
class Case:
    """The files of one case."""

    identifier: str
    images: tuple[Path, ...]
    """One file per channel, in channel order; a file may hold several channels."""
    label: Path | None
    """Reference segmentation; None for cases to predict."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What dataset.json says."""

    name: str
    """DatasetXXX_Name."""
    channels: tuple[str, ...]
    """Channel names in order; the name chooses the normalization (nnU-Net's rule)."""
    labels: Labels
    file_ending: str
    """Ending of all image files, in lower case; files may have it in capitals."""
    num_training: int
    reader: str | None
    """Reader asked for by `overwrite_image_reader_writer`."""
    raw: dict[str, Any]
    """The whole file, free keys included."""

    @property
    def proposals(self) -> frozenset[str]:
        """Cases whose label is a machine's proposal; raises DatasetError where the key holds no list of names."""
        named = self.raw.get(PROPOSALS, [])
        if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            raise DatasetError(f"{self.name}: {PROPOSALS} in dataset.json must list cases; got {brief(named)}.")
        return frozenset(named)


def read_dataset_json(path: Path) -> DatasetSpec:
    """Read nnU-Net's dataset.json leniently: free keys are kept, required ones demanded; raises DatasetError where the
    file or a required key is missing, or a value is wrong.
    """
    absent = [folder for folder in path.absolute().parents if not folder.exists()]
    if absent:
        raise DatasetError(
            f"Folder {absent[-1]} does not exist, so there is no {path}; correct the path, or the variable nnUNet_raw "
            "and its like."
        )
    if not path.is_file():
        raise DatasetError(
            f"File {path} does not exist; a dataset needs a dataset.json with channel_names, labels, numTraining, "
            "file_ending."
        )
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise DatasetError(f"{path}: expected a JSON object; got {type(raw).__name__}.")
    channels = raw.get("channel_names", raw.get("modality"))
    for key in ("channel_names", "labels", "file_ending"):
        if not {**raw, "channel_names": channels}.get(key):
            raise DatasetError(f"{path}: key '{key}' is missing; add it as nnU-Net's dataset format describes.")
    if not isinstance(channels, dict) or set(channels) != {str(i) for i in range(len(channels))}:
        raise DatasetError(f'{path}: channel_names must map "0", "1", ... to names; got {brief(channels)}.')
    if len(channels) > MOST_CHANNELS:
        raise DatasetError(
            f"{path}: channel_names names {counted(len(channels), 'channel')}, which files number with four digits; "
            f"give {MOST_CHANNELS} at most."
        )
    for channel, name in channels.items():
        if not is_name(name):
            raise DatasetError(
                f"{path}: channel_names must give channel {channel} a name, such as T1 or CT; got {brief(name)}."
            )
    if not isinstance(raw["labels"], dict):
        raise DatasetError(f"{path}: labels must map names to values; got {brief(raw['labels'])}.")
    num_training = raw.get("numTraining", 0)
    if not isinstance(num_training, int) or isinstance(num_training, bool) or num_training < 0:
        raise DatasetError(f"{path}: numTraining must be the number of training cases; got {brief(num_training)}.")
    ending = raw["file_ending"]
    if not isinstance(ending, str) or FILE_ENDING.fullmatch(ending) is None:
        raise DatasetError(f"{path}: file_ending must be an ending with its dot, such as .nii.gz; got {brief(ending)}.")
    reader = raw.get("overwrite_image_reader_writer")
    if reader is not None and not is_name(reader):
        raise DatasetError(
            f"{path}: overwrite_image_reader_writer must be the name of a reader, such as NibabelIO; got "
            f"{brief(reader)}."
        )
    if "dataset" in raw and (not isinstance(raw["dataset"], dict) or not raw["dataset"]):
        raise DatasetError(f"{path}: dataset must map case identifiers to their files; got {brief(raw['dataset'])}.")
    return DatasetSpec(
        name=path.absolute().parent.name,
        channels=tuple(channels[str(i)] for i in range(len(channels))),
        labels=parse_labels(raw["labels"], raw.get("regions_class_order")),
        file_ending=ending.lower(),
        num_training=num_training,
        reader=None if reader in (None, "None") else reader,
        raw=raw,
    )


def training_cases(folder: Path, spec: DatasetSpec) -> tuple[Case, ...]:
    """List the training cases of a raw dataset folder, sorted by identifier; raises DatasetError where a folder, an
    image or a label file is missing.
    """
    if "dataset" in spec.raw:
        listed = tuple(listed_case(folder, name, files) for name, files in sorted(spec.raw["dataset"].items()))
        for case in listed:
            for path in (*case.images, *([case.label] if case.label else [])):
                if not path.exists():
                    raise DatasetError(f"Case '{case.identifier}': file {path} named in dataset.json does not exist.")
        return listed
    images, labels = folder / "imagesTr", folder / "labelsTr"
    for needed in (images, labels):
        if not needed.is_dir():
            raise DatasetError(
                f"Folder {needed} does not exist; a dataset keeps its training images in imagesTr and their labels in "
                "labelsTr."
            )
    cases, label_files = [], files_with_ending(labels, spec.file_ending)
    for identifier, files in group_channels(images, spec.file_ending).items():
        label = f"{identifier}{spec.file_ending}"
        if label not in label_files:
            raise DatasetError(
                f"Case '{identifier}': label file {labels / label} is missing; add it, or remove the case's images."
            )
        cases.append(Case(identifier=identifier, images=files, label=label_files[label]))
    if not cases:
        raise DatasetError(
            f"Folder {images} holds no file named <case>_0000{spec.file_ending}; check file_ending in dataset.json."
        )
    return tuple(cases)


def files_with_ending(folder: Path, file_ending: str) -> dict[str, Path]:
    """Map names to a folder's files that have an ending, in capitals or not, but for hidden ones; raises DatasetError
    where there is no such folder, two files differ in the capitals of their ending only, or a name is none of a case.
    """
    if not folder.is_dir():
        raise DatasetError(f"Folder {folder} does not exist; give the folder that holds the *{file_ending} files.")
    by_name: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.lower().endswith(file_ending.lower()) and not path.name.startswith("."):
            stem = path.name[: len(path.name) - len(file_ending)]
            check_case_name(stem, folder, LONGEST_FILE_NAME)  # a channel's number is part of it
            other = by_name.setdefault(stem + file_ending, path)
            if other != path:
                raise DatasetError(f"{other} and {path.name} differ in capitals only; remove one of them.")
    return by_name


def files_by_stem(folder: Path, file_ending: str) -> dict[str, Path]:
    """Map names without the ending to a folder's files that have it; raises as `files_with_ending`."""
    return {name.removesuffix(file_ending): path for name, path in files_with_ending(folder, file_ending).items()}


def group_channels(folder: Path, file_ending: str) -> dict[str, tuple[Path, ...]]:
    """Map each case identifier to its channel files <case>_0000<ending>, ..., sorted; raises as `channels_by_case`."""
    return channels_by_case(files_by_stem(folder, file_ending), folder, file_ending)


def channels_by_case(named: Mapping[str, Path], folder: Path, file_ending: str) -> dict[str, tuple[Path, ...]]:
    """Map each case identifier to its channels, sorted.

    Args:
        named: files by their names without ending.
        folder: they lie in; it and the ending stand in messages.

    Raises:
        DatasetError: a channel number is skipped, so that channels would change places; or a name is none, see
            `check_case_name`.
    """
    numbered: dict[str, list[tuple[int, Path]]] = {}
    for name, path in sorted(named.items()):
        match = CHANNEL_FILE.fullmatch(name)
        if match is None:
            raise DatasetError(
                f"File {path} is not named <case>_<4-digit channel>{file_ending}; rename it, e.g. "
                f"case1_0000{file_ending}."
            )
        numbered.setdefault(match["case"], []).append((int(match["channel"]), path))
    for identifier, files in numbered.items():
        check_case_name(identifier, folder)
        numbers = [number for number, _ in files]
        if numbers != list(range(len(numbers))):
            raise DatasetError(
                f"Case '{identifier}' in {folder} has channels {numbers}; they must count up from 0000 without a gap."
            )
    return {identifier: tuple(path for _, path in files) for identifier, files in sorted(numbered.items())}


def listed_case(folder: Path, identifier: str, files: Any) -> Case:
    """Return a case as the `dataset` entry of dataset.json lists it; raises DatasetError for another form or name.

    Files need not exist.
    """
    check_case_name(identifier, folder / "dataset.json")
    given = files.get("images") if isinstance(files, dict) else None
    named = [*given, files.get("label")] if isinstance(given, list) else []
    if len(named) < 2 or not all(isinstance(path, str) and path and "\0" not in path for path in named):
        form = '{"images": [one file per channel], "label": file}'
        raise DatasetError(f"Case '{identifier}' in dataset.json must have the form {form}; got {brief(files)}.")
    *images, label = (folder / expand_path(name) for name in named)
    return Case(identifier=identifier, images=tuple(images), label=label)
