"""A SAM encoder with sites, between a patch and the logits of a head: what networks with and without prompts share.

Axes: B batch, C channels, D H W voxels, h w token rows and columns, K outputs. Slices meet only in the encoder's sites.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from samunet.models.losses import slab_sums, slab_terms
from samunet.models.pixels import SAMPixels
from samunet.models.point_loss import at_points
from samunet.models.segmenter import ParameterGroup, SlabSegmenter, groups_around
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import encoder_size
from samunet.sam.encoder import Sites, embed_patches, encode, ends_of_quarters, merge_updates
from samunet.sam.hq import FusedFeature


class AdaptedSAM(SlabSegmenter):
    """Pixels, a SAM encoder and a head.

    The encoder is frozen when its weights are pretrained, unless `train_encoder` says otherwise; sites and head train.

    Args:
        sam: for the token grid of `spec`.
        spec: data and plan.
        sites: one per block, or None for SAM's plain blocks.
        head: of the subclass; where its `hq` is a `FusedFeature`, it gets that of every slice too, and the loss is
            taken at points.
        pixel_range: see `SAMPixels`.
        train_encoder: None trains it when its weights are random.
        layer_decay: see `groups_around`.
        checkpointing: see `samunet.sam.encoder.encode`.
        branch: beside the blocks: takes the pixels, and gives what `encode` runs after each block.
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
        checkpointing: bool = False,
        branch: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.labels, self.scale, self.slab_depth = spec.labels, spec.encoder_scale, spec.patch_size[0]
        self.layer_decay, self.checkpointing, self.branch = layer_decay, checkpointing, branch
        size = encoder_size(spec.patch_size[1:], spec.encoder_scale)
        self.pixels = SAMPixels(spec.schemes, spec.encoder_scale, size, pixel_range)
        learns = not spec.pretrained if train_encoder is None else train_encoder
        self.image_encoder = sam.image_encoder.requires_grad_(learns)
        self.sites = nn.ModuleList(sites if sites is not None else [Sites() for _ in self.image_encoder.blocks])
        self.head = head

    @property
    def hq(self) -> FusedFeature | None:
        """HQ-SAM's fused feature, where the head has one."""
        given = getattr(self.head, "hq", None)
        return given if isinstance(given, FusedFeature) else None

    def terms(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        return slab_terms(sums)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        return groups_around(self, self.image_encoder, layer_decay=self.layer_decay)

    def merge(self) -> None:
        merge_updates(self.image_encoder, self.sites)

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, D, 3, H, W) pixels to (B, D, C, h, w) embeddings."""
        return self.embed(pixels)[0]

    def embed(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, D, 3, H, W) pixels to what the head takes: embeddings, and with HQ the (B, D, C/8, 4h, 4w) fine part."""
        tokens = embed_patches(self.image_encoder, pixels)
        taps = ends_of_quarters(self.image_encoder)[: 0 if self.hq is None else 1]
        after = None if self.branch is None else self.branch(pixels)
        neck, early = encode(
            self.image_encoder, tokens, self.sites, taps, after=after, checkpointing=self.checkpointing
        )
        if self.hq is None:
            return (neck,)
        fine = self.hq.of_image(neck.flatten(0, 1), early[0].flatten(0, 1))
        return neck, fine.unflatten(0, neck.shape[:2])

    def compare(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Return the loss's sums of (B, K, D, H, W) logits and (B, D, H, W) labels; with HQ those at points."""
        if self.hq is not None:
            logits, label = at_points(logits, label, self.labels)
        return slab_sums(logits, label, self.labels)

    def fit(self, logits: Tensor, shape: Sequence[int]) -> Tensor:
        """(B, K, D, f*h, f*w) logits of the padded encoder plane to the patch's (B, K, D, H, W)."""
        return fit_to_patch(logits, shape, self.scale, self.pixels.encoder_size)


def fit_to_patch(logits: Tensor, shape: Sequence[int], scale: float, encoder_size: tuple[int, int]) -> Tensor:
    """Bring (B, K, D, f*h, f*w) logits of the padded encoder plane to the patch, (B, K, D, H, W).

    Args:
        logits: of the whole plane, padding included.
        shape: of the patch, (D, H, W).
        scale: encoder pixels per voxel.
        encoder_size: (H, W) of the padded plane, in encoder pixels.
    """
    plane = (shape[1], shape[2])
    if [side * scale for side in logits.shape[3:]] == list(encoder_size):
        return logits[..., : plane[0], : plane[1]]  # a logit a voxel already
    planes = logits.movedim(1, 2).flatten(0, 1)
    if planes.shape[2:] != encoder_size:
        planes = F.interpolate(planes, size=encoder_size, mode="bilinear", align_corners=False)
    planes = planes[..., : round(plane[0] * scale), : round(plane[1] * scale)]
    if scale > 1:
        planes = F.adaptive_avg_pool2d(planes, plane)  # every logit of the decoder has a part in the loss
    elif planes.shape[2:] != plane:
        planes = F.interpolate(planes, size=plane, mode="bilinear", align_corners=False)
    return planes.unflatten(0, (logits.shape[0], shape[0])).movedim(2, 1)
