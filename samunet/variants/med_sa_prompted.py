"""Medical SAM Adapter as published: clicks and boxes say what to segment.

The adapters are med_sa's; SAM's own decoder runs once for every structure and slice that a prompt shows. See documentation/methods/med_sa.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from samunet.models import prompt_rules
from samunet.models.prompt_rules import PromptedConfig
from samunet.models.promptfree_rules import preferred, step_gib
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import Backbone
from samunet.variants import med_sa

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter

__all__ = ["SLICES_MEET", "SOURCE", "STARTS_AS", "WITHOUT_GRADIENT", "Config", "build", "cost", "preferred"]

SOURCE = med_sa.SOURCE
STARTS_AS = "sam"
SLICES_MEET = True
WITHOUT_GRADIENT = prompt_rules.WITHOUT_GRADIENT | {
    f"head.mask_decoder.output_hypernetworks_mlps.{index}": "one mask is asked for, SAM's first" for index in (1, 2, 3)
}


@dataclass(frozen=True, kw_only=True)
class Config(PromptedConfig, med_sa.AdapterConfig):
    """Options of this method: med_sa's adapters, and the prompts of training."""

    def __post_init__(self) -> None:
        med_sa.AdapterConfig.__post_init__(self)
        PromptedConfig.__post_init__(self)


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.models.prompted import PromptedMasks, PromptedSAM

    sites, decoder = med_sa.adapters(sam, spec, config)
    sam.prompt_encoder.requires_grad_(not spec.pretrained)
    head = PromptedMasks(sam, sam.mask_decoder, decoder)
    return PromptedSAM(sam, spec, sites, head=head, simulation=config, pixel_range=config.pixel_range, checkpointing=config.checkpointing)


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config | None = None) -> float:
    """Estimate the memory of one mixed-precision training step in GiB, with every structure in every slice."""
    config = config or Config()
    width, runs = med_sa.adapters_width(backbone, config), len(spec.labels.foreground)
    return step_gib(spec, backbone, batch_size, adapter_width=width, upsampling=4, checkpointing=config.checkpointing, decoder_runs=runs)
