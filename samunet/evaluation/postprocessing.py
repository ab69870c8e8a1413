"""Find out on validation cases where keeping only the largest component helps, and apply that to others.

Source: nnU-Net's rule (Isensee et al., 2021): first the whole foreground, adopted when its mean Dice rises and no class loses; then
each class or region by itself, adopted when its own Dice rises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samunet.core.codec import decode, read_json, write_json
from samunet.core.labels import Labels
from samunet.errors import ConfigError, DatasetError
from samunet.evaluation.score import file_names, refuse_missing, targets_from_labels
from samunet.evaluation.summary import Target
from samunet.imageio import ImageReader
from samunet.ops.components import keep_largest
from samunet.ops.overlap import overlap
from samunet.progress import each

FORMAT = 1
FILE_NAME = "postprocessing.json"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One removal: of these labels only the largest component stays."""

    values: tuple[int, ...]
    dice_before: float
    """Mean foreground Dice, or that of the class, before and after it."""
    dice_after: float


@dataclass(frozen=True, kw_only=True)
class Postprocessing:
    """What to do with segmentations of a model, in this order."""

    steps: tuple[Step, ...]
    cases: int
    """On so many cases it was determined."""
    format: int = FORMAT

    def apply(self, segmentation: np.ndarray) -> np.ndarray:
        """Return a (D, H, W) segmentation with all steps applied."""
        for step in self.steps:
            segmentation = keep_largest(segmentation, step.values)
        return segmentation


def load_postprocessing(path: Path) -> Postprocessing:
    """Read postprocessing.json; raises ConfigError when it is absent or of another form."""
    found = decode(Postprocessing, read_json(path), path.name)
    if found.format != FORMAT:
        raise ConfigError(f"{path} has format {found.format}; this version of samunet reads format {FORMAT}. Determine it anew.")
    return found


def determine(
    reference_folder: Path, prediction_folder: Path, *, labels: Labels, file_ending: str, reader: ImageReader, threads: int
) -> Postprocessing:
    """Choose the steps that help on predictions with references.

    Raises:
        DatasetError: a prediction or a reference is missing, or two do not share a grid.
    """
    references, predictions = (file_names(folder, file_ending) for folder in (reference_folder, prediction_folder))
    refuse_missing(references - predictions, f"no prediction in {prediction_folder}", "Predict them, or give a folder with their references only.")
    refuse_missing(predictions - references, f"no reference in {reference_folder}", "Move them away.")
    if not references:
        raise DatasetError(f"No file ending in {file_ending} is in {reference_folder}.")
    targets = targets_from_labels(labels)
    chosen: list[Step] = []

    def dice(values: Sequence[int] | None) -> list[float]:
        """Mean Dice of every target over the cases after the steps chosen so far and, if given, one more."""

        def of_case(name: str) -> list[float]:
            reference, _ = reader.read_label(reference_folder / name)
            segmentation, _ = reader.read_label(prediction_folder / name)
            if reference.shape != segmentation.shape:
                raise DatasetError(f"{name}: prediction has shape {segmentation.shape}, reference {reference.shape}; they must share one grid.")
            segmentation = Postprocessing(steps=tuple(chosen), cases=0).apply(segmentation)
            segmentation = segmentation if values is None else keep_largest(segmentation, values)
            return [float(overlap(reference, segmentation, tuple(target), labels.ignore).dice) for target in targets]

        found = np.array(each(of_case, sorted(references), threads=threads, title="Postprocessing", quiet=True))
        return [_mean(column[~np.isnan(column)]) for column in found.T]

    before = dice(None)
    foreground = tuple(sorted({value for target in targets for value in target}))
    after = dice(foreground)
    loses = any(new < old for new, old in zip(after, before, strict=True))  # a comparison with NaN is False
    if _mean(_known(after)) > _mean(_known(before)) and not loses:
        chosen.append(Step(values=foreground, dice_before=_mean(_known(before)), dice_after=_mean(_known(after))))
        before = after
    for index, target in enumerate(targets if len(targets) > 1 else ()):
        after = dice(target)
        if after[index] > before[index]:
            chosen.append(Step(values=target, dice_before=before[index], dice_after=after[index]))
            before = after
    return Postprocessing(steps=tuple(chosen), cases=len(references))


def apply_to_folder(
    postprocessing: Postprocessing, source: Path, target: Path, *, file_ending: str, reader: ImageReader, threads: int
) -> tuple[str, ...]:
    """Write every segmentation of a folder, with all steps applied, to another folder; returns their file names.

    Raises:
        DatasetError: there is none.
        ConfigError: both folders are one.
    """
    if source.resolve() == target.resolve():
        raise ConfigError(f"{source} is input and output; give another output folder.")
    names = sorted(file_names(source, file_ending))
    if not names:
        raise DatasetError(f"No file ending in {file_ending} is in {source}.")

    def run(name: str) -> None:
        segmentation, geometry = reader.read_label(source / name)
        kept = postprocessing.apply(segmentation)
        reader.write_segmentation(kept.astype(np.uint8 if kept.max(initial=0) < 256 else np.uint16), geometry, target / name)

    each(run, names, threads=threads, title="Postprocessing", quiet=True)
    return tuple(names)


def save_postprocessing(path: Path, postprocessing: Postprocessing) -> None:
    """Write postprocessing.json, whole or not at all."""
    write_json(path, postprocessing)


def _known(values: Sequence[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def name_of(target: Target, labels: Labels) -> str:
    """Return the name of a class or region, "foreground" for all of it together."""
    return next((name for name, values in labels.foreground if tuple(values) == tuple(target)), "foreground")
