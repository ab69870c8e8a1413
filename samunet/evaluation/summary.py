"""nnU-Net's summary.json: the scores of a folder of predictions, in memory and on disk.

A target is what is scored: a tuple of label values, (1,) for class 1 and (1, 2, 3) for a region. In the file class 1
has the key "1" and the region the key "(1, 2, 3)"; undefined scores are the token NaN, which Python's json reads and
writes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samunet.core.codec import read_json, write_csv, write_text
from samunet.core.names import LONGEST_FILE_NAME, brief, fault_of_name
from samunet.core.values import known_mean
from samunet.errors import ConfigError, DatasetError

SUMMARY = "summary.json"  # its usual name
Target = tuple[int, ...]
BACKGROUND: Target = (0,)
KEYS = {
    "dice": "Dice",
    "iou": "IoU",
    "tp": "TP",
    "fp": "FP",
    "fn": "FN",
    "tn": "TN",
    "n_pred": "n_pred",
    "n_ref": "n_ref",
}
MORE_KEYS = {
    "nsd": "NSD",
    "hd95": "HD95",
    "hd": "HD",
    "assd": "ASSD",
    "volume_pred_ml": "volume_pred_ml",
    "volume_ref_ml": "volume_ref_ml",
    "detection_f1": "detection_F1",
}
"""What nnU-Net's file does not have and its reader passes over; written where it was measured."""
SHARES = ("Dice", "IoU", "NSD", "detection_F1")
MEAN_ROUNDING = 1e-6  # of means
TOLERANCE_KEY = "nsd_tolerance"  # of NSD, in the unit of distances
UNIT_KEY, LENGTH_UNITS = "distance_unit", ("mm", "pixels", "voxels")  # what distances count, written where it is not mm
PROMPTS_KEY = "prompts"  # likewise, of predictions that were made with them


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Overlap of one target in one case, or the mean of such overlaps; counts are in voxels."""

    dice: float
    """0 to 1; NaN where the target is in neither the reference nor the prediction."""
    iou: float
    """0 to 1; NaN where Dice is."""
    tp: float
    fp: float
    fn: float
    tn: float
    n_pred: float
    """Voxels predicted as the target: tp + fp."""
    n_ref: float
    """Voxels of the target in the reference: tp + fn."""
    nsd: float | None = None
    """Normalized surface Dice, 0 to 1; this and all below None where it was not measured."""
    hd95: float | None = None
    """95 % Hausdorff distance in mm, or in the unit of `Summary.unit`; so the two below."""
    hd: float | None = None
    """Hausdorff distance."""
    assd: float | None = None
    """Average symmetric surface distance."""
    volume_pred_ml: float | None = None
    volume_ref_ml: float | None = None
    detection_f1: float | None = None
    """F1 score of finding connected components, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """All targets of one case."""

    reference_file: str
    prediction_file: str
    metrics: dict[Target, Metrics]
    unit: str = "mm"
    """Unit of distances: "mm", or "pixels" or "voxels" where the reference file tells no size of them."""

    @property
    def name(self) -> str:
        """File name of the prediction."""
        return Path(self.prediction_file).name


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Scores of a folder of predictions."""

    cases: tuple[CaseScore, ...]
    mean: dict[Target, Metrics]
    """Mean over the cases in which a metric has a number; NaN where none has."""
    foreground_mean: Metrics
    """Mean over the targets other than background."""
    prompts: str | None = None
    """Source of the prompts that the predictions were made with; None where there were none."""
    unit: str = "mm"
    """Unit of distances: "mm", "pixels" or "voxels"; "mm and pixels" where cases differ."""
    tolerance: float | None = None
    """Of NSD, in that unit; None where it was not measured, or nobody wrote it down."""

    def dice(self, target: Target) -> tuple[float, ...]:
        """Return the Dice of every case that has one for this target; cases with NaN are left out."""
        return tuple(case.metrics[target].dice for case in self.cases if not math.isnan(case.metrics[target].dice))

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the metrics beyond nnU-Net's that were measured."""
        return tuple(name for name in MORE_KEYS if getattr(self.foreground_mean, name) is not None)


def summarize(cases: Sequence[CaseScore], prompts: str | None = None, *, tolerance: float | None = None) -> Summary:
    """Average the scores of cases; NaN is skipped everywhere. Raises DatasetError where there is no case, or cases
    differ in their targets.

    A target that is absent from all references and predictions does not count in `foreground_mean`. nnU-Net lets such
    a target turn the foreground mean into NaN; all other values are the same.

    Args:
        prompts: from where the prompts behind the predictions are, if there were any.
        tolerance: that NSD was measured with, in the cases' unit.
    """
    if not cases:
        raise DatasetError("There are no cases to summarize; a summary needs at least one scored case.")
    targets = tuple(cases[0].metrics)
    for case in cases:
        if set(case.metrics) != set(targets):
            raise DatasetError(
                f"Case '{case.name}' is scored on {sorted(case.metrics)}, the first case on {sorted(targets)}; score "
                "all on the same."
            )
    unit = " and ".join(sorted({case.unit for case in cases}))
    mean = {target: _mean([case.metrics[target] for case in cases]) for target in targets}
    foreground = [metrics for target, metrics in mean.items() if target != BACKGROUND]
    return Summary(
        cases=tuple(cases),
        mean=mean,
        foreground_mean=_mean(foreground),
        prompts=prompts,
        unit=unit,
        tolerance=tolerance,
    )


def write_summary(path: Path, summary: Summary) -> None:
    """Write nnU-Net's summary.json atomically, keys sorted."""
    raw = (
        {
            "foreground_mean": _to_json(summary.foreground_mean),
            "mean": {target_key(target): _to_json(metrics) for target, metrics in summary.mean.items()},
            "metric_per_case": [
                {
                    "metrics": {target_key(target): _to_json(metrics) for target, metrics in case.metrics.items()},
                    "prediction_file": case.prediction_file,
                    "reference_file": case.reference_file,
                }
                for case in summary.cases
            ],
        }
        | ({} if summary.prompts is None else {PROMPTS_KEY: summary.prompts})
        | ({} if summary.unit == "mm" else {UNIT_KEY: summary.unit})
        | ({} if summary.tolerance is None else {TOLERANCE_KEY: summary.tolerance})
    )
    write_text(path, json.dumps(raw, indent=4, sort_keys=True) + "\n")


def write_table(path: Path, summary: Summary, names: Mapping[str, str]) -> None:
    """Write the scores as CSV atomically, a row per case and class or region.

    Args:
        names: summary.json key of each to its name; one without is shown by its key.
    """
    columns = KEYS | {name: MORE_KEYS[name] for name in summary.measured}
    rows = [
        [case.name, names.get(target_key(target), target_key(target)), *(getattr(metrics, name) for name in columns)]
        for case in summary.cases
        for target, metrics in case.metrics.items()
    ]
    write_csv(path, ["case", "class", *columns.values()], rows)


def read_summary(path: Path) -> Summary:
    """Read a summary.json that samunet or nnU-Net wrote; the means are taken as they stand, further keys are ignored.
    Raises ConfigError where the file is absent, not JSON, or lacks a part of a summary.
    """
    raw = read_json(path)
    try:
        summary = Summary(
            cases=tuple(
                CaseScore(
                    reference_file=case["reference_file"],
                    prediction_file=case["prediction_file"],
                    metrics=_targets_from_json(case["metrics"]),
                    unit=raw.get(UNIT_KEY, "mm"),
                )
                for case in raw["metric_per_case"]
            ),
            mean=_targets_from_json(raw["mean"]),
            foreground_mean=_from_json(raw["foreground_mean"]),
            prompts=raw.get(PROMPTS_KEY),
            unit=raw.get(UNIT_KEY, "mm"),
            tolerance=raw.get(TOLERANCE_KEY),
        )
        if set(summary.unit.split(" and ")) - set(LENGTH_UNITS):
            raise ValueError(f"{UNIT_KEY} is {summary.unit[:60]!r}, none of {', '.join(LENGTH_UNITS)}")
        if not isinstance(summary.tolerance, int | float | None) or isinstance(summary.tolerance, bool):
            raise ValueError(f"{TOLERANCE_KEY} is {brief(summary.tolerance)}, not a number")
        if not isinstance(summary.prompts, str | None):
            raise ValueError(f"{PROMPTS_KEY} is {summary.prompts!r}, not text")
        for case in summary.cases:
            if not isinstance(case.reference_file, str) or not isinstance(case.prediction_file, str):
                raise ValueError(f"the files of case {case.name[:60]!r} are no text")
            if case.metrics.keys() != summary.mean.keys():
                raise ValueError(f"case {case.name[:60]!r} has other classes than the mean")
            if (fault := fault_of_name(case.name, LONGEST_FILE_NAME)) is not None:
                raise ValueError(f"the file name {case.name[:60]!r} {fault}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"File {path} is not a summary.json: {type(error).__name__} {error}. "
            "It needs foreground_mean, mean and metric_per_case; write it again with samunet_evaluate_folder."
        ) from None
    return summary


def target_key(target: Target) -> str:
    """Return the key of a target in summary.json: "1" for a class, "(1, 2)" for a region."""
    return str(target[0]) if len(target) == 1 else str(target)


def parse_target_key(key: str) -> Target:
    """Return the target of a key in summary.json; raises ValueError when it holds no label value."""
    values = tuple(int(number) for number in re.findall(r"-?\d+", key))
    if not values:
        raise ValueError(f"'{key}' names no label value")
    return values


def _to_json(metrics: Metrics) -> dict[str, float]:
    more = {key: getattr(metrics, name) for name, key in MORE_KEYS.items()}
    return {key: getattr(metrics, name) for name, key in KEYS.items()} | {
        key: value for key, value in more.items() if value is not None
    }


def _from_json(raw: Mapping[str, Any]) -> Metrics:
    more = {name: key for name, key in MORE_KEYS.items() if raw.get(key) is not None}
    for key in (*KEYS.values(), *more.values()):
        value = raw[key]
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ValueError(f"{key} is {brief(value)}, not a number")
        if value < 0 or value > (1 + MEAN_ROUNDING if key in SHARES else math.inf):  # NaN is neither
            raise ValueError(f"{key} is {value}, expected {'0 to 1' if key in SHARES else '0 or more'}")
    return Metrics(**{name: raw[key] for name, key in (KEYS | more).items()})


def _targets_from_json(raw: Mapping[str, Any]) -> dict[Target, Metrics]:
    scores = {parse_target_key(key): _from_json(metrics) for key, metrics in raw.items()}
    if len(scores) < len(raw):
        raise ValueError(f"two of the keys {brief(list(raw))} are one class")
    return scores


def _mean(scores: Sequence[Metrics]) -> Metrics:
    names = [
        *KEYS,
        *(name for name in MORE_KEYS if scores and all(getattr(score, name) is not None for score in scores)),
    ]
    return Metrics(**{name: known_mean(getattr(score, name) for score in scores) for name in names})
