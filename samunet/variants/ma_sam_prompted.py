"""MA-SAM with boxes, its authors' form for tumors: one 3D box per structure says where to segment.

Encoder and decoder are ma_sam's, with two class tokens, elsewhere and the structure, for every structure that a box
shows. See documentation/methods/ma_sam.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from samunet.models.rules import WITH_PROMPTS, PromptSimulation, step_gib
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import Backbone
from samunet.variants import ma_sam

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of this method: ma_sam's, and the prompts of training; the defaults are the authors'."""

    network: ma_sam.Config = ma_sam.Config()
    """Options of ma_sam."""
    simulation: PromptSimulation = PromptSimulation(prompts="box", box_overlap=1.0, box_relaxation=5)
    """Prompts of training."""


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.models.heads import class_token_decoder
    from samunet.models.prompted import PromptedMasks, PromptedSAM

    network = config.network
    sites = ma_sam.adapters(sam, network)
    head = PromptedMasks(sam, class_token_decoder(sam, 2, network.upsampling), hq=network.hq)
    return PromptedSAM(
        sam,
        spec,
        sites,
        head=head,
        simulation=config.simulation,
        pixel_range=network.pixel_range,
        checkpointing=network.checkpointing,
    )


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB, with every structure in every slice."""
    return step_gib(
        spec,
        backbone,
        batch_size,
        adapter_width=config.network.adapter_width_for(backbone.width),
        upsampling=config.network.upsampling,
        checkpointing=config.network.checkpointing,
        decoder_runs=len(spec.labels.foreground),
        hq=config.network.hq,
    )


METHOD = ma_sam.METHOD.with_prompts(WITH_PROMPTS, config=Config, build=build, cost=cost)
