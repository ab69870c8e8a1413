"""Score predictions against references, a case or a folder at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from samunet.core.dataset import files_with_ending
from samunet.core.geometry import REFUSE_VOXELS, WARN_VOXELS, Geometry
from samunet.core.labels import Labels
from samunet.core.names import listed
from samunet.core.prompts import prompts_behind
from samunet.core.units import counted
from samunet.errors import ConfigError, DatasetError
from samunet.evaluation.summary import CaseScore, Metrics, Summary, Target, summarize, target_key
from samunet.imageio import ImageReader
from samunet.imageio.case import refuse_unexpected_values
from samunet.imageio.masks import channel_case, holds_labels, masks_among
from samunet.machine.progress import pool_of
from samunet.ops.components import detection_f1
from samunet.ops.overlap import overlap
from samunet.ops.surface import surface_scores

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is measured beside overlap."""

    tolerance: float | None = None
    """Tolerance of NSD, in mm, or pixels where references tell no size; None measures no surfaces and volumes."""
    lesions: bool = False
    """Count connected components that are found and missed."""


def targets_from_labels(labels: Labels) -> tuple[Target, ...]:
    """Return what nnU-Net scores: every foreground class, or every region where labels hold regions."""
    return tuple(values for _, values in labels.foreground)


def names_from_labels(labels: Labels) -> dict[str, str]:
    """Map the summary.json key of every foreground class or region to its name in dataset.json."""
    return {target_key(values): name for name, values in labels.foreground}


def score_case(
    reference: Path,
    prediction: Path,
    *,
    targets: Sequence[Target],
    ignore: int | None,
    reader: ImageReader,
    measures: Measures | None = None,
    expected: Sequence[int] | None = None,
) -> CaseScore:
    """Score one predicted segmentation file; voxels where the reference is `ignore` do not count.

    Args:
        expected: values that the two files may hold; None where nothing says which.

    Raises:
        DatasetError: the two files do not share one grid (to half a voxel at every corner), or one holds another value
            than expected.
    """
    reference_label, reference_geometry = reader.read_label(reference)
    segmentation, geometry = reader.read_label(prediction)
    if reference_label.shape != segmentation.shape:
        raise DatasetError(
            f"Case '{reference.name}': prediction has shape {segmentation.shape}, reference has "
            f"{reference_label.shape}. "
            "They must share one grid; predict from the image that the reference was drawn on."
        )
    apart = geometry.voxels_apart(reference_geometry)
    if apart >= REFUSE_VOXELS:
        raise DatasetError(
            f"Case '{reference.name}': prediction and reference lie {geometry.apart(reference_geometry)} apart at a "
            f"corner, expected less than half a voxel. Check spacing, origin and direction of {prediction}."
        )
    if apart >= WARN_VOXELS:
        logger.warning(
            "Case '%s': prediction and reference lie %s apart at a corner.",
            reference.name,
            geometry.apart(reference_geometry),
        )
    if expected is not None:
        for label, path in ((reference_label, reference), (segmentation, prediction)):
            refuse_unexpected_values(label, expected, str(path))
    metrics = {}
    for target in targets:
        counts = overlap(reference_label, segmentation, tuple(target), ignore)
        metrics[tuple(target)] = Metrics(
            dice=float(counts.dice),
            iou=float(counts.iou),
            tp=int(counts.tp),
            fp=int(counts.fp),
            fn=int(counts.fn),
            tn=int(counts.tn),
            n_pred=int(counts.n_pred),
            n_ref=int(counts.n_ref),
            **_measure(reference_label, segmentation, target, ignore, reference_geometry, measures or Measures()),
        )
    return CaseScore(
        reference_file=str(reference), prediction_file=str(prediction), metrics=metrics, unit=reference_geometry.unit
    )


def scorer(labels: Labels, reader: ImageReader, measures: Measures | None = None) -> Callable[[Path, Path], CaseScore]:
    """Return `score_case` for the classes or regions of a dataset, of (reference, prediction)."""
    targets, expected = targets_from_labels(labels), labels.expected_in_files
    return partial(
        score_case, targets=targets, ignore=labels.ignore, reader=reader, measures=measures, expected=expected
    )


def evaluate_folder(
    reference_folder: Path,
    prediction_folder: Path,
    *,
    targets: Sequence[Target],
    ignore: int | None,
    file_ending: str,
    reader: ImageReader,
    threads: int,
    chill: bool = False,
    measures: Measures | None = None,
    expected: Sequence[int] | None = None,
) -> Summary:
    """Score every prediction in a folder against the reference of the same file name.

    Args:
        targets: label values of each class or region to score.
        ignore: reference value of voxels that do not count; None when there is none.
        file_ending: of references and predictions, e.g. ".nii.gz".
        threads: cases read and scored at a time.
        chill: score the cases that have both files, instead of refusing when one is missing.
        measures: what is measured beside overlap.
        expected: values that the files may hold, see `score_case`.

    Raises:
        ConfigError: there is nothing to score, or fewer than one thread.
        DatasetError: a folder or a file is missing, or a prediction is not on its reference's grid.
    """
    if threads < 1 or not targets:
        raise ConfigError(
            f"Scoring needs at least one thread and one label; got {threads} threads and labels {list(targets)}."
        )
    references, predictions = (
        files_with_ending(folder, file_ending) for folder in (reference_folder, prediction_folder)
    )
    references, predictions = (
        _without_images(files, others, file_ending)
        for files, others in ((references, predictions), (predictions, references))
    )
    if not chill:
        unpredicted, unknown = references.keys() - predictions.keys(), predictions.keys() - references.keys()
        refuse_missing(
            unpredicted,
            f"no prediction in {prediction_folder}",
            "Predict them, or score the rest with --chill (chill=True in Python).",
        )
        refuse_missing(
            unknown,
            f"no reference in {reference_folder}",
            "Move them away, or leave them out with --chill (chill=True in Python).",
        )
    names = sorted(references.keys() & predictions.keys())
    if not names:
        raise DatasetError(
            f"No file ending in {file_ending} is in both {reference_folder} ({counted(len(references), 'file')}) and "
            f"{prediction_folder} ({counted(len(predictions), 'file')}); a prediction must have the file name of its "
            "reference."
        )
    score = partial(score_case, targets=targets, ignore=ignore, reader=reader, measures=measures, expected=expected)
    with pool_of(threads) as pool:
        scores = list(pool.map(lambda name: score(references[name], predictions[name]), names))
    return summarize(
        scores, prompts_behind(prediction_folder), tolerance=None if measures is None else measures.tolerance
    )


def _without_images(files: dict[str, Path], others: dict[str, Path], file_ending: str) -> dict[str, Path]:
    """Leave out images beside which their masks lie, but none whose name `others` has.

    The mask of a case's channels takes the case's name where `others` has that, and not its own.
    """
    masks = masks_among(list(files.values()))
    cases = {mask: case for mask, image in masks.items() if (case := channel_case(image)) is not None}
    images = {
        path: name
        for name, path in files.items()
        if (path in masks.values() or channel_case(path) in cases.values())
        and not (path in masks or name in others or holds_labels(path) is not False)
    }
    kept: dict[str, Path] = {}
    for name, path in files.items():
        case = f"{cases[path]}{file_ending}" if path in cases else name
        taken = case if case in others and name not in others else name
        if path not in images and (other := kept.setdefault(taken, path)) != path:
            raise DatasetError(
                f"{other} and {path.name} are both of {taken}, which is to be scored once; give each a file of its own "
                "name in the other folder, or leave one in this."
            )
    if images:
        folder, left, names = next(iter(images)).parent, counted(len(images), "file"), listed(list(images.values()))
        logger.warning("%s: %s left out, as images beside which their masks lie: %s.", folder, left, names)
    return kept


def _measure(
    reference: np.ndarray,
    prediction: np.ndarray,
    target: Target,
    ignore: int | None,
    geometry: Geometry,
    measures: Measures,
) -> dict[str, float]:
    """Return the fields of Metrics beyond overlap that are asked for."""
    scores: dict[str, float] = {}
    if measures.tolerance is None and not measures.lesions:
        return scores
    referenced, predicted = (np.isin(array, target) for array in (reference, prediction))
    ignored = None if ignore is None else reference == ignore
    if ignored is not None:
        referenced, predicted = (mask & ~ignored for mask in (referenced, predicted))
    if measures.tolerance is not None:
        scores |= vars(surface_scores(referenced, predicted, geometry.spacing, measures.tolerance, ignored))
        if (voxel := geometry.voxel_ml) is not None:
            scores |= {
                "volume_pred_ml": voxel * np.count_nonzero(predicted),
                "volume_ref_ml": voxel * np.count_nonzero(referenced),
            }
    if measures.lesions:
        scores["detection_f1"] = detection_f1(referenced, predicted)
    return scores


def refuse_missing(names: set[str], what: str, way_out: str) -> None:
    """Raise DatasetError that lists the cases that lack something, unless there is none."""
    if names:
        have = "case has" if len(names) == 1 else "cases have"
        raise DatasetError(f"{len(names)} {have} {what}: {listed(sorted(names))}. {way_out}")
