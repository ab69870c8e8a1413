"""A case on the network's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samunet.core.history import SpatialHistory

OUTSIDE_NONZERO = -1  # nnU-Net's label value for voxels outside the nonzero region


@dataclass(frozen=True, kw_only=True)
class PreprocessedCase:
    """What preprocessing makes of one case."""

    image: np.ndarray
    """(C, D, H, W) float32, normalized."""
    label: np.ndarray | None
    """(D, H, W) int16; None for a case without reference. OUTSIDE_NONZERO marks background outside the nonzero region,
    in plans that normalize a channel within it."""
    history: SpatialHistory
