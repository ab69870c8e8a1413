"""Medical SAM Adapter as published: clicks and boxes say what to segment.

The adapters are med_sa's; SAM's own decoder runs once for every structure and slice that a prompt shows. See
documentation/methods/med_sa.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from samunet.core.ranges import OneOf
from samunet.errors import ConfigError
from samunet.models.rules import ONE_MASK, WITH_PROMPTS, Options, PromptSimulation, step_gib
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import Backbone
from samunet.variants import med_sa

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options of this method: med_sa's adapters, and the prompts of training."""

    adapters: med_sa.AdapterConfig = med_sa.AdapterConfig()
    """Options of med_sa's adapters."""
    simulation: PromptSimulation = PromptSimulation()
    """Prompts of training."""
    compat: Annotated[str, OneOf("paper", "official", "official_2025")] = "paper"
    """"paper", or the network of the authors' code, which differs, to read their weights: "official" as it was until
    April 2025, "official_2025" since; only `ratio`, `scale` and `depth_attention` of the adapters' options count
    then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compat != "paper" and self.adapters.hq:
            raise ConfigError("med_sa_prompted: the authors' network has no hq; leave it out, or take compat paper.")


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.models.prompted import PromptedMasks, PromptedSAM
    from samunet.variants.med_sa_prompted.released import ReleasedMasks, released_adapters

    options, pixel_range = config.adapters, config.adapters.pixel_range
    sam.prompt_encoder.requires_grad_(not spec.pretrained)
    if config.compat != "paper":  # all of the decoder trains and none of it is adapted
        sites = released_adapters(sam, spec, options)
        old = config.compat == "official"
        head: PromptedMasks = ReleasedMasks(sam, row_first=old)
        pixel_range = "unit" if old else "sam"
    else:
        sites, decoder = med_sa.adapters_for(sam, spec, options)
        head = PromptedMasks(sam, sam.mask_decoder, decoder, hq=options.hq)
    return PromptedSAM(
        sam,
        spec,
        sites,
        head=head,
        simulation=config.simulation,
        pixel_range=pixel_range,
        checkpointing=options.checkpointing,
    )


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB, with every structure in every slice."""
    return step_gib(
        spec,
        backbone,
        batch_size,
        adapter_width=med_sa.adapters_width(backbone, config.adapters),
        upsampling=4,
        checkpointing=config.adapters.checkpointing,
        decoder_runs=len(spec.labels.foreground),
        hq=config.adapters.hq,
    )


METHOD = med_sa.METHOD.with_prompts(WITH_PROMPTS | ONE_MASK, config=Config, build=build, cost=cost)
