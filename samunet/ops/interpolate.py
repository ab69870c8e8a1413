"""Resize stacks of scores linearly, a small block of new voxels at a time, so that the whole is never needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from samunet.core.geometry import Shape
from samunet.ops.resample import Line, nearest_indices

BLOCK_SIDE = 32  # new voxels along a side: their scores of one class fit into a core's own memory


class Part(NamedTuple):
    """Some new voxels of a line, and the old ones they are made of."""

    new: slice
    old: slice
    weights: np.ndarray | None
    """(new, old) float32; None where new voxels are the old ones."""


class Block(NamedTuple):
    """Some new voxels of a volume: one part of each axis."""

    depth: Part
    height: Part
    width: Part

    @property
    def new(self) -> tuple[slice, slice, slice]:
        """Region of the new voxels."""
        return self.depth.new, self.height.new, self.width.new

    @property
    def old(self) -> tuple[slice, slice, slice]:
        """Region of the old voxels on which they depend."""
        return self.depth.old, self.height.old, self.width.old

    def resize(self, scores: np.ndarray) -> np.ndarray:
        """Interpolate the (K, D, H, W) float32 scores of the block's old voxels; returns those of its new ones."""
        if self.width.weights is not None:
            scores = scores @ self.width.weights.T
        if self.height.weights is not None:
            scores = self.height.weights @ scores
        if self.depth.weights is not None:
            classes, depth, height, width = scores.shape
            scores = (self.depth.weights @ scores.reshape(classes, depth, -1)).reshape(classes, -1, height, width)
        return scores


def blocks(shape: Shape, new_shape: Shape, *, axis: int | None) -> Iterator[Block]:
    """Cut a (D, H, W) grid of `new_shape` into blocks, W running fastest.

    Args:
        axis: axis of thick slices, along which the nearest slice is taken; None to interpolate in all directions.
    """
    sides = [
        _parts(old, new, nearest=side == axis) for side, (old, new) in enumerate(zip(shape, new_shape, strict=True))
    ]
    return itertools.starmap(Block, itertools.product(*sides))


@lru_cache(maxsize=64)
def _parts(size: int, new_size: int, *, nearest: bool) -> tuple[Part, ...]:
    """Cut a line of new voxels; outside the centers of the first and last old voxel their values go on."""
    if nearest:
        first = second = nearest_indices(size, new_size)
        share = np.zeros(new_size, np.float32)
    else:
        first, second, share = Line.between(size, new_size)
    parts = []
    for start in range(0, new_size, BLOCK_SIDE):
        new = slice(start, min(start + BLOCK_SIDE, new_size))
        old = slice(int(first[new][0]), int(second[new][-1]) + 1)
        weights = np.zeros((new.stop - new.start, old.stop - old.start), np.float32)
        rows = np.arange(len(weights))
        np.add.at(weights, (rows, first[new] - old.start), 1 - share[new])
        np.add.at(weights, (rows, second[new] - old.start), share[new])
        parts.append(Part(new, new if size == new_size else old, None if size == new_size else weights))
    return tuple(parts)
