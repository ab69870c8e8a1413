"""Find out on validation cases where keeping only the largest component helps, and apply that to others.

Source: nnU-Net's rule (Isensee et al., 2021): first the whole foreground, adopted when its mean Dice rises and no class
loses; then each class or region by itself, adopted when its own Dice rises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samunet.core.codec import decode, read_json
from samunet.core.dataset import files_with_ending
from samunet.core.labels import Labels
from samunet.core.lock import held
from samunet.core.prompts import carry_prompts
from samunet.core.ranges import Count, LabelValue, Share
from samunet.core.values import known_mean
from samunet.errors import ConfigError, DatasetError
from samunet.evaluation.score import refuse_missing, targets_from_labels
from samunet.evaluation.summary import Target
from samunet.imageio import ImageReader
from samunet.imageio.case import refuse_unexpected_values
from samunet.machine.progress import each
from samunet.ops.components import keep_largest
from samunet.ops.overlap import overlap

POSTPROCESSING_FORMAT = 1
POSTPROCESSING_FILE = "postprocessing.json"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One removal: of these labels only the largest component stays."""

    values: tuple[LabelValue, ...]
    dice_before: Share
    """Mean foreground Dice, or that of the class, before and after it."""
    dice_after: Share

    def __post_init__(self) -> None:
        if not self.values:
            raise ConfigError("a step must name one label or more in values; got none.")


@dataclass(frozen=True, kw_only=True)
class Postprocessing:
    """What to do with segmentations of a model, in this order."""

    steps: tuple[Step, ...]
    cases: Count
    """Number of cases on which it was determined."""
    format: int = POSTPROCESSING_FORMAT

    def apply(self, segmentation: np.ndarray) -> np.ndarray:
        """Return a (D, H, W) segmentation with all steps applied."""
        for step in self.steps:
            segmentation = keep_largest(segmentation, step.values)
        return segmentation


def load_postprocessing(path: Path) -> Postprocessing:
    """Read postprocessing.json; raises ConfigError when it is absent or of another form."""
    postprocessing = decode(Postprocessing, read_json(path), path.name)
    if postprocessing.format != POSTPROCESSING_FORMAT:
        raise ConfigError(
            f"{path} has format {postprocessing.format}; this version of samunet reads format {POSTPROCESSING_FORMAT}. "
            "Determine it again."
        )
    return postprocessing


def determine(
    references: Mapping[str, Path],
    prediction_folder: Path,
    *,
    labels: Labels,
    file_ending: str,
    reader: ImageReader,
    threads: int,
) -> Postprocessing:
    """Choose the steps that help on predictions with references; raises DatasetError where a prediction or a reference
    is missing, or two do not share a grid.

    Args:
        references: by the file name of the prediction.
    """
    predictions = files_with_ending(prediction_folder, file_ending)
    refuse_missing(
        references.keys() - predictions.keys(),
        f"no prediction in {prediction_folder}",
        "Predict them, or leave their references out.",
    )
    refuse_missing(
        predictions.keys() - references.keys(),
        f"no reference in spite of a prediction in {prediction_folder}",
        "Move them away.",
    )
    if not references:
        raise DatasetError(f"There is no reference ending in {file_ending}, so nothing can be determined.")
    targets = targets_from_labels(labels)
    steps: list[Step] = []

    def dice(candidates: Sequence[Target]) -> np.ndarray:
        """Mean Dice over the cases after the steps chosen so far, and after one more: (1 + candidates, targets)."""

        def of_case(name: str) -> list[list[float]]:
            reference, _ = reader.read_label(references[name])
            segmentation, _ = reader.read_label(predictions[name])
            for label, path in ((reference, references[name]), (segmentation, predictions[name])):
                refuse_unexpected_values(label, labels.expected_in_files, str(path))
            if reference.shape != segmentation.shape:
                raise DatasetError(
                    f"{name}: prediction has shape {segmentation.shape}, reference {reference.shape}; they must share "
                    "one grid."
                )
            segmentation = Postprocessing(steps=tuple(steps), cases=0).apply(segmentation)
            forms = [segmentation, *(keep_largest(segmentation, values) for values in candidates)]
            return [
                [overlap(reference, form, tuple(target), labels.ignore).dice for target in targets] for form in forms
            ]

        scores = np.array(each(of_case, sorted(references), threads=threads, title="Postprocessing", quiet=True))
        return np.array([[known_mean(values) for values in form.T] for form in scores.swapaxes(0, 1)])

    foreground = tuple(sorted({value for target in targets for value in target}))
    before, after = dice([foreground])
    if known_mean(after) > known_mean(before) and not (after < before).any():  # a comparison with NaN is False
        steps.append(Step(values=foreground, dice_before=known_mean(before), dice_after=known_mean(after)))
    # A class takes no voxel of another, so that all are tried on one reading; regions overlap and come one after the
    # other.
    groups = [[target] for target in targets] if labels.has_regions else [list(targets)]
    for together in groups if len(targets) > 1 else ():
        before, *all_after = dice(together)
        for target, after in zip(together, all_after, strict=True):
            index = targets.index(target)
            if after[index] > before[index]:
                steps.append(Step(values=target, dice_before=float(before[index]), dice_after=float(after[index])))
    return Postprocessing(steps=tuple(steps), cases=len(references))


def apply_to_folder(
    postprocessing: Postprocessing,
    source: Path,
    target: Path,
    *,
    labels: Labels,
    file_ending: str,
    reader: ImageReader,
    threads: int,
) -> tuple[str, ...]:
    """Write every segmentation of a folder, with all steps applied, to another folder; returns their file names.

    Raises:
        DatasetError: there is none, or one holds other values than the labels.
        ConfigError: both folders are one, or a step is about other values than the labels.
    """
    foreign = sorted({value for step in postprocessing.steps for value in step.values} - {*labels.all_values})
    if foreign:
        raise ConfigError(
            f"The postprocessing is about label {foreign[0]}, and dataset.json names {list(labels.all_values)}; give "
            "the one that was determined on this dataset."
        )
    if source.resolve() == target.resolve():
        raise ConfigError(f"{source} is input and output; give another output folder.")
    files = files_with_ending(source, file_ending)
    if not files:
        raise DatasetError(f"No file ending in {file_ending} is in {source}.")

    def run(name: str) -> None:
        segmentation, geometry = reader.read_label(files[name])
        refuse_unexpected_values(segmentation, labels.expected_in_files, str(files[name]))
        kept = postprocessing.apply(segmentation)
        reader.write_segmentation(
            kept.astype(np.uint8 if kept.max(initial=0) < 256 else np.uint16), geometry, target / name
        )

    with held(target):
        each(run, list(files), threads=threads, title="Postprocessing", quiet=True)
        carry_prompts([source], target)
    return tuple(files)


def name_of(target: Target, labels: Labels) -> str:
    """Return the name of a class or region, "foreground" for all of it together."""
    return next((name for name, values in labels.foreground if tuple(values) == tuple(target)), "foreground")
