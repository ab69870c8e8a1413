"""SAM without prompts: an adapted encoder, and a head that gives a mask for each class.

Axes: B batch, C channels, D H W voxels, h w token rows and columns, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from segment_anything.modeling import Sam
from torch import Tensor

from samunet.core.batch import Batch
from samunet.models.embeddings import EmbeddingCache
from samunet.models.losses import nearest
from samunet.models.sam_with_sites import AdaptedSAM
from samunet.models.spec import NetworkSpec
from samunet.sam.encoder import Sites


class PromptFreeSAM(AdaptedSAM):
    """An adapted SAM whose head gives one mask per class.

    Args:
        sam, spec, sites, settings: of `AdaptedSAM`; the head takes (N, C, h, w) embeddings to (N, K, f*h, f*w) logits,
            see `samunet.models.heads`.
        low_resolution_loss: take the loss on the decoder's logits against labels brought there by nearest neighbor
            (SAMed), instead of on the patch's grid.
    """

    def __init__(
        self,
        sam: Sam,
        spec: NetworkSpec,
        sites: Sequence[Sites] | None,
        *,
        low_resolution_loss: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(sam, spec, sites, **settings)
        self.low_resolution_loss = low_resolution_loss
        self.embeddings: EmbeddingCache | None = None

    def forward(self, image: Tensor) -> Tensor:
        return self.fit(self._planes(image), image.shape[2:])

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        logits, plane = self._planes(batch.image), batch.label.shape[2:]
        if not self.low_resolution_loss:
            return self.compare(self.fit(logits, batch.label.shape[1:]), batch.label)
        # Labels go to the resolution of the logits, on the part of the padded plane that the image covers.
        logits = self._cut(logits, plane)
        return self.compare(logits, nearest(batch.label, logits.shape[2:]))

    def keep_embeddings(self, folder: Path) -> bool:
        if self.pixels.pixel_range == "unit" and self.slab_depth > 1:
            return False  # a slice's pixels depend on the slab that it lies in
        if self.hq is not None:
            return False  # embeddings alone are kept
        parts = (self.pixels, self.image_encoder, self.sites)
        if any(parameter.requires_grad for part in parts for parameter in part.parameters()):
            return False
        self.embeddings = EmbeddingCache(folder, self.image_encoder)
        return True

    def _planes(self, image: Tensor) -> Tensor:
        """(B, C, D, H, W) to (B, K, D, f*h, f*w) logits of the padded encoder plane."""
        return slicewise(self.head, *self.embedded(image)).movedim(2, 1)

    def embedded(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, D, H, W) image to what the head takes, of each slice once where embeddings are kept."""
        pixels = self.pixels(image)
        return self.embed(pixels) if self.embeddings is None else (self.embeddings.embed(pixels, self.encode),)

    def _cut(self, logits: Tensor, plane: Sequence[int]) -> Tensor:
        """Take the padding of the encoder's plane away; `plane` is the patch's (H, W) in voxels."""
        used = [
            max(1, round(side * self.scale * have / whole))
            for side, have, whole in zip(plane, logits.shape[3:], self.pixels.encoder_size, strict=True)
        ]
        return logits[..., : used[0], : used[1]]


def slicewise(layer: Callable[..., Tensor], *slabs: Tensor) -> Tensor:
    """Apply a layer for (N, ...) planes to every slice of (B, D, ...) slabs; returns (B, D, ...)."""
    return layer(*(slab.flatten(0, 1) for slab in slabs)).unflatten(0, slabs[0].shape[:2])
