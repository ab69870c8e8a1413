"""What masksam asks of a plan: options, encoder scale and memory; nothing here needs torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

from samunet.core.geometry import Shape
from samunet.core.labels import Labels
from samunet.core.plan import Preference, Topology
from samunet.core.ranges import OneOf, Within
from samunet.models import rules
from samunet.models.rules import Options, narrowed, step_gib
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import TOKEN_PIXELS, Backbone, encoder_size

QUERIES_A_CLASS = 1.5
QUERIES_AT_A_TIME = 8
SLAB_DEPTH = 5  # the authors have 4, 9 and 26; with few slices a step takes seconds and many fit into a training
SLICES_A_STEP = 8  # with half as many, and twice the steps, one class of two was never found
STAGES = 4
"""Blocks of the encoder that the prompt generator joins one after the other, from the last to the first."""


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options of this method; the defaults are the paper's where it tells and where they learn in few steps."""

    queries: Annotated[int, Within(0, 10_000)] = 0
    """Number of queries; 0 takes one and a half per class, rounded up to a multiple of 8 (the authors' 8 and 24)."""
    ratio: Annotated[float, Within(1e-3, 1)] = 0.25
    """Width of the adapters as a share of the width of their tokens."""
    decoder_depth: Annotated[str, OneOf("convolution", "perceptron")] = "convolution"
    """How the decoder's adapters see depth: "convolution" over three slices, for any depth; "perceptron" over all of
    them, as published."""
    initialization: Annotated[str, OneOf("zero", "official")] = "zero"
    """"zero": the adapters' up projections start at zero, so that the encoder starts as SAM; "official": at random."""
    match: Annotated[str, OneOf("slice", "volume")] = "slice"
    """Which query has which class: assigned for each slice, as published, or once for the whole slab ("volume")."""
    points: Annotated[int, Within(1, 2**24)] = 32768
    """Pixels of a slice at which masks are compared; all of them where it has no more."""
    background: Annotated[str, OneOf("rest", "query")] = "rest"
    """"rest": no query answers for background, it is where no other class is; "query": one does, as published."""
    combined_loss: Annotated[float, Within(0, 100)] = 1.0
    """Weight of .2 cross-entropy and .8 Dice on the classes' combined chances, beside the matched losses."""
    generator_doublings: Annotated[int, Within(0, 4)] = 2
    """How often the prompt generator doubles the token grid at most; up to the voxels it is most of a step's work."""
    finest_masks: bool = True
    """Bring the decoder's masks, a quarter of the encoder's resolution, to voxels by convolutions over all queries."""
    compat: Annotated[str, OneOf("samunet", "paper")] = "samunet"
    """"paper": the published setting, whatever the four options before say."""
    checkpointing: bool = False
    """Run each block again in the backward pass instead of keeping its activations."""

    def settled(self) -> Config:
        """Return the options with those that `compat` decides."""
        if self.compat == "samunet":
            return self
        return replace(self, background="query", combined_loss=0.0, generator_doublings=STAGES, finest_masks=False)

    def background_is_rest(self, labels: Labels) -> bool:
        """Tell whether background is where no class is, and no query's answer."""
        return self.settled().background == "rest" and not labels.has_regions

    def queries_for(self, outputs: int) -> int:
        """Return the number of queries for so many classes with background, or regions."""
        return self.queries or QUERIES_AT_A_TIME * math.ceil(QUERIES_A_CLASS * outputs / QUERIES_AT_A_TIME)


def preferred(topology: Topology, patch_size: Shape, smallest_class_voxels: float) -> tuple[Preference, ...]:
    """Return those of the prompt-free methods' encoder scales that are powers of two: the stem doubles the plane.

    A coarser one comes before steps of few slices: the convolutions bring its masks to voxels too.
    """
    choices = rules.preferred(topology, patch_size, smallest_class_voxels)
    kept = [choice for choice in choices if math.log2(choice.scale).is_integer()]
    return tuple(
        replace(
            choice,
            depth=SLAB_DEPTH,
            slices=SLICES_A_STEP,
            reason=f"{choice.reason}; a power of two, for the stem doubles the plane",
        )
        for choice in kept
    )


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB.

    It is the encoder's, the generator's, and that of SAM's decoder once for each slice and query.
    """
    queries = config.queries_for(spec.labels.outputs)
    encoder = step_gib(
        spec,
        backbone,
        batch_size,
        adapter_width=narrowed(backbone.width, config.ratio),
        upsampling=4,
        checkpointing=config.checkpointing,
    )
    height, width = (side // TOKEN_PIXELS for side in encoder_size(spec.patch_size[1:], spec.encoder_scale))
    slices, settled = batch_size * spec.patch_size[0], config.settled()
    doublings = min(settled.generator_doublings, generator_doublings(spec.encoder_scale))
    generator = slices * height * width * generator_values(backbone.decoder_width, doublings) * 4
    decoder = slices * queries * height * width * 60 * backbone.decoder_width * 4  # two layers and the upsampling
    outputs = 10 * slices * queries * spec.patch_size[1] * spec.patch_size[2] * 4
    if settled.finest_masks:  # three maps of each resolution from the decoder's masks to voxels
        places = sum(16 * 4**level for level in range(1, mask_doublings(spec.encoder_scale) + 1))
        outputs += slices * height * width * places * 3 * backbone.decoder_width // 4 * 4
    return encoder + (generator + decoder + outputs) / 2**30


def generator_widths(decoder_width: int) -> list[int]:
    """Return the channels of the prompt generator's stages."""
    return [max(8, decoder_width // (2 if stage < 2 else 4)) for stage in range(STAGES)]


def generator_doublings(encoder_scale: float) -> int:
    """Return how often the token grid doubles on its way to the voxels; later stages refine."""
    return max(0, int(math.log2(TOKEN_PIXELS / encoder_scale)))


def mask_doublings(encoder_scale: float) -> int:
    """Return how often the decoder's masks, a quarter of the encoder's resolution, double on their way to voxels."""
    return max(0, 2 - int(math.log2(encoder_scale)))


def generator_values(decoder_width: int, doublings: int) -> int:
    """Return how many numbers the stages keep for the gradient of each token: a block's three maps, and the joins."""
    total = 0
    for stage, width in enumerate(generator_widths(decoder_width), start=1):
        levels = [4**level for level in range(1, min(stage, doublings) + 1)] or [1]
        total += width * (3 * sum(levels) + 5 * levels[-1])
    return total
