"""Depth is an axis of the tensor: (B, D, ...) for layers that know one plane, (B, ..., D, ...) for those that know depth."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def slicewise(layer: Callable[[Tensor], Tensor], slab: Tensor) -> Tensor:
    """Apply a layer for (N, ...) planes to every slice of a (B, D, ...) slab; returns (B, D, ...)."""
    return layer(slab.flatten(0, 1)).unflatten(0, slab.shape[:2])
