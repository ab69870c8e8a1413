"""What the data and the plan ask of a network."""

from __future__ import annotations

from dataclasses import dataclass

from samunet.core.geometry import Shape, Triple
from samunet.core.labels import Labels
from samunet.core.plan import Topology


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What the data and the plan ask of a network. Shapes and spacings are (D, H, W)."""

    schemes: tuple[str, ...]
    """Normalization scheme of each input channel."""
    labels: Labels
    spacing: Triple
    """mm."""
    patch_size: Shape
    encoder_scale: float
    """Encoder pixels per voxel in the plane."""
    topology: Topology
    pretrained: bool
    """True when the SAM handed to `build` holds pretrained weights."""
