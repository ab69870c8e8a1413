"""Which cases are worth labeling: the medoids of clusters of what a model sees in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.cluster import KMeans

from samunet.core.volume import Volume
from samunet.errors import ConfigError
from samunet.fewshot.likeness import plane_spacing, planes_of
from samunet.fewshot.models import PlaneModel

STARTS = 20  # of k-means, of which the best counts
MOST_PLANES = 16  # of a volume that are looked at, evenly over it


def summary_of(model: PlaneModel, volume: Volume, axis: int) -> np.ndarray:
    """Return a vector that tells volumes apart: the mean of what a model sees in their planes."""
    planes, spacing = planes_of(volume, axis), plane_spacing(volume, axis)
    places = np.unique(np.linspace(0, len(planes) - 1, MOST_PLANES).round().astype(int))
    return np.mean([model.summary(model.encode(planes[place], spacing)) for place in places], axis=0)


def directions(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Return (n, F) vectors of length 1 in which features count alike, whatever their scale; zeros where all agree."""
    stacked = np.stack(vectors)
    centered = (stacked - stacked.mean(0)) / np.maximum(stacked.std(0), 1e-6)
    return centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-6)


def refuse_count(count: int, cases: int) -> None:
    """Raise ConfigError where so many cases cannot be chosen."""
    if not 1 <= count <= cases:
        raise ConfigError(f"-n is the number of cases to choose, 1 to {cases} of these; got {count}.")


def medoids(vectors: Sequence[np.ndarray], count: int) -> list[int]:
    """Return the indices of the cases nearest to the centers of `count` clusters, those of the largest clusters first.

    Raises:
        ConfigError: there are fewer cases than that.
    """
    refuse_count(count, len(vectors))
    unit = directions(vectors)
    groups = KMeans(count, n_init=STARTS, random_state=0).fit(unit)
    chosen = []
    for group in np.argsort(-np.bincount(groups.labels_, minlength=count), kind="stable"):
        members = np.flatnonzero(groups.labels_ == group)
        if len(members):
            chosen.append(int(members[(unit[members] @ groups.cluster_centers_[group]).argmax()]))
    return chosen
