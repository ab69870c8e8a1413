"""Two or more sets of predictions of the same cases, scored by one evaluator and compared in pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samunet.comparison.statistics import PairedDifference, holm, is_shown, paired_difference, rank_shares
from samunet.core.labels import Labels
from samunet.core.prompts import refuse_mixed
from samunet.core.units import counted
from samunet.errors import ConfigError
from samunet.evaluation.score import Measures, names_from_labels, refuse_missing, scorer
from samunet.evaluation.summary import Summary, summarize, target_key
from samunet.imageio import ImageReader
from samunet.machine.progress import each

METRICS = {"dice": "Dice", "nsd": "NSD", "hd95": "HD95"}
"""What is compared, by its name in Metrics; of HD95 less is better."""
PERFECT = {"dice": 1.0, "nsd": 1.0, "hd95": 0.0}
MEAN = "mean"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One set of predictions."""

    name: str
    files: dict[str, Path]
    """Segmentation of each case."""
    prompts: str | None = None
    """From where the prompts are that it was made with; None where there were none."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one class or region, or of the mean over them, for one pair of methods."""

    metric: str
    target: str
    """Key in summary.json, or "mean"."""
    name: str
    first: str
    second: str
    means: tuple[float, float]
    difference: PairedDifference
    """The second less the first."""
    p_holm: float
    """p adjusted over the classes of this metric and pair; of the mean, p itself."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that was found."""

    cases: tuple[str, ...]
    patients: tuple[str, ...]
    """Patient of each case; the case itself where nothing else is known."""
    patients_known: bool
    """False where every case was taken for a patient."""
    summaries: dict[str, Summary]
    """Scores of each method, cases in the same order."""
    rows: tuple[Row, ...]
    first_ranks: dict[str, float]
    """Share of resamplings of the patients in which a method has the best mean Dice."""
    tolerance: float
    """Tolerance of NSD, in `unit`."""

    @property
    def unit(self) -> str:
        """What distances count, see `Summary.unit`."""
        return next(iter(self.summaries.values())).unit

    @property
    def prompts(self) -> dict[str, str]:
        """From where the prompts of a method are; empty where all segmented without."""
        return {name: summary.prompts for name, summary in self.summaries.items() if summary.prompts is not None}

    def verdicts(self) -> tuple[str, ...]:
        """Return a sentence a pair, on the mean Dice."""
        return tuple(_verdict(row) for row in self.rows if row.metric == "dice" and row.target == MEAN)

    def case_means(self, metric: str) -> np.ndarray:
        """Return (cases, methods) means over classes; NaN where no class is there."""
        return _mean(case_values(self.summaries, metric), axis=2).T


def compare(
    entries: Sequence[Entry],
    references: Mapping[str, Path],
    labels: Labels,
    reader: ImageReader,
    *,
    patients: Mapping[str, str] | None = None,
    tolerance: float,
    threads: int = 1,
    quiet: bool = False,
) -> Comparison:
    """Score every entry on every case and compare each pair of entries.

    Where a class is absent from reference and one prediction but not from the other, the one that rightly leaves it out
    counts as perfect (Dice and NSD 1, HD95 0); where it is absent from all, the case does not count for the class.

    Args:
        entries: two or more, the baseline first.
        references: reference file of each case.
        patients: of each case; None takes every case for a patient.
        tolerance: of NSD, in mm, or in pixels where references tell no size of them.

    Raises:
        ConfigError: there are fewer than two entries, or two of one name, or some were made with prompts and others
            without.
        DatasetError: an entry lacks a case or has others, or a segmentation is not on its reference's grid.
    """
    if len(entries) < 2 or len({entry.name for entry in entries}) < len(entries):
        raise ConfigError(
            "A comparison takes two or more sets of predictions of different names; got "
            f"{[entry.name for entry in entries]}."
        )
    refuse_mixed({entry.name: entry.prompts for entry in entries})
    for entry in entries:
        predicted, lacking = entry.files.keys(), f"a prediction of {entry.name} but no reference"
        refuse_missing(references.keys() - predicted, f"no prediction of {entry.name}", "Compare on the same cases.")
        refuse_missing(predicted - references.keys(), lacking, "Compare on the same cases.")
    cases = tuple(sorted(references))
    score = scorer(labels, reader, Measures(tolerance=tolerance))
    pairs = [(references[case], entry.files[case]) for entry in entries for case in cases]
    scores = each(lambda pair: score(*pair), pairs, threads=threads, title="Scoring", quiet=quiet)
    count = len(cases)
    summaries = {
        entry.name: summarize(scores[i * count : (i + 1) * count], entry.prompts) for i, entry in enumerate(entries)
    }
    of_case = tuple((patients or {}).get(case, case) for case in cases)
    ranks = rank_shares(_mean(case_values(summaries, "dice"), axis=2).T, of_case)
    return Comparison(
        cases=cases,
        patients=of_case,
        patients_known=patients is not None,
        summaries=summaries,
        rows=tuple(row for metric in METRICS for row in _rows(summaries, metric, of_case, names_from_labels(labels))),
        first_ranks=dict(zip(summaries, ranks, strict=True)),
        tolerance=tolerance,
    )


def case_values(summaries: Mapping[str, Summary], metric: str) -> np.ndarray:
    """Return (methods, cases, classes) values; where some methods have none, since they rightly leave the class out,
    the perfect one.
    """
    cases = [summary.cases for summary in summaries.values()]
    values = np.array([[[getattr(m, metric) for m in case.metrics.values()] for case in own] for own in cases], float)
    missing = np.isnan(values)
    return np.where(missing & ~missing.all(axis=0), PERFECT[metric], values)


def _rows(
    summaries: Mapping[str, Summary], metric: str, patients: Sequence[str], names: Mapping[str, str]
) -> list[Row]:
    """Return the rows of every pair: each class, and the mean over classes where there are several."""
    values = case_values(summaries, metric)
    methods = list(summaries)
    keys = [target_key(target) for target in summaries[methods[0]].mean]
    rows = []
    for i, j in itertools.combinations(range(len(methods)), 2):
        pair = values[[i, j]]
        columns = [*np.moveaxis(pair, 2, 0), _mean(pair, axis=2)]
        differences = [paired_difference(first, second, patients) for first, second in columns]
        adjusted = [*holm([difference.p for difference in differences[:-1]]), differences[-1].p]
        for key, column, difference, p in zip([*keys, MEAN], columns, differences, adjusted, strict=True):
            first_mean, second_mean = _mean(column, axis=1)
            rows.append(
                Row(
                    metric=metric,
                    target=key,
                    name="mean over classes" if key == MEAN else names.get(key, key),
                    first=methods[i],
                    second=methods[j],
                    means=(float(first_mean), float(second_mean)),
                    difference=difference,
                    p_holm=p,
                )
            )
    return rows


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is not NaN; NaN where nothing is."""
    present = ~np.isnan(values)
    count = present.sum(axis=axis)
    return np.where(count, np.where(present, values, 0).sum(axis=axis) / np.maximum(count, 1), np.nan)


def _verdict(row: Row) -> str:
    difference, cases = row.difference, counted(row.difference.cases, "case")
    if math.isnan(difference.mean):
        return f"{row.first} and {row.second} cannot be compared: no case has a class in it."
    numbers = f"mean Dice {row.means[1]:.3f} against {row.means[0]:.3f} on {cases}"
    if difference.mean == difference.low == difference.high == 0:
        return f"No difference between {row.second} and {row.first}: {numbers}, equal on every case."
    interval = f"95 % interval {difference.low:+.3f} to {difference.high:+.3f}, p = {difference.p:.2g}"
    if math.isnan(difference.low):
        interval = "too few patients for an interval"
    interval = f"difference {difference.mean:+.3f}, {interval}"
    if not is_shown(difference):
        return f"A difference between {row.second} and {row.first} is not shown: {numbers}, {interval}."
    return f"{row.second} is {'better' if difference.mean > 0 else 'worse'} than {row.first}: {numbers}, {interval}."
