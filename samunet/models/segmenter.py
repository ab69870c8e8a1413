"""The contract between variants and the rest: a network with two verbs, `forward` and `loss`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from samunet.core.batch import Batch
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


class SlabSegmenter(nn.Module):
    """A network on slabs of slices."""

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, D, H, W) normalized image to (B, K, D, H, W) logits, K = labels.outputs."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return named scalar loss terms; the total is their sum."""
        raise NotImplementedError

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the trainable parameters by group: "backbone" and "head"; each parameter once."""
        raise NotImplementedError
