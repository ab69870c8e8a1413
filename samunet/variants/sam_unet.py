"""The default model: a 3D U-Net that receives SAM's features through gates that start closed.

Axes: B batch, C channels, D H W voxels, h w token rows and columns, E embedding, K outputs.
At step 0 the network equals the plain U-Net. See documentation/methods/sam_unet.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from samunet.core.batch import Batch
from samunet.core.geometry import Shape
from samunet.core.plan import Preference, Topology
from samunet.errors import ConfigError, PlanningError
from samunet.models.adapters import MASAMSites, SharedFactors, merge_updates
from samunet.models.heads import ClassTokenHead
from samunet.models.inputs import SAMPixels, encoder_size
from samunet.models.losses import deep_supervision_terms, segmentation_terms
from samunet.models.segmenter import NetworkSpec, ParameterGroup, SlabSegmenter, groups_around
from samunet.models.unet import Decoder, Encoder
from samunet.sam.build import TOKEN_PIXELS, Backbone
from samunet.sam.encoder import embed_patches, encode

SOURCE = (
    "samunet's own. It composes nnU-Net (Isensee et al., Nature Methods 2021), Segment Anything (Kirillov et al., ICCV 2023), "
    "MA-SAM's adapters (Chen et al., Medical Image Analysis 2024) and nnSAM's idea of a U-Net that takes SAM features (Li et al., 2023)."
)
STARTS_AS = "unet"
SLICES_MEET = True
WITHOUT_GRADIENT: dict[str, str] = {}
WIDEST_TOKEN = 2.0  # a token may be this many times as wide as the smallest class; half the pitch brought nothing in short trainings
FEATURE_BYTES, OVERHEAD_GIB = 8.5, 0.1  # fitted to measured steps on a CPU in bf16
INJECTIONS = ("deep", "one")
TOKEN_SOURCES = ("auto", "patches", "features")
DEPTH_ADAPTERS = ("auto", "yes", "no")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of this model."""

    token_source: str = "auto"
    """"patches": SAM's patch embedding of the image; "features": the U-Net's features at the injection stage;
    "auto": patches with pretrained weights, features without."""
    adapter_ratio: float = 0.5
    """Adapter width as a share of the token width (MA-SAM: 384 of 768)."""
    rank: int = 32
    """Rank of the low-rank updates of q and v of a frozen backbone (MA-SAM's); not used when the backbone trains."""
    deep_supervision: bool = True
    """Take the loss at every decoder level but the lowest in training."""
    injection: str = "deep"
    """"deep": SAM's features go to the stage of the token pitch and all deeper ones; "one": to that stage only."""
    depth_adapters: str = "auto"
    """3D adapters in every block, "yes" or "no"; "auto": with pretrained weights. Without them slices meet only in the convolutions."""
    class_tokens: bool = True
    """Add the logits of SAM's mask decoder with class tokens to the U-Net's."""
    checkpointing: bool = False
    """Run each of SAM's blocks again in the backward pass instead of keeping its activations."""
    sam_path: bool = True
    """False leaves SAM out altogether: the plain U-Net, the control of this method."""

    def __post_init__(self) -> None:
        if self.token_source not in TOKEN_SOURCES:
            raise ConfigError(f"sam_unet: token_source must be one of {', '.join(TOKEN_SOURCES)}; got '{self.token_source}'.")
        if self.injection not in INJECTIONS:
            raise ConfigError(f"sam_unet: injection must be one of {', '.join(INJECTIONS)}; got '{self.injection}'.")
        if self.depth_adapters not in DEPTH_ADAPTERS:
            raise ConfigError(f"sam_unet: depth_adapters must be one of {', '.join(DEPTH_ADAPTERS)}; got '{self.depth_adapters}'.")


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec` (see `samunet.models.inputs.encoder_size`)."""
    return SAMUNet(sam, spec, config)


def preferred(topology: Topology, patch_size: Shape, smallest_class_voxels: float) -> tuple[Preference, ...]:
    """Choose the encoder scale m so that tokens coincide with one U-Net stage where the pixels are about square.

    Args:
        topology: the convolutional path.
        patch_size: (D, H, W) voxels.
        smallest_class_voxels: typical in-plane diameter of the smallest class, in voxels.

    Raises:
        PlanningError: the patch is so small in the plane that no stage halves it.
    """
    pitches = sorted({pitch for pitch in map(_pitch, _cumulative(topology)) if 2 <= pitch <= TOKEN_PIXELS}, reverse=True)
    if not pitches:
        raise PlanningError(f"A patch of {patch_size} voxels is too small in the plane for a U-Net with a SAM encoder; it needs 8 voxels a side.")
    fitting = [pitch for pitch in pitches if pitch <= WIDEST_TOKEN * smallest_class_voxels]
    pitch = fitting[0] if fitting else pitches[-1]
    rule = (
        "the largest U-Net stride up to 16 that is at most twice as wide as"
        if fitting
        else "the smallest U-Net stride, still more than twice as wide as"
    )
    grid = [-(-side // pitch) for side in patch_size[1:]]
    reason = (
        f"a token covers {pitch} x {pitch} voxels, {rule} the smallest class ({smallest_class_voxels:.0f} voxels across); "
        f"the convolutions see every voxel; a slice has {grid[0]} x {grid[1]} tokens"
    )
    return (Preference(scale=TOKEN_PIXELS / pitch, reason=reason),)


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config | None = None) -> float:
    """Estimate the memory of one mixed-precision training step in GiB.

    A feature of the convolutional path needs about FEATURE_BYTES; a token about 18 embeddings a block for its own layers and
    8 adapter widths, 4 bytes each, and its relative positions; a weight that trains 16 bytes with its gradient and the optimizer's state.
    benchmarks/memory_model.py compares with measured steps.
    """
    config = config or Config()
    strides = _cumulative(spec.topology)
    voxels = [torch.Size(-(-size // stride) for size, stride in zip(spec.patch_size, total, strict=True)).numel() for total in strides]
    convolutions = [1] + [2] * (len(voxels) - 1)
    features = sum(count * width * size for count, width, size in zip(convolutions, spec.topology.widths, voxels, strict=True))
    features += sum(2 * width * size for width, size in zip(spec.topology.widths[:-1], voxels[:-1], strict=True))
    features += spec.labels.outputs * voxels[0]
    convolutions_gib = OVERHEAD_GIB + (batch_size * FEATURE_BYTES * features + 16 * _convolution_weights(len(spec.schemes), spec.topology)) / 2**30
    if not config.sam_path:
        return convolutions_gib
    height, width = (side // TOKEN_PIXELS for side in encoder_size(spec.patch_size[1:], spec.encoder_scale))
    depth = spec.patch_size[0]
    if _token_source(spec, config) == "features":
        depth = -(-depth // strides[_injection_stage(spec)][0])
    per_token = 18 * backbone.width + 8 * _adapter_width(backbone.width, spec, config) + 3 * backbone.heads * (height + width)
    blocks = 1 + backbone.depth / 18 if config.checkpointing else backbone.depth
    tokens = depth * height * width * blocks * per_token * 4
    weights = 12 * backbone.depth * backbone.width**2 * (4 if spec.pretrained else 16)
    return convolutions_gib + (batch_size * tokens + weights) / 2**30


@lru_cache(maxsize=256)
def _convolution_weights(channels: int, topology: Topology) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for path in (Encoder(channels, topology), Decoder(topology)) for parameter in path.parameters())


class SAMUNet(SlabSegmenter):
    """See the module docstring; build it with `build`."""

    def __init__(self, sam: Sam, spec: NetworkSpec, config: Config) -> None:
        super().__init__()
        self.labels = spec.labels
        self.batch_dice = spec.patch_size[0] == 1  # nnU-Net's rule: over the batch in 2D, per sample in 3D
        widths, outputs = spec.topology.widths, spec.labels.outputs
        self.convolutions = Encoder(len(spec.schemes), spec.topology)
        self.decoder = Decoder(spec.topology)
        levels = max(1, len(widths) - 2) if config.deep_supervision else 1  # nnU-Net gives the lowest level no weight
        self.outputs = nn.ModuleList(nn.Conv3d(width, outputs, 1) for width in widths[:levels])
        if not config.sam_path:
            self.sam, self.gates, self.head = None, nn.ModuleList(), None
            return
        self.stage = _injection_stage(spec)
        self.sam = SAMPath(sam, spec, config, self.stage)
        injected = widths[self.stage :] if config.injection == "deep" else widths[self.stage : self.stage + 1]
        self.gates = nn.ModuleList(nn.Conv3d(self.sam.features, stage_width, 1) for stage_width in injected)
        for gate in self.gates:
            nn.init.zeros_(gate.weight)
            nn.init.zeros_(gate.bias)
        self.head = ClassTokenHead(sam, outputs, widths[0]) if config.class_tokens else None

    def forward(self, image: Tensor) -> Tensor:
        return self._logits(image)[0]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = self._logits(batch.image)
        if len(logits) == 1:
            return segmentation_terms(logits[0], batch.label, self.labels, batch_dice=self.batch_dice)
        return deep_supervision_terms(logits, batch.label, self.labels, batch_dice=self.batch_dice)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        return groups_around(self, self.sam.backbone if self.sam is not None else None)

    def merge(self) -> None:
        if self.sam is not None:
            merge_updates(self.sam.backbone, self.sam.sites)

    def _logits(self, image: Tensor) -> list[Tensor]:
        """Logits of every supervised level, full resolution first."""
        skips: list[Tensor] = []
        features = image
        for index, stage in enumerate(self.convolutions.stages):
            features = stage(features)
            if self.sam is not None and index == self.stage:
                embedding, injected = self.sam(image, features)
            if self.sam is not None and 0 <= index - self.stage < len(self.gates):
                features = features + self.gates[index - self.stage](_resize(injected, features.shape[2:]))
            skips.append(features)
        decoded = self.decoder(skips)
        levels = [output(level) for output, level in zip(self.outputs, decoded, strict=False)]
        if self.head is not None:
            levels[0] = levels[0] + self.head(embedding, decoded[0])
        return levels if self.training else levels[:1]


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
        if _token_source(spec, config) == "patches":
            self.tokens = SAMPixels(spec.schemes, spec.encoder_scale, encoder_size(spec.patch_size[1:], spec.encoder_scale))
        else:
            self.tokens = nn.Linear(spec.topology.widths[stage], width)
            self.backbone.patch_embed = nn.Identity()  # its place is taken by self.tokens
        bottleneck = _adapter_width(width, spec, config)
        factors = SharedFactors(width, config.rank) if spec.pretrained and config.rank > 0 else None
        self.sites = nn.ModuleList(MASAMSites(width, bottleneck, factors) for _ in self.backbone.blocks)
        self.taps = tuple(len(self.backbone.blocks) * quarter // 4 - 1 for quarter in (1, 2, 3, 4))  # where ViT-B, L and H attend globally
        sources = [width] * len(self.taps) + [sam.mask_decoder.transformer_dim]
        self.norms = nn.ModuleList(nn.LayerNorm(source) for source in sources)
        self.checkpointing = config.checkpointing
        self.features = sum(sources)
        """Channels F of what `forward` gives for injection."""

    def forward(self, image: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B, D', C, h, w) embedding, and all tapped features as (B, F, D', h, w) cut to the unpadded plane.

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
        sources = (*encoded.global_blocks, encoded.neck.movedim(2, -1))
        joined = torch.cat([norm(source) for norm, source in zip(self.norms, sources, strict=True)], dim=-1)
        height, width = features.shape[3:]
        return encoded.neck, joined.movedim(-1, 1)[..., :height, :width]


def _resize(features: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring (B, F, D, h, w) features to another grid: pooled where it is coarser, linearly interpolated where not."""
    if tuple(features.shape[2:]) == tuple(shape):
        return features
    if all(have >= want for have, want in zip(features.shape[2:], shape, strict=True)):
        return F.adaptive_avg_pool3d(features, tuple(shape))
    return F.interpolate(features, size=tuple(shape), mode="trilinear")


def _token_source(spec: NetworkSpec, config: Config) -> str:
    if config.token_source != "auto":
        return config.token_source
    return "patches" if spec.pretrained else "features"


def _adapter_width(width: int, spec: NetworkSpec, config: Config) -> int:
    wanted = spec.pretrained if config.depth_adapters == "auto" else config.depth_adapters == "yes"
    return max(1, round(config.adapter_ratio * width)) if wanted else 0


def _cumulative(topology: Topology) -> list[Shape]:
    return list(accumulate(topology.strides, lambda total, stride: tuple(a * b for a, b in zip(total, stride, strict=True))))


def _pitch(stride: Shape) -> int:
    """Token pitch of a stage in voxels: its larger in-plane stride; the two differ only where pixels are far from square."""
    return max(stride[1:])


def _injection_stage(spec: NetworkSpec) -> int:
    """Index of the first U-Net stage whose in-plane stride is the token pitch."""
    pitch = round(TOKEN_PIXELS / spec.encoder_scale)
    for index, stride in enumerate(_cumulative(spec.topology)):
        if _pitch(stride) == pitch:
            return index
    raise ConfigError(
        f"sam_unet: encoder_scale {spec.encoder_scale} gives tokens {pitch} voxels apart, but no U-Net stage has that in-plane stride; "
        f"the stages have {[total[1:] for total in _cumulative(spec.topology)]}."
    )
