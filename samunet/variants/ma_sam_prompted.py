"""MA-SAM with boxes, its authors' form for tumors: one 3D box per structure says where to segment.

Encoder and decoder are ma_sam's, with two class tokens, elsewhere and the structure, for every structure that a box shows. See
documentation/methods/ma_sam.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from samunet.models.prompt_rules import WITHOUT_GRADIENT, PromptedConfig
from samunet.models.promptfree_rules import step_gib
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import Backbone
from samunet.variants import ma_sam
from samunet.variants.ma_sam import preferred

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter

__all__ = ["SLICES_MEET", "SOURCE", "STARTS_AS", "WITHOUT_GRADIENT", "Config", "build", "cost", "preferred"]

SOURCE = ma_sam.SOURCE
STARTS_AS = None  # as ma_sam
SLICES_MEET = True


@dataclass(frozen=True, kw_only=True)
class Config(PromptedConfig, ma_sam.Config):
    """Options of this method: ma_sam's, and the prompts of training."""

    prompts: str = "box"
    """"box", the authors'; "points", "iterative" and "mixed" as for med_sa_prompted."""
    box_overlap: float = 1.0
    """The sides of a box move by chance, as far as the plane's IoU with the tight box stays at this or above; 1 leaves it tight."""
    box_relaxation: int = 5
    """A box is then larger by up to so many voxels on every side, along depth too, as boxes drawn by hand are."""

    def __post_init__(self) -> None:
        ma_sam.Config.__post_init__(self)
        PromptedConfig.__post_init__(self)


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.models.decoders import class_token_decoder
    from samunet.models.prompted import PromptedMasks, PromptedSAM

    sites = ma_sam.adapters(sam, config)
    head = PromptedMasks(sam, class_token_decoder(sam, 2, config.upsampling))
    return PromptedSAM(
        sam,
        spec,
        sites,
        head=head,
        simulation=config,
        pixel_range=config.pixel_range,
        checkpointing=config.checkpointing,
    )


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config | None = None) -> float:
    """Estimate the memory of one mixed-precision training step in GiB, with every structure in every slice."""
    config = config or Config()
    return step_gib(
        spec,
        backbone,
        batch_size,
        adapter_width=config.adapter_width,
        upsampling=config.upsampling,
        checkpointing=config.checkpointing,
        decoder_runs=len(spec.labels.foreground),
    )
