"""The network of sam_unet; see documentation/methods/sam_unet.md.

Axes: B batch, C channels, D H W voxels, h w token rows and columns, E embedding, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from samunet.core.batch import Batch
from samunet.models.convolution import Convolution, set_to_zero
from samunet.models.depth_adapters import MASAMSites, SharedFactors
from samunet.models.losses import deep_supervision_sums, deep_supervision_terms
from samunet.models.pixels import SAMPixels
from samunet.models.segmenter import ParameterGroup, SlabSegmenter, groups_around
from samunet.models.spec import NetworkSpec
from samunet.models.unet import Decoder, Encoder
from samunet.sam.backbones import encoder_size
from samunet.sam.encoder import embed_patches, encode, ends_of_quarters, merge_updates
from samunet.variants.sam_unet.head import ClassTokenHead
from samunet.variants.sam_unet.rules import Config, adapter_width, injection_stage, token_source


class EncodedImage(NamedTuple):
    """What the path of the image gives."""

    stages: list[Tensor]
    """(B, F, D, H, W) of every stage, full resolution first, with what SAM's path adds."""
    embedding: Tensor | None
    """(B, D', C, h, w) of SAM's neck; None without its path."""


class ImageEncoder(SlabSegmenter):
    """The encoder of a U-Net that receives SAM's features: what networks of this kind share.

    They make `convolutions`, and call `join_sam` where SAM's path begins in their order of parameters.
    """

    convolutions: Encoder
    sam: SAMPath | None
    injections: nn.ModuleList

    def join_sam(self, sam: Sam, spec: NetworkSpec, config: Config) -> None:
        """Make SAM's path and its gates, or neither."""
        if not config.sam_path:
            self.sam, self.injections = None, nn.ModuleList()
            return
        widths, self.stage = spec.topology.widths, injection_stage(spec)
        self.sam = SAMPath(sam, spec, config, self.stage)
        injected = widths[self.stage :] if config.injection == "deep" else widths[self.stage : self.stage + 1]
        self.injections = nn.ModuleList(Gate(self.sam.features, stage_width) for stage_width in injected)

    def encode_image(self, image: Tensor) -> EncodedImage:
        """Encode (B, C, D, H, W) images; nothing here knows of classes or prompts."""
        stages: list[Tensor] = []
        features, embedding = image, None
        for index, stage in enumerate(self.convolutions.stages):
            features = stage(features)
            if self.sam is not None and index == self.stage:
                embedding, injected = self.sam(image, features)
            if self.sam is not None and 0 <= index - self.stage < len(self.injections):
                features = self.inject(
                    self.injections[index - self.stage], features, _resize(injected, features.shape[2:])
                )
            stages.append(features)
        return EncodedImage(stages, embedding)

    def inject(self, gate: nn.Module, features: Tensor, injected: Tensor) -> Tensor:
        """Join (B, F, D', h, w) features of SAM's path with those of a stage on the same grid."""
        joined: Tensor = features + gate(injected)
        return joined

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        return groups_around(self, self.sam.backbone if self.sam is not None else None)

    def merge(self) -> None:
        if self.sam is not None:
            merge_updates(self.sam.backbone, self.sam.sites)


class SAMUNet(ImageEncoder):
    """See the module docstring; build it with `build`."""

    def __init__(self, sam: Sam, spec: NetworkSpec, config: Config) -> None:
        super().__init__()
        self.labels = spec.labels
        self.batch_dice = spec.patch_size[0] == 1  # nnU-Net's rule: over the batch in 2D, per sample in 3D
        self.mean_over_samples = not self.batch_dice and spec.labels.ignore is None
        widths, outputs = spec.topology.widths, spec.labels.outputs
        self.convolutions = Encoder(len(spec.schemes), spec.topology)
        self.decoder = Decoder(spec.topology)
        levels = max(1, len(widths) - 2) if config.deep_supervision else 1  # nnU-Net gives the lowest level no weight
        self.outputs = nn.ModuleList(Convolution(width, outputs, 1) for width in widths[:levels])
        self.join_sam(sam, spec, config)
        self.head = ClassTokenHead(sam, outputs, widths[0]) if config.sam_path and config.class_tokens else None

    def forward(self, image: Tensor) -> Tensor:
        return self._logits(image)[0]

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        return deep_supervision_sums(self._logits(batch.image), batch.label, self.labels, batch_dice=self.batch_dice)

    def terms(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        return deep_supervision_terms(sums, self.labels)

    def _logits(self, image: Tensor) -> list[Tensor]:
        """Logits of every supervised level, full resolution first."""
        stages, embedding = self.encode_image(image)
        decoded = self.decoder(stages)
        levels = [output(level) for output, level in zip(self.outputs, decoded, strict=False)]
        if self.head is not None:
            levels[0] = levels[0] + self.head(embedding, decoded[0])
        return levels if self.training else levels[:1]


class Gate(Convolution):
    """A 1x1x1 convolution that gives zeros until it is trained, of its inputs divided by the root of their number.

    Without that, Adam's first steps, which are as long for every weight, let features that nothing has trained yet
    outweigh those of the stage.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)
        set_to_zero(self)
        self.share = inputs**-0.5

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(self.share * features)


class SAMPath(nn.Module):
    """The adapted SAM encoder and what is taken from it.

    Args:
        sam: for the token grid of `spec`; its encoder is used, not copied.
        stage: index of the U-Net stage whose in-plane stride is the token pitch.
    """

    def __init__(self, sam: Sam, spec: NetworkSpec, config: Config, stage: int) -> None:
        super().__init__()
        self.backbone = sam.image_encoder.requires_grad_(not spec.pretrained)
        width = self.backbone.pos_embed.shape[-1]
        self.tokens: nn.Module
        if token_source(spec, config) == "patches":
            size = encoder_size(spec.patch_size[1:], spec.encoder_scale)
            self.tokens = SAMPixels(spec.schemes, spec.encoder_scale, size)
        else:
            self.tokens = nn.Linear(spec.topology.widths[stage], width)
            self.backbone.patch_embed = nn.Identity()  # its place is taken by self.tokens
        bottleneck = adapter_width(width, spec, config)
        factors = SharedFactors(width, config.rank) if spec.pretrained and config.rank > 0 else None
        self.sites = nn.ModuleList(MASAMSites(width, bottleneck, factors) for _ in self.backbone.blocks)
        self.taps = ends_of_quarters(self.backbone)
        sources = [width] * len(self.taps) + [sam.mask_decoder.transformer_dim]
        self.norms = nn.ModuleList(nn.LayerNorm(source) for source in sources)
        self.checkpointing = config.checkpointing
        self.features = sum(sources)
        """Channels F of what `forward` gives for injection."""

    def forward(self, image: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B, D', C, h, w) embedding, and tapped features as (B, F, D', h, w) without the plane's padding.

        Args:
            image: (B, C, D, H, W) normalized image.
            features: (B, F', D', h', w') of the U-Net's stage.
        """
        if isinstance(self.tokens, SAMPixels):
            tokens = embed_patches(self.backbone, self.tokens(image))
        else:
            grid = (features.shape[2], *self.backbone.pos_embed.shape[1:3])
            tokens = self.tokens(_resize(features, grid).movedim(1, -1))
        encoded = encode(self.backbone, tokens, self.sites, self.taps, checkpointing=self.checkpointing)
        sources = (*encoded.taps, encoded.neck.movedim(2, -1))
        joined = torch.cat([norm(source) for norm, source in zip(self.norms, sources, strict=True)], dim=-1)
        height, width = features.shape[3:]
        return encoded.neck, joined.movedim(-1, 1)[..., :height, :width]


def _resize(features: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring (B, F, D, h, w) features to another grid: pooled where it is coarser, linearly interpolated where not."""
    if tuple(features.shape[2:]) == tuple(shape):
        return features
    if all(have >= want for have, want in zip(features.shape[2:], shape, strict=True)):
        return F.adaptive_avg_pool3d(features, (shape[0], shape[1], shape[2]))
    return F.interpolate(features, size=tuple(shape), mode="trilinear")
