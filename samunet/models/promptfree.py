"""SAM without prompts: adapted encoder, class tokens, one mask a class; what MA-SAM, SAMed and full fine-tuning share.

Axes: B batch, C channels, D H W voxels, h w token rows and columns, K outputs. Slices meet only in the encoder's sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from samunet.core.batch import Batch
from samunet.models.adapters import merge_updates
from samunet.models.embeddings import EmbeddingCache
from samunet.models.inputs import SAMPixels
from samunet.models.losses import nearest, slab_sums, slab_terms
from samunet.models.segmenter import ParameterGroup, SlabSegmenter, groups_around
from samunet.models.slab import slicewise
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import encoder_size
from samunet.sam.encoder import Sites, embed_patches, encode


class PromptFreeSAM(SlabSegmenter):
    """A SAM encoder and a head that gives one mask a class.

    The encoder is frozen when its weights are pretrained, unless `train_encoder` says otherwise; sites and head train.

    Args:
        sam: for the token grid of `spec`.
        spec: data and plan.
        sites: one a block, or None for SAM's plain blocks.
        head: (N, C, h, w) embeddings to (N, K, f*h, f*w) logits; see `samunet.models.decoders`.
        pixel_range: see `SAMPixels`.
        train_encoder: None trains it when its weights are random.
        layer_decay: see `groups_around`.
        low_resolution_loss: take the loss on the decoder's logits against labels brought there by nearest neighbor (SAMed),
            instead of on the patch's grid.
        checkpointing: see `samunet.sam.encoder.encode`.
    """

    def __init__(
        self,
        sam: Sam,
        spec: NetworkSpec,
        sites: Sequence[Sites] | None,
        *,
        head: nn.Module,
        pixel_range: str = "sam",
        train_encoder: bool | None = None,
        layer_decay: float = 1.0,
        low_resolution_loss: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.labels, self.scale = spec.labels, spec.encoder_scale
        self.low_resolution_loss, self.layer_decay, self.checkpointing = low_resolution_loss, layer_decay, checkpointing
        self.pixels = SAMPixels(spec.schemes, spec.encoder_scale, encoder_size(spec.patch_size[1:], spec.encoder_scale), pixel_range)
        self.image_encoder = sam.image_encoder.requires_grad_(not spec.pretrained if train_encoder is None else train_encoder)
        self.sites = nn.ModuleList(sites if sites is not None else [Sites() for _ in self.image_encoder.blocks])
        self.head = head
        self.slab_depth = spec.patch_size[0]
        self.embeddings: EmbeddingCache | None = None

    def forward(self, image: Tensor) -> Tensor:
        return self._fit(self._planes(image), image.shape[2:])

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        logits, plane = self._planes(batch.image), batch.label.shape[2:]
        if not self.low_resolution_loss:
            return slab_sums(self._fit(logits, batch.label.shape[1:]), batch.label, self.labels)
        # Labels go to the resolution of the logits, on the part of the padded plane that the image covers.
        logits = self._cut(logits, plane)
        return slab_sums(logits, nearest(batch.label, logits.shape[2:]), self.labels)

    def terms(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        return slab_terms(sums)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        return groups_around(self, self.image_encoder, layer_decay=self.layer_decay)

    def merge(self) -> None:
        merge_updates(self.image_encoder, self.sites)

    def keep_embeddings(self, folder: Path) -> bool:
        if self.pixels.pixel_range == "unit" and self.slab_depth > 1:
            return False  # a slice's pixels depend on the slab that it lies in
        if any(parameter.requires_grad for part in (self.pixels, self.image_encoder, self.sites) for parameter in part.parameters()):
            return False
        self.embeddings = EmbeddingCache(folder, self.image_encoder)
        return True

    def _planes(self, image: Tensor) -> Tensor:
        """(B, C, D, H, W) to (B, K, D, f*h, f*w) logits of the padded encoder plane."""
        pixels = self.pixels(image)
        embedding = self._encode(pixels) if self.embeddings is None else self.embeddings.embed(pixels, self._encode)
        return slicewise(self.head, embedding).movedim(2, 1)

    def _encode(self, pixels: Tensor) -> Tensor:
        """(B, D, 3, H, W) pixels to (B, D, C, h, w) embeddings."""
        tokens = embed_patches(self.image_encoder, pixels)
        return encode(self.image_encoder, tokens, self.sites, checkpointing=self.checkpointing).neck

    def _cut(self, logits: Tensor, plane: Sequence[int]) -> Tensor:
        """Take the padding of the encoder's plane away; `plane` is the patch's (H, W) in voxels."""
        used = [
            max(1, round(side * self.scale * have / whole))
            for side, have, whole in zip(plane, logits.shape[3:], self.pixels.encoder_size, strict=True)
        ]
        return logits[..., : used[0], : used[1]]

    def _fit(self, logits: Tensor, shape: Sequence[int]) -> Tensor:
        return fit_to_patch(logits, shape, self.scale, self.pixels.encoder_size)


def fit_to_patch(logits: Tensor, shape: Sequence[int], scale: float, encoder_size: tuple[int, int]) -> Tensor:
    """Bring (B, K, D, f*h, f*w) logits of the padded encoder plane to the patch, (B, K, D, H, W).

    Args:
        shape: of the patch, (D, H, W).
        scale: encoder pixels per voxel.
        encoder_size: (H, W) of the padded plane, in encoder pixels.
    """
    planes = logits.movedim(1, 2).flatten(0, 1)
    if planes.shape[2:] != encoder_size:
        planes = F.interpolate(planes, size=encoder_size, mode="bilinear", align_corners=False)
    planes = planes[..., : round(shape[1] * scale), : round(shape[2] * scale)]
    if scale > 1:
        planes = F.adaptive_avg_pool2d(planes, tuple(shape[1:]))  # every logit of the decoder has a part in the loss
    elif planes.shape[2:] != tuple(shape[1:]):
        planes = F.interpolate(planes, size=tuple(shape[1:]), mode="bilinear", align_corners=False)
    return planes.unflatten(0, (logits.shape[0], shape[0])).movedim(2, 1)
