"""HQ-SAM as published: a frozen SAM with one more token, whose mask is read from early features too, and prompts.

Slices are segmented one by one. See documentation/methods/hq_sam.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from samunet.models.rules import ONE_MASK, WITH_PROMPTS, PromptSimulation, preferred, step_gib
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import Backbone
from samunet.variants.method import Method

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of this method."""

    pixel_range: str = "sam"
    """"sam": intensities with the mean and deviation of SAM's pretraining; "unit": every slab in [0, 1]."""
    simulation: PromptSimulation = PromptSimulation(points=10)
    """Prompts of training."""


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.variants.hq_sam_prompted.network import HQSAM

    return HQSAM(sam, spec, pixel_range=config.pixel_range, simulation=config.simulation)


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB, with every structure in every slice."""
    return step_gib(
        spec,
        backbone,
        batch_size,
        adapter_width=0,
        upsampling=4,
        encoder_learns=not spec.pretrained,
        decoder_runs=len(spec.labels.foreground),
        hq=True,
    )


METHOD = Method(
    source="Ke et al., Segment Anything in High Quality (HQ-SAM), NeurIPS 2023.",
    starts_as="sam",
    slices_meet=False,
    without_gradient=WITH_PROMPTS | ONE_MASK,
    config=Config,
    build=build,
    preferred=preferred,
    cost=cost,
    prompted=True,
)
