"""What a variant's loss is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Training patches of one step."""

    image: torch.Tensor
    """(B, C, D, H, W) float32, normalized as the plan says."""
    label: torch.Tensor
    """(B, D, H, W) int16 label values; the ignore value marks voxels without annotation."""
