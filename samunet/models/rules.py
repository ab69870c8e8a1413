"""What methods around an adapted SAM ask of a plan: options, encoder scale and memory; nothing here needs torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from samunet.core.geometry import Shape
from samunet.core.plan import Preference, Topology
from samunet.core.ranges import OneOf, Within, check_ranges
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import TOKEN_PIXELS, Backbone, encoder_size

PUBLISHED_SIDE = 512  # encoder pixels, MA-SAM's and SAMed's
FROZEN_BYTES = 6  # of a weight that does not train, with its copy of 16 bits
DECODER_WEIGHTS = 6e6  # of SAM's mask decoder with a dozen class tokens
TOKENS_ACROSS = 2.0  # tokens that the smallest class should span: a first rule, not yet studied
WITHOUT_PROMPTS = {
    "head.mask_decoder.iou_prediction_head": "SAM's quality head has no loss",
    "head.prompt_encoder.point_embeddings": "there are no points and no boxes",
    "head.prompt_encoder.not_a_point_embed": "there are no points and no boxes",
    "head.prompt_encoder.mask_downscaling": "there is no mask prompt",
}
"""Parameters of a class-token head that no loss reaches, and why; kept for the published checkpoint formats."""
_DRAWN = "which of them a step reaches depends on the prompts that it draws"
WITH_PROMPTS = {
    "head.mask_decoder.iou_prediction_head": "SAM's quality head has no loss",
    "head.prompt_encoder.point_embeddings": _DRAWN,
    "head.prompt_encoder.not_a_point_embed": _DRAWN,
    "head.prompt_encoder.mask_downscaling": "there is no mask prompt",
}
"""Parameters of a prompted head that no loss reaches, or not in every step, and why."""
ONE_MASK = {
    f"head.mask_decoder.output_hypernetworks_mlps.{index}": "one mask is asked for, SAM's first" for index in (1, 2, 3)
}
"""The same of SAM's own decoder."""
MODES = ("points", "iterative", "box", "mixed")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a method or a part of one; raises ConfigError where one does not fit the rule beside its type."""

    def __post_init__(self) -> None:
        check_ranges(self, "Option")


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(Options):
    """How an adapted encoder is fed, run and read."""

    pixel_range: str = "sam"
    """"sam": intensities with the mean and deviation of SAM's pretraining; "unit": every slab in [0, 1]."""
    checkpointing: bool = False
    """Run each block again in the backward pass instead of keeping its activations."""
    hq: bool = False
    """HQ-SAM: correct masks by one read from early, late and upsampled features; the loss is taken at the points that
    are least decided."""


@dataclass(frozen=True, kw_only=True)
class PromptSimulation(Options):
    """How prompts are simulated from labels in training."""

    prompts: Annotated[str, OneOf(*MODES)] = "mixed"
    """"points": clicks inside a structure; "iterative": one inside, then more where the network errs; "box"; "mixed":
    one of these for each batch."""
    points: Annotated[int, Within(1, 1000)] = 3
    """Clicks of "points" in each slice."""
    rounds: Annotated[int, Within(1, 100)] = 3
    """Clicks of "iterative" in each slice, the first included."""
    box_overlap: Annotated[float, Within(0, 1, above=True)] = 0.75
    """The sides of a box move by chance, as far as the plane's IoU with the tight box stays at this or above; 1 leaves
    it tight."""
    box_relaxation: Annotated[int, Within(0, 10_000)] = 2
    """A box is then larger by up to so many voxels on every side, along depth too, as boxes drawn by hand are."""


def preferred(topology: Topology, patch_size: Shape, smallest_class_voxels: float) -> tuple[Preference, ...]:
    """Choose the encoder scale so that the smallest class spans two tokens, within the side that the publications used.

    Coarser scales follow, for when memory is short: these methods lose more by a cut plane than by coarser tokens.

    Args:
        topology: not used; these methods have no convolutional path.
        patch_size: (D, H, W) voxels.
        smallest_class_voxels: typical in-plane diameter of the smallest class, in voxels.
    """
    fine_enough = TOKENS_ACROSS * TOKEN_PIXELS / smallest_class_voxels
    best = max(1.0, math.floor(4 * min(fine_enough, PUBLISHED_SIDE / max(patch_size[1:]))) / 4)
    choices = []
    for quarters in range(round(4 * best), 3, -1):
        scale = quarters / 4
        grid = [side // TOKEN_PIXELS for side in encoder_size(patch_size[1:], scale)]
        reason = (
            f"the smallest class ({smallest_class_voxels:.0f} voxels across) spans "
            f"{smallest_class_voxels * scale / TOKEN_PIXELS:.1f} tokens; wanted are {TOKENS_ACROSS:g}, where memory "
            f"and {PUBLISHED_SIDE} encoder pixels per side allow; a slice has {grid[0]} x {grid[1]} tokens"
        )
        choices.append(Preference(scale=scale, reason=reason))
    return tuple(choices)


def narrowed(width: int, ratio: float) -> int:
    """Return the inner width of a bottleneck that narrows to a share of its width, 1 at least."""
    return max(1, int(ratio * width))


def step_gib(
    spec: NetworkSpec,
    backbone: Backbone,
    batch_size: int,
    *,
    adapter_width: int,
    upsampling: int,
    checkpointing: bool = False,
    encoder_learns: bool = True,
    decoder_runs: int = 1,
    hq: bool = False,
) -> float:
    """Estimate the memory of one mixed-precision training step in GiB.

    A token needs about 18 embeddings per block for its own layers, 8 adapter widths, and its row of relative positions;
    the decoder about 3 feature maps of each resolution, and 20 embeddings per token for each run over a slice beyond
    the first; HQ-SAM's fused feature as much as three upsamplings by 4; logits and label sums about 6 maps of the
    patch per class.
    """
    height, width = (side // TOKEN_PIXELS for side in encoder_size(spec.patch_size[1:], spec.encoder_scale))
    slices = batch_size * spec.patch_size[0]
    per_token = 18 * backbone.width + 8 * adapter_width + 3 * backbone.heads * (height + width)
    blocks = kept_blocks(backbone, checkpointing) if encoder_learns else 0.5
    tokens = slices * height * width * blocks * per_token * 4
    maps = sum((4**level) * backbone.decoder_width / 2**level for level in range(1, 5 if upsampling == 16 else 3))
    decoder = slices * height * width * (decoder_runs * 3 * maps + (decoder_runs - 1) * 20 * backbone.decoder_width) * 4
    if hq:
        decoder += slices * height * width * 3 * 18 * backbone.decoder_width * 4
    outputs = 6 * slices * spec.labels.outputs * spec.patch_size[1] * spec.patch_size[2] * 4
    weights: float = 12 * backbone.depth * backbone.width**2
    weights *= FROZEN_BYTES if spec.pretrained or not encoder_learns else 16
    weights += 16 * (adapter_weights(backbone, adapter_width) + DECODER_WEIGHTS * (backbone.decoder_width / 256) ** 2)
    return (tokens + decoder + outputs + weights) / 2**30


def adapter_weights(backbone: Backbone, width: int) -> int:
    """Count the weights of two 3D adapters of a width in every block."""
    return 2 * backbone.depth * width * (2 * backbone.width + 3 * width)


def kept_blocks(backbone: Backbone, checkpointing: bool) -> float:
    """Return how many blocks' activations a training step keeps at a time.

    With checkpointing these are every block's input, an eighteenth of it, and one block with its gradients.
    """
    return 2.5 + backbone.depth / 18 if checkpointing else backbone.depth
