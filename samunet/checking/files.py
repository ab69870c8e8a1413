"""Which files a raw dataset has, without opening an image: what belongs to which case, and what belongs to none."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from samunet.checking.findings import Finding, relative
from samunet.core.dataset import CHANNEL_FILE, Case, DatasetSpec, listed_case
from samunet.core.names import check_case_name
from samunet.core.parts import is_part
from samunet.core.units import counted
from samunet.errors import DatasetError
from samunet.imageio.natural import TIFF

SIDECAR = ".json"  # of TIFF stacks
Files = TypeVar("Files")


def list_cases(folder: Path, spec: DatasetSpec) -> tuple[list[Case], list[Finding]]:
    """List the cases that can be opened, and everything that is wrong with names and numbers of files.

    Args:
        folder: DatasetXXX_Name in the raw folder.
    """
    if "dataset" in spec.raw:
        return _listed_cases(folder, spec)
    findings = [
        Finding("", name, "missing-folder", f"Folder {name} does not exist.")
        for name in ("imagesTr", "labelsTr")
        if not (folder / name).is_dir()
    ]
    if findings:
        return [], findings
    images = _named(_images(folder, spec, findings), folder / "imagesTr", findings)
    labels = {_stem(path, spec): path for path in _files(folder / "labelsTr", spec, findings)}
    labels = _named(labels, folder / "labelsTr", findings)
    cases = []
    for name, files in sorted(images.items()):
        if name not in labels:
            message = f"Case '{name}' has images, but labelsTr holds no {name}{spec.file_ending}."
            findings.append(Finding(name, "", "missing-label", message))
        cases.append(Case(identifier=name, images=files, label=labels.pop(name, None)))
    for name, label in labels.items():
        message = f"labelsTr holds {label.name}, but imagesTr has no image of case '{name}'."
        findings.append(Finding(name, relative(label, folder), "missing-image", message))
    if not cases:
        message = (
            f"imagesTr holds no file named <case>_0000{spec.file_ending}; file_ending in dataset.json may be wrong."
        )
        findings.append(Finding("", "imagesTr", "missing-file", message))
    return cases, findings + _count(spec, cases)


def _listed_cases(folder: Path, spec: DatasetSpec) -> tuple[list[Case], list[Finding]]:
    """List the cases whose files dataset.json names; absent files are found when the case is opened."""
    listed, cases, findings = spec.raw["dataset"], [], []
    for name, files in sorted(listed.items()):
        try:
            cases.append(listed_case(folder, name, files))
        except DatasetError as error:
            code, case = (error.code, "") if error.code == "case-name" else ("dataset-json", name)
            findings.append(Finding(case, "dataset.json", code, str(error)))
    return cases, findings + _count(spec, cases)


def _images(folder: Path, spec: DatasetSpec, findings: list[Finding]) -> dict[str, tuple[Path, ...]]:
    grouped: dict[str, dict[int, Path]] = {}
    for path in _files(folder / "imagesTr", spec, findings):
        match = CHANNEL_FILE.fullmatch(_stem(path, spec))
        if match is None:
            message = (
                f"{path.name} is not named <case>_<4-digit channel>{spec.file_ending}, for example "
                f"case1_0000{spec.file_ending}."
            )
            findings.append(Finding("", relative(path, folder), "file-name", message))
        else:
            grouped.setdefault(match["case"], {})[int(match["channel"])] = path
    for name, files in grouped.items():
        if sorted(files) != list(range(len(files))):
            message = f"Case '{name}' has the channels {sorted(files)}; they must count up from 0 without a gap."
            findings.append(Finding(name, "", "channel-gap", message))
    return {name: tuple(files[channel] for channel in sorted(files)) for name, files in grouped.items()}


def _stem(path: Path, spec: DatasetSpec) -> str:
    return path.name[: len(path.name) - len(spec.file_ending)]


def _named(by_name: dict[str, Files], folder: Path, findings: list[Finding]) -> dict[str, Files]:
    """Leave out what has no name that a case may have."""
    kept = {}
    for name, files in by_name.items():
        try:
            check_case_name(name, folder.name)
            kept[name] = files
        except DatasetError as error:
            findings.append(Finding("", folder.name, error.code, str(error)))
    return kept


def _files(folder: Path, spec: DatasetSpec, findings: list[Finding]) -> list[Path]:
    """Return the files with the dataset's ending; others are stray, but for what belongs to a TIFF stack."""
    kept = []
    for path in sorted(folder.iterdir()):
        if is_part(path):
            continue
        if path.name.lower().endswith(spec.file_ending) and not path.name.startswith("."):
            kept.append(path)
        elif not (spec.file_ending in TIFF and path.suffix == SIDECAR):
            what = f"file that does not end in {spec.file_ending}"
            if path.is_dir():
                what = "folder"
            elif path.name.startswith("."):
                what = "hidden file"
            message = f"{folder.name} holds the {what} {path.name}."
            findings.append(Finding("", f"{folder.name}/{path.name}", "stray-file", message))
    return kept


def _count(spec: DatasetSpec, cases: list[Case]) -> list[Finding]:
    if "numTraining" in spec.raw and spec.num_training == len(cases):
        return []
    said = f"numTraining is {spec.num_training}" if "numTraining" in spec.raw else "numTraining is missing"
    message = f"{said}; the folders hold {counted(len(cases), 'training case')}."
    return [Finding("", "dataset.json", "number-of-cases", message)]
