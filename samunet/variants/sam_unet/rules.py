"""What sam_unet asks of a plan: options, encoder scale, memory and work; nothing here needs torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from samunet.core.geometry import Shape
from samunet.core.plan import Preference, Topology
from samunet.core.ranges import OneOf, Within
from samunet.errors import ConfigError, PlanningError
from samunet.models.rules import FROZEN_BYTES, Options, adapter_weights, kept_blocks
from samunet.models.spec import NetworkSpec
from samunet.models.unet_rules import FEATURE_BYTES, convolutions, convolutions_gib, cumulative, stage_voxels
from samunet.sam.backbones import TOKEN_PIXELS, Backbone, encoder_size

WIDEST_TOKEN = 2.0  # times the width of the smallest class; half the pitch brought nothing in short trainings
OVERHEAD_GIB = 0.1  # fitted to measured steps on a CPU in bf16
TOKEN_WORK = 2.0  # one of a token's multiply-adds takes as long as so many of a convolution's; fitted likewise


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options of this model."""

    token_source: Annotated[str, OneOf("auto", "patches", "features")] = "auto"
    """"patches": SAM's patch embedding of the image; "features": the U-Net's features at the injection stage;
    "auto": patches with pretrained weights, features without."""
    adapter_ratio: Annotated[float, Within(1e-3, 16)] = 0.5
    """Adapter width as a share of the token width (MA-SAM: 384 of 768)."""
    rank: Annotated[int, Within(1, 4096)] = 32
    """Rank of the low-rank updates of q and v of a frozen backbone (MA-SAM's); not used when the backbone trains."""
    deep_supervision: bool = True
    """Take the loss at every decoder level but the lowest in training."""
    injection: Annotated[str, OneOf("deep", "one")] = "deep"
    """"deep": SAM's features go to the stage of the token pitch and all deeper ones; "one": to that stage only."""
    depth_adapters: Annotated[str, OneOf("auto", "yes", "no")] = "auto"
    """3D adapters in every block, "yes" or "no"; "auto": with pretrained weights. Without them slices meet only in the
    convolutions."""
    class_tokens: bool = True
    """Add the logits of SAM's mask decoder with class tokens to the U-Net's."""
    checkpointing: bool = False
    """Run each of SAM's blocks again in the backward pass instead of keeping its activations."""
    sam_path: bool = True
    """False leaves SAM out altogether: the plain U-Net, the control of this method."""


def preferred(topology: Topology, patch_size: Shape, smallest_class_voxels: float) -> tuple[Preference, ...]:
    """Choose the encoder scale m so that tokens coincide with one U-Net stage where the pixels are about square.

    Args:
        topology: the convolutional path.
        patch_size: (D, H, W) voxels.
        smallest_class_voxels: typical in-plane diameter of the smallest class, in voxels.

    Raises:
        PlanningError: the patch is so small in the plane that no stage halves it.
    """
    pitches = sorted({pitch for pitch in map(_pitch, cumulative(topology)) if 2 <= pitch <= TOKEN_PIXELS})
    if not pitches:
        raise PlanningError(
            f"A patch of {' x '.join(map(str, patch_size))} voxels is too small in the plane for a U-Net with a SAM "
            "encoder, which needs 8 voxels per side. Raise -gpu_memory_target; where the images are so small, give a "
            "finer spacing with -overwrite_target_spacing."
        )
    wanted_pitch = max(
        (pitch for pitch in pitches if pitch <= WIDEST_TOKEN * smallest_class_voxels), default=pitches[0]
    )
    choices = []
    for pitch in (pitch for pitch in pitches if pitch >= wanted_pitch):
        grid = [-(-side // pitch) for side in patch_size[1:]]
        reason = (
            f"a token covers {pitch} x {pitch} voxels, {pitch / smallest_class_voxels:.1f} times as wide as the "
            f"smallest class ({smallest_class_voxels:.1f} voxels across); wanted is the largest U-Net stride up to "
            f"{TOKEN_PIXELS} that is at most {WIDEST_TOKEN:g} times as wide; the convolutions see every voxel; a slice "
            f"has {grid[0]} x {grid[1]} tokens"
        )
        choices.append(Preference(scale=TOKEN_PIXELS / pitch, reason=reason))
    return tuple(choices)


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB.

    Beside the convolutional path a token needs about 18 embeddings per block for its own layers and 8 adapter widths,
    4 bytes each, and its relative positions; a weight that trains 16 bytes with its gradient and the optimizer's state.
    benchmarks/memory_model.py compares with measured steps.
    """
    gib = OVERHEAD_GIB + convolutions_gib(spec, batch_size)
    gib += batch_size * FEATURE_BYTES * spec.labels.outputs * math.prod(spec.patch_size) / 2**30
    if not config.sam_path:
        return gib
    height, width = (side // TOKEN_PIXELS for side in encoder_size(spec.patch_size[1:], spec.encoder_scale))
    depth = spec.patch_size[0]
    if token_source(spec, config) == "features":
        depth = -(-depth // cumulative(spec.topology)[injection_stage(spec)][0])
    per_token = (
        18 * backbone.width + 8 * adapter_width(backbone.width, spec, config) + 3 * backbone.heads * (height + width)
    )
    tokens = depth * height * width * kept_blocks(backbone, config.checkpointing) * per_token * 4
    weights = 12 * backbone.depth * backbone.width**2 * (FROZEN_BYTES if spec.pretrained else 16)
    weights += 16 * adapter_weights(backbone, adapter_width(backbone.width, spec, config))
    return gib + (batch_size * tokens + weights) / 2**30


def operations(spec: NetworkSpec, backbone: Backbone, config: Config) -> float:
    """Estimate the work of one sample's training step in multiply-adds, for comparing encoder grids.

    Every layer runs once forward and twice backward, but for what is frozen: once. benchmarks/grid_step.py compares
    with measured steps.
    """
    strides = cumulative(spec.topology)
    voxels = stage_voxels(spec)
    work = sum(voxels[stage] * weights for stage, weights, _ in convolutions(len(spec.schemes), spec.topology))
    if not config.sam_path:
        return 3.0 * work
    height, width = (side // TOKEN_PIXELS for side in encoder_size(spec.patch_size[1:], spec.encoder_scale))
    depth, stage = spec.patch_size[0], injection_stage(spec)
    if token_source(spec, config) == "features":
        depth = -(-depth // strides[stage][0])
    in_windows = min(height * width, backbone.window**2)
    keys = len(backbone.global_blocks) * height * width + (backbone.depth - len(backbone.global_blocks)) * in_windows
    frozen = backbone.depth * (4 + 2 * backbone.mlp_ratio) * backbone.width**2
    bottleneck = adapter_width(backbone.width, spec, config)
    trained = adapter_weights(backbone, bottleneck)
    tokens = (
        depth * height * width * (3 * (trained + 2 * backbone.width * keys) + (2 if spec.pretrained else 3) * frozen)
    )
    injected = len(spec.topology.widths) if config.injection == "deep" else stage + 1
    sources = 4 * backbone.width + backbone.decoder_width
    gates = sum(voxels[index] * spec.topology.widths[index] for index in range(stage, injected)) * sources
    return 3.0 * (work + gates) + TOKEN_WORK * tokens


def token_source(spec: NetworkSpec, config: Config) -> str:
    """Return where tokens come from, "patches" or "features"."""
    if config.token_source != "auto":
        return config.token_source
    return "patches" if spec.pretrained else "features"


def adapter_width(width: int, spec: NetworkSpec, config: Config) -> int:
    """Return the bottleneck of the 3D adapters on tokens of `width`; 0 without adapters."""
    has_adapters = spec.pretrained if config.depth_adapters == "auto" else config.depth_adapters == "yes"
    return max(1, round(config.adapter_ratio * width)) if has_adapters else 0


def _pitch(stride: Shape) -> int:
    """Return the token pitch of a stage in voxels: its larger in-plane stride, where pixels are far from square."""
    return max(stride[1:])


def injection_stage(spec: NetworkSpec) -> int:
    """Return the index of the first U-Net stage whose in-plane stride is the token pitch."""
    pitch = round(TOKEN_PIXELS / spec.encoder_scale)
    for index, stride in enumerate(cumulative(spec.topology)):
        if _pitch(stride) == pitch:
            return index
    raise ConfigError(
        f"An encoder_scale of {spec.encoder_scale} gives tokens {pitch} voxels apart, but no U-Net stage has that "
        f"in-plane stride; the stages have {[total[1:] for total in cumulative(spec.topology)]}."
    )
