"""Boxes around what masks hold."""

from __future__ import annotations

import torch
from torch import Tensor


def extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """Return where (..., n) booleans first hold, and one past where they last do; 0 and n where they nowhere do."""
    held = line.float()
    return held.argmax(-1), line.shape[-1] - held.flip(-1).argmax(-1)


def tight_boxes(masks: Tensor) -> Tensor:
    """Return the boxes of (..., H, W) boolean masks as (..., 4) shares x1, y1, x2, y2 of the plane; zeros for an empty mask."""
    sides = [torch.stack(extent(masks.any(axis)), dim=-1) / masks.shape[other] for axis, other in ((-2, -1), (-1, -2))]
    return torch.stack(sides, dim=-1).flatten(-2) * masks.flatten(-2).any(-1).unsqueeze(-1)
