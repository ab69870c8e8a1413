"""Which values an array holds, between which bounds most of them lie, and the mean of those that are known."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

SAMPLING_SEED = 1234  # nnU-Net's, of drawn voxels
SAMPLED = 20_000  # values of an array from which a range or quartiles are taken
WIDEST = 1 << 20  # span of values up to which a table is quicker than sorting


def distinct(array: np.ndarray) -> tuple[int, ...]:
    """Return the distinct values of an integer array (n, ...) in ascending order, quicker than `numpy.unique`."""
    if not array.size:
        return ()
    lowest, highest = min(int(array.min()), 0), max(int(array.max()), 0)
    if highest - lowest >= WIDEST:
        return tuple(np.unique(array).tolist())
    seen = np.zeros(highest - lowest + 1, bool)
    for part in array if array.ndim > 1 else array[None]:
        seen[part] = True  # negative values count from the end
    return (*(value for value in range(lowest, 0) if seen[value]), *np.flatnonzero(seen[: highest + 1]).tolist())


def known_mean(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN where none is."""
    numbers = [value for value in values if not math.isnan(value)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def typical_range(values: np.ndarray) -> tuple[float, float]:
    """Return the 1st and 99th percentile of a sample of an array's values other than 0; of all where all are 0."""
    sample = values.reshape(-1)[:: max(1, values.size // SAMPLED)]
    present = sample[sample != 0]
    low, high = np.percentile(present if present.size else sample, (1, 99))
    return (float(low), float(high))
