"""MaskSAM: queries instead of prompts. A generator makes a mask, a box and a token for each, SAM's decoder answers with a mask and a class.

The encoder and the decoder of SAM are frozen around bottlenecks that see depth. See documentation/methods/masksam.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from samunet.core.geometry import Shape
from samunet.core.plan import Preference, Topology
from samunet.errors import ConfigError
from samunet.models import promptfree_rules
from samunet.models.promptfree_rules import step_gib
from samunet.models.query_rules import generator_values
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import TOKEN_PIXELS, Backbone, encoder_size

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter

__all__ = ["SLICES_MEET", "SOURCE", "STARTS_AS", "WITHOUT_GRADIENT", "Config", "build", "cost", "preferred"]

SOURCE = "Xie et al., MaskSAM: Auto-prompt SAM with mask classification for volumetric medical image segmentation, ICCV 2025."
STARTS_AS = "sam"  # as the publication does not: initialization="official" starts its adapters at random
SLICES_MEET = True
WITHOUT_GRADIENT = {
    "head.mask_decoder.iou_prediction_head": "SAM's quality head has no loss",
    "head.mask_decoder.output_hypernetworks_mlps.1": "masks come from SAM's first mask token",
    "head.mask_decoder.output_hypernetworks_mlps.2": "masks come from SAM's first mask token",
    "head.mask_decoder.output_hypernetworks_mlps.3": "masks come from SAM's first mask token",
    "head.prompt_encoder.point_embeddings.0": "there are no points",
    "head.prompt_encoder.point_embeddings.1": "there are no points",
    "head.prompt_encoder.not_a_point_embed": "there are no points",
    "head.prompt_encoder.no_mask_embed": "every query has a mask prompt",
}
CHOICES = {
    "initialization": ("zero", "official"),
    "decoder_depth": ("convolution", "perceptron"),
    "match": ("slice", "volume"),
}
QUERIES_A_CLASS = 1.5
QUERIES_AT_A_TIME = 8


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of this method; the defaults are the paper's where it tells."""

    queries: int = 0
    """Number of queries; 0 takes one and a half per class, rounded up to a multiple of 8 (the authors' 8 and 24)."""
    ratio: float = 0.25
    """Width of the adapters as a share of the width of their tokens."""
    decoder_depth: str = "convolution"
    """How the decoder's adapters see depth: "convolution" over three slices, for any depth; "perceptron" over all of them, as published."""
    initialization: str = "zero"
    """"zero": the adapters' up projections start at zero, so that the encoder starts as SAM; "official": at random."""
    match: str = "slice"
    """Which query has which class: assigned for each slice, as published, or once for the whole slab ("volume")."""
    points: int = 32768
    """Pixels of a slice at which masks are compared; all of them where it has no more."""
    checkpointing: bool = False
    """Run each block again in the backward pass instead of keeping its activations."""

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"masksam: {name} must be one of {', '.join(known)}; got '{getattr(self, name)}'.")
        if self.queries < 0 or not 0 < self.ratio <= 1 or self.points < 1:
            raise ConfigError(
                f"masksam: queries must be 0 or more, ratio in (0, 1] and points 1 or more; got {self.queries}, {self.ratio} and {self.points}."
            )

    def queries_for(self, outputs: int) -> int:
        """Return the number of queries for so many classes with background, or regions."""
        return self.queries or QUERIES_AT_A_TIME * math.ceil(QUERIES_A_CLASS * outputs / QUERIES_AT_A_TIME)


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`.

    Raises:
        ConfigError: there are more classes than queries, or the plan's encoder scale is no power of two.
    """
    from samunet.variants._masksam import MaskSAM

    queries = config.queries_for(spec.labels.outputs)
    if queries < spec.labels.outputs:
        raise ConfigError(
            f"masksam: {queries} queries cannot answer for {spec.labels.outputs} classes of one slice; give as many or more."
        )
    if spec.encoder_scale < 1 or not math.log2(spec.encoder_scale).is_integer():
        raise ConfigError(
            f"masksam: its stem doubles the plane, so encoder_scale must be 1, 2, 4, ...; got {spec.encoder_scale:g}."
        )
    return MaskSAM(sam, spec, config)


def preferred(topology: Topology, patch_size: Shape, smallest_class_voxels: float) -> tuple[Preference, ...]:
    """Return those of the prompt-free methods' encoder scales that are powers of two: the stem doubles the plane."""
    choices = promptfree_rules.preferred(topology, patch_size, smallest_class_voxels)
    kept = [choice for choice in choices if math.log2(choice.scale).is_integer()]
    return tuple(
        replace(choice, reason=f"{choice.reason}; a power of two, for the stem doubles the plane") for choice in kept
    )


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config | None = None) -> float:
    """Estimate the memory of one mixed-precision training step in GiB: the encoder's, the generator's, and SAM's decoder once per slice and query."""
    config = config or Config()
    queries = config.queries_for(spec.labels.outputs)
    encoder = step_gib(
        spec,
        backbone,
        batch_size,
        adapter_width=int(config.ratio * backbone.width),
        upsampling=4,
        checkpointing=config.checkpointing,
    )
    height, width = (side // TOKEN_PIXELS for side in encoder_size(spec.patch_size[1:], spec.encoder_scale))
    slices = batch_size * spec.patch_size[0]
    generator = slices * height * width * generator_values(backbone.decoder_width, spec.encoder_scale) * 4
    decoder = (
        slices * queries * height * width * 60 * backbone.decoder_width * 4
    )  # places of two layers, and their upsampling
    outputs = 10 * slices * queries * spec.patch_size[1] * spec.patch_size[2] * 4
    return encoder + (generator + decoder + outputs) / 2**30
