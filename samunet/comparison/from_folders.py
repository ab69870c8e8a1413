"""Predictions in folders, or in a results tree, to a comparison."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from samunet import __version__
from samunet.comparison.compare import Comparison, Entry, compare
from samunet.comparison.comparison_page import Training, most_telling_cases, write_comparison
from samunet.comparison.curves import curve_of
from samunet.comparison.nnunet import PLANS, TRAINER
from samunet.core.codec import decode, file_sha256, read_json
from samunet.core.cost import read_cost
from samunet.core.dataset import DatasetSpec, files_by_stem, group_channels, read_dataset_json, training_cases
from samunet.core.labels import Labels
from samunet.core.names import DEFAULT_PLANS_NAME, DEFAULT_TRAINER
from samunet.core.prompts import prompts_behind
from samunet.core.results import Seeds
from samunet.core.units import counted
from samunet.core.workspace import Workspace
from samunet.errors import ConfigError, DatasetError, did_you_mean
from samunet.evaluation.picture import CasePicture, draw_case
from samunet.imageio import reader_of_segmentations
from samunet.machine.progress import each
from samunet.planning.splits import groups_from


def compare_folders(
    references: Path,
    folders: Mapping[str, Path],
    spec: DatasetSpec,
    output: Path,
    *,
    images: Path | None = None,
    tolerance: float,
    threads: int,
) -> Comparison:
    """Compare prediction folders and write the report into `output`; raises ConfigError or DatasetError where the
    folders are not alike in cases or labels.

    Patients are the groups of dataset.json where these cover all cases; else every case is one, and the page says why.

    Args:
        folders: by the name shown, the baseline first.
        images: folder of the images, for pictures.
    """
    entries = []
    for name, folder in folders.items():
        files = _files_in(folder, spec, f"the predictions of '{name}'")
        _refuse_other_labels(folder / "dataset.json", name, spec.labels)
        entries.append(Entry(name=name, files=files, prompts=prompts_behind(folder)))
    files_of_case = group_channels(images, spec.file_ending) if images is not None else {}
    first_files = {case: paths[0] for case, paths in files_of_case.items()}
    labels = _files_in(references, spec, "the references")
    return _compare(entries, labels, spec, output, images=first_files, tolerance=tolerance, threads=threads)


def compare_trained(
    workspace: Workspace,
    dataset: str,
    models: Sequence[str],
    output: Path,
    *,
    tolerance: float,
    threads: int,
    folds: Sequence[str] = (),
    configurations: Sequence[str] = (),
) -> Comparison:
    """Compare what the models of a dataset predicted for their validation cases, samunet's and nnU-Net's, and write the
    report; raises ConfigError or DatasetError where there are fewer than two, or they differ in folds, cases or labels.

    Args:
        models: names of folders `<Trainer>__<plans>__<configuration>`, the baseline first; none takes all that have
            such predictions, nnU-Net's first.
        folds: to look at; all numbered ones when there are none.
        configurations: names, or <plans>__<configuration>, whose models are taken when none is named; all when there
            are none.
    """
    refuse_unnumbered(folds)
    raw = workspace.raw / dataset
    spec = read_dataset_json(raw / "dataset.json")
    folder = workspace.results / dataset
    names = models or _of_configurations(
        configurations,
        sorted((path.name for path in folder.glob("*__*__*") if _validated(path, spec, folds)), key=_nnunets_first),
    )
    if len(names) < 2:
        of_folds = f" of fold {', '.join(folds)}" if folds else ""
        raise ConfigError(
            f"A comparison takes two models or more of {folder} that have predicted their validation cases{of_folds}; "
            f"got {names[0] if names else 'none'}. Train and validate first."
        )
    entries, first_folds = [], None
    for name, shown in zip(names, short_names(names), strict=True):
        predicted = _validated(folder / name, spec, folds)
        if not predicted:
            raise DatasetError(
                f"{folder / name} holds no validation predictions (fold_*/validation/*{spec.file_ending}); train and "
                "validate it first."
            )
        _refuse_other_labels(folder / name / "dataset.json", name, spec.labels)
        of_case = {case: fold for case, (fold, _) in predicted.items()}
        first_folds = first_folds or of_case
        moved = sorted(case for case in of_case.keys() & first_folds.keys() if of_case[case] != first_folds[case])
        if moved:
            raise DatasetError(
                f"{name} and {names[0]} have other splits: '{moved[0]}' is in {of_case[moved[0]]} and "
                f"{first_folds[moved[0]]}."
            )
        files = {case: path for case, (_, path) in predicted.items()}
        entries.append(Entry(name=shown, files=files, prompts=prompts_behind(next(iter(files.values())).parent)))
    cases = {case.identifier: case for case in training_cases(raw, spec)}
    shared = [case for case in first_folds or {} if case in cases]
    references = {case: path for case in shared if (path := cases[case].label) is not None}
    images = {case: cases[case].images[0] for case in shared}
    about = [folder / name for name in names]
    how: dict[str, Any] = {"images": images, "tolerance": tolerance, "threads": threads}
    return _compare(entries, references, spec, output, cases=tuple(cases), models=about, **how)


def _compare(
    entries: Sequence[Entry],
    references: Mapping[str, Path],
    spec: DatasetSpec,
    output: Path,
    *,
    images: Mapping[str, Path],
    tolerance: float,
    threads: int,
    cases: Sequence[str] = (),
    models: Sequence[Path] = (),  # of the entries, in their order
) -> Comparison:
    reader = reader_of_segmentations(next(iter(entries[0].files.values())).parent, spec)
    groups, ungrouped = None, []
    try:
        groups = groups_from(spec.raw.get("groups"), cases or sorted(references))
    except DatasetError as error:
        if models:
            raise
        # A table of the training cases says nothing of a test set.
        ungrouped = [f"Every case counts as a patient, since groups do not name these: {error}"]
    comparison = compare(
        entries, references, spec.labels, reader, patients=groups, tolerance=tolerance, threads=threads
    )

    def draw(case: str) -> CasePicture:
        volume = reader.read_image([images[case]])
        overlays = {"reference": reader.read_label(references[case])[0]}
        overlays |= {entry.name: reader.read_label(entry.files[case])[0] for entry in entries}
        return draw_case(case, volume.array[0], overlays, volume.geometry, spec.labels.names_of_values)

    telling = [case for case in most_telling_cases(comparison) if case in images]
    how = [f"{name} was shown prompts; {origin}." for name, origin in comparison.prompts.items()]
    how += [
        *ungrouped,
        *_how(entries, comparison),
        *(_same_folds(entries[0]) if models else ()),
        *map(_how_trained, models),
    ]
    folds = sorted({path.parents[1].name for entry in entries for path in entry.files.values()}) if models else []
    write_comparison(
        output,
        comparison,
        title=f"Comparison on {spec.name}",
        labels=spec.labels,
        sections={"How": how},
        pictures=each(draw, telling, threads=threads, title="Drawing"),
        trainings=[
            _training(entry.name, model, fold)
            for entry, model in zip(entries, models or (), strict=False)
            for fold in folds
        ],
    )
    return comparison


def _files_in(folder: Path, spec: DatasetSpec, what: str) -> dict[str, Path]:
    """Return the segmentations of a folder by case; raises DatasetError where there is none."""
    files = files_by_stem(folder, spec.file_ending)
    if not files:
        raise DatasetError(
            f"No file ending in {spec.file_ending} is in {folder}, where {what} should be; give their folder, and the "
            "dataset.json that names their ending."
        )
    return files


def refuse_unnumbered(folds: Sequence[str]) -> None:
    """Raise ConfigError for a fold that is none of a cross-validation."""
    wrong = [fold for fold in folds if not fold.isdecimal()]
    if wrong:
        raise ConfigError(
            f"Folds to compare are numbers, of a cross-validation whose cases nobody trained on; got '{wrong[0]}'."
        )


def _of_configurations(wanted: Sequence[str], models: Sequence[str]) -> list[str]:
    """Return the models of the configurations wanted, or of all; raises ConfigError where one has none."""
    configurations = {model: (model.split("__", 1)[1], model.rsplit("__", 1)[1]) for model in models}
    known = {configuration for _, configuration in configurations.values()}
    for name in wanted:
        if not any(name in own for own in configurations.values()):
            raise ConfigError(
                f"No model of configuration '{name}' has predicted its validation cases.{did_you_mean(name, known)}"
            )
    return [model for model in models if not wanted or not set(wanted).isdisjoint(configurations[model])]


def _validated(model: Path, spec: DatasetSpec, folds: Sequence[str]) -> dict[str, tuple[str, Path]]:
    """Return fold and file of every validation prediction of a model; folds by number, of seeds and other variations
    none.
    """
    predicted: dict[str, tuple[str, Path]] = {}
    for folder in sorted(model.glob("fold_*/validation")):
        fold = folder.parent.name.removeprefix("fold_")
        if fold in folds or (not folds and fold.isdecimal()):
            for case, file in files_by_stem(folder, spec.file_ending).items():
                if case in predicted:
                    raise DatasetError(
                        f"Model {model} predicted '{case}' in {predicted[case][0]} and {folder.parent.name}; their "
                        "splits overlap."
                    )
                predicted[case] = (folder.parent.name, file)
    return predicted


def short_names(models: Sequence[str]) -> tuple[str, ...]:
    """Return what to call models on a page: of <Trainer>__<plans>__<configuration> what is not the default; the whole
    where two would be alike.
    """
    short = []
    for model in models:
        trainer, plans, configuration = parts if len(parts := model.split("__")) == 3 else ("", "", model)
        own = trainer.removeprefix(TRAINER).strip("_").replace("_", " ")
        words = [] if trainer == DEFAULT_TRAINER else [trainer]
        if trainer.startswith(TRAINER):
            words = ["nnU-Net", own]
        words += [] if plans in (DEFAULT_PLANS_NAME, PLANS) else [plans]
        short.append(" ".join(filter(None, [*words, configuration])))
    return tuple(short) if len(set(short)) == len(short) else tuple(models)


def _nnunets_first(name: str) -> tuple[bool, str]:
    return not name.startswith(TRAINER), name


def _refuse_other_labels(path: Path, name: str, labels: Labels) -> None:
    if path.is_file() and read_dataset_json(path).labels != labels:
        raise ConfigError(
            f"{name} was predicted with other labels ({path}) than the dataset's; unlike sets are not compared."
        )


def _how(entries: Sequence[Entry], comparison: Comparison) -> list[str]:
    """Say what was compared, and with what."""
    lines = []
    for entry in entries:
        digest = _digest("".join(file_sha256(path) for _, path in sorted(entry.files.items())))
        folder = os.path.commonpath([path.parent for path in entry.files.values()])
        lines.append(f"{entry.name}: {counted(len(entry.files), 'segmentation')} in {folder}, hash {digest}.")
    lines.append(
        f"All segmentations were scored again by samunet {__version__} (numpy {np.__version__}, scipy "
        f"{scipy.__version__}) against the same references; NSD at {comparison.tolerance:g} {comparison.unit}."
    )
    lines.append(
        "Intervals are BCa bootstrap intervals of the mean paired difference over patients; p is Wilcoxon's "
        "signed-rank test with Pratt's rule, adjusted over classes by Holm. Where a class is absent from the "
        "reference, a method that leaves it out counts as perfect."
    )
    return lines


def _same_folds(entry: Entry) -> list[str]:
    folds = sorted((path.parents[1].name, case) for case, path in entry.files.items())
    named = ", ".join(sorted({fold for fold, _ in folds}))
    return [f"The same cases of {named} for all, hash of the split {_digest(json.dumps(folds))}."]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _training(name: str, model: Path, fold: str) -> Training:
    return Training(
        method=name, fold=fold.removeprefix("fold_"), cost=read_cost(model / fold), curve=curve_of(model / fold)
    )


def _how_trained(model: Path) -> str:
    """Say with which tool and plan a model was trained, and how its Dice spreads over seeds, where several were
    trained.
    """
    tool = f"samunet {__version__}"
    if model.name.startswith(TRAINER):
        tool = f"nnU-Net {version('nnunetv2')}" if find_spec("nnunetv2") else "nnU-Net"
    said = f"{model.name}: {tool} is installed"
    if (model / "plans.json").is_file():
        said += f"; hash of its plans.json {file_sha256(model / 'plans.json')[:16]}"
    for path in sorted(model.glob("fold_*_seeds.json")):
        seeds = decode(Seeds, read_json(path), str(path))
        if (dice := seeds.dice.get("foreground_mean")) is not None and dice.standard_deviation is not None:
            spread = f"Dice {dice.mean:.4f}, standard deviation {dice.standard_deviation:.4f}"
            said += f"; fold {path.stem.split('_')[1]} with {len(seeds.seeds)} seeds: {spread}"
    return f"{said}."
