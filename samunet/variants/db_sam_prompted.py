"""DB-SAM as published: a box for each structure says what to segment.

Encoder and branch are db_sam's; SAM's own decoder runs once for every structure and slice that a box shows. See
documentation/methods/db_sam.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from samunet.models.rules import ONE_MASK, WITH_PROMPTS, PromptSimulation
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import Backbone
from samunet.variants import db_sam

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of this method: db_sam's, and the prompts of training."""

    network: db_sam.Config = db_sam.Config()
    """Options of db_sam."""
    simulation: PromptSimulation = PromptSimulation(prompts="box", box_overlap=1.0, box_relaxation=5)
    """Prompts of training."""


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.models.prompted import PromptedMasks, PromptedSAM
    from samunet.variants.db_sam.branch import DualBranch

    options = config.network
    network = PromptedSAM(
        sam,
        spec,
        None,
        head=PromptedMasks(sam, sam.mask_decoder, hq=options.hq),
        branch=DualBranch(sam.image_encoder, spec.patch_size[0], options.layout, checkpointing=options.checkpointing),
        simulation=config.simulation,
        pixel_range=options.pixel_range,
        checkpointing=options.checkpointing,
    )
    network.image_encoder.neck.requires_grad_(True)
    return network


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB, with every structure in every slice."""
    return db_sam.cost(spec, backbone, batch_size, config.network, decoder_runs=len(spec.labels.foreground))


METHOD = db_sam.METHOD.with_prompts(WITH_PROMPTS | ONE_MASK, config=Config, build=build, cost=cost)
