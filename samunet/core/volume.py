"""An image in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samunet.core.geometry import Geometry
from samunet.errors import ShapeError


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Intensities of one case on one grid."""

    array: np.ndarray
    """(C, D, H, W) float32."""
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.shape[1:] != self.geometry.shape:
            raise ShapeError(
                f"A volume is (C, D, H, W) on its geometry's grid {self.geometry.shape}; got an array of shape "
                f"{self.array.shape}."
            )
