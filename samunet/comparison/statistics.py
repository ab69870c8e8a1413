"""Paired comparisons: how large a difference is, how sure it is, and how stable a ranking."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2000
PERMUTATIONS = 9999
BLOCK = 10**7  # numbers at a time
SIGNIFICANCE = 0.05
RESAMPLING_SEED = 1234


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """One method against another on the same cases."""

    cases: int
    """Cases in which both have a number."""
    mean: float
    """Mean over cases of the second less the first."""
    low: float
    """Limits of the 95 % interval of the mean (BCa bootstrap over patients); NaN for fewer than three patients."""
    high: float
    p: float
    """Wilcoxon's signed-rank test over patients, differences of 0 by Pratt's rule; 1 where all differences are 0."""
    rank_sign: int
    """1 where positive differences have the larger sum of ranks, -1 where negative ones have, else 0."""


def paired_difference(first: np.ndarray, second: np.ndarray, patients: Sequence[str]) -> PairedDifference:
    """Compare two methods.

    Args:
        first: (N,) scores of one method per case; NaN does not count.
        second: likewise.
        patients: of each case; cases of one patient are resampled together, and the test looks at their mean
            difference.

    Source: Efron (1987) for BCa intervals; Pratt (1959).
    """
    in_both = ~(np.isnan(first) | np.isnan(second))
    differences = (second - first)[in_both]
    names = np.asarray(patients)[in_both]
    if not len(differences):
        return PairedDifference(cases=0, mean=math.nan, low=math.nan, high=math.nan, p=math.nan, rank_sign=0)
    _, group = np.unique(names, return_inverse=True)
    counts = np.bincount(group).astype(float)
    sums = np.bincount(group, weights=differences)
    low, high = _interval(sums, counts)
    means = sums / counts
    return PairedDifference(
        cases=len(differences),
        mean=float(differences.mean()),
        low=low,
        high=high,
        p=_signed_rank_p(means),
        rank_sign=int(np.sign((np.sign(means) * stats.rankdata(np.abs(means))).sum())),
    )


def holm(values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values for testing several at once (Holm, 1979); NaN stays and does not count."""
    adjusted = [math.nan] * len(values)
    ascending = sorted((value, index) for index, value in enumerate(values) if not math.isnan(value))
    largest = 0.0
    for rank, (value, index) in enumerate(ascending):
        largest = max(largest, min(1.0, (len(ascending) - rank) * value))
        adjusted[index] = largest
    return tuple(adjusted)


def rank_shares(scores: np.ndarray, patients: Sequence[str]) -> tuple[float, ...]:
    """Return how often each of M methods has the largest mean when patients are drawn again; ties are shared.

    Args:
        scores: (N, M), a row per case; rows with NaN do not count.
        patients: of each case.

    Source: Wiesenfarth et al. (2021), "Methods and open-source toolkit for analyzing and visualizing challenge
    results".
    """
    complete = ~np.isnan(scores).any(axis=1)
    scores = scores[complete]
    if not len(scores):
        return (math.nan,) * scores.shape[1]
    _, group = np.unique(np.asarray(patients)[complete], return_inverse=True)
    counts = np.bincount(group).astype(float)
    sums = np.stack([np.bincount(group, weights=column) for column in scores.T], axis=1)
    drawn = np.random.default_rng(RESAMPLING_SEED).integers(len(counts), size=(RESAMPLES, len(counts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1, keepdims=True)
    best = np.isclose(means, means.max(axis=1, keepdims=True), rtol=0, atol=1e-12)
    return tuple((best / best.sum(axis=1, keepdims=True)).mean(axis=0).tolist())


def is_shown(difference: PairedDifference) -> bool:
    """Tell whether a difference counts as shown: interval and test leave out 0, and both point to one side."""
    side = int(difference.low > 0) - int(difference.high < 0)
    return difference.p < SIGNIFICANCE and side != 0 and side == difference.rank_sign


def _signed_rank_p(means: np.ndarray) -> float:
    """Wilcoxon's test; with zeros or ties by flipping signs, since the normal approximation is far off there."""
    if not means.any():
        return 1.0
    if len(np.unique(np.abs(means))) == len(means) and means.all():
        return float(stats.wilcoxon(means).pvalue)
    flips = stats.PermutationMethod(n_resamples=PERMUTATIONS, rng=np.random.default_rng(RESAMPLING_SEED))
    return float(stats.wilcoxon(means, zero_method="pratt", method=flips).pvalue)


def _interval(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """BCa interval of sum(sums) / sum(counts), one entry per patient."""
    if len(sums) < 3:
        return math.nan, math.nan
    means = sums / counts
    if np.ptp(means) == 0:
        return float(means[0]), float(means[0])

    def ratio(of_sums: np.ndarray, of_counts: np.ndarray, axis: int) -> np.ndarray:
        return of_sums.sum(axis=axis) / of_counts.sum(axis=axis)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # then the interval is NaN, which is said
        interval = stats.bootstrap(
            (sums, counts),
            ratio,
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, BLOCK // len(sums)),
            method="BCa",
            rng=np.random.default_rng(RESAMPLING_SEED),
        ).confidence_interval
    return float(interval.low), float(interval.high)
