"""Medical SAM Adapter as published: clicks and boxes say what to segment.

The adapters are med_sa's; SAM's own decoder runs once for every structure and slice that a prompt shows. See documentation/methods/med_sa.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from samunet.errors import ConfigError
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

    compat: str = "paper"
    """"paper", or "official": the network of the authors' code, which differs, to read their weights; only `ratio`, `scale` and
    `depth_attention` of the adapters' options count then."""

    def __post_init__(self) -> None:
        if self.compat not in ("paper", "official"):
            raise ConfigError(f"med_sa_prompted: compat must be paper or official; got '{self.compat}'.")
        med_sa.AdapterConfig.__post_init__(self)
        PromptedConfig.__post_init__(self)


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.models.prompted import PromptedMasks, PromptedSAM

    sam.prompt_encoder.requires_grad_(not spec.pretrained)
    if config.compat == "official":
        return _released(sam, spec, config)
    sites, decoder = med_sa.adapters(sam, spec, config)
    head = PromptedMasks(sam, sam.mask_decoder, decoder)
    return PromptedSAM(
        sam,
        spec,
        sites,
        head=head,
        simulation=config,
        pixel_range=config.pixel_range,
        checkpointing=config.checkpointing,
    )


def _released(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network of the authors' code: no relative positions, GELU, all of the decoder trained and none of it adapted, pixels in [0, 1]."""
    from samunet.models.medical_adapter import ReleasedSites
    from samunet.models.prompted import PromptedMasks, PromptedSAM

    width, depth = sam.image_encoder.pos_embed.shape[-1], config.depth_attention and spec.patch_size[0] > 1
    settings = {"depth": depth, "scale": config.scale, "activation": "gelu", "start_at_zero": False}
    sites = [ReleasedSites(block, width, int(config.ratio * width), **settings) for block in sam.image_encoder.blocks]
    for block in sam.image_encoder.blocks:
        block.attn.rel_pos_h.data.zero_()
        block.attn.rel_pos_w.data.zero_()
    head = PromptedMasks(sam, sam.mask_decoder, released=True)
    return PromptedSAM(
        sam, spec, sites, head=head, simulation=config, pixel_range="unit", checkpointing=config.checkpointing
    )


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config | None = None) -> float:
    """Estimate the memory of one mixed-precision training step in GiB, with every structure in every slice."""
    config = config or Config()
    width, runs = med_sa.adapters_width(backbone, config), len(spec.labels.foreground)
    return step_gib(
        spec,
        backbone,
        batch_size,
        adapter_width=width,
        upsampling=4,
        checkpointing=config.checkpointing,
        decoder_runs=runs,
    )
