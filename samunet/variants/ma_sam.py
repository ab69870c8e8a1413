"""MA-SAM: a frozen SAM encoder with 3D adapters around attention and FacT on q and v, and a decoder with class tokens.

Depth is the slab: slices meet only in the adapters' depth convolutions. See documentation/methods/ma_sam.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from samunet.core.geometry import Shape
from samunet.core.plan import Preference, Topology
from samunet.core.ranges import OneOf, Within
from samunet.models import rules
from samunet.models.rules import WITHOUT_PROMPTS, EncoderOptions, step_gib
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import Backbone
from samunet.variants.method import Method

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter
    from samunet.sam.encoder import Sites

SLAB_DEPTH = 5  # the authors'
ADAPTER_WIDTH = 384  # the authors', for the backbones with official weights, whose tokens have 768 numbers or more


@dataclass(frozen=True, kw_only=True)
class Config(EncoderOptions):
    """Options of this method; the defaults are the authors'."""

    rank: Annotated[int, Within(0, 4096)] = 32
    """Rank of FacT on q and v; 0 leaves it out."""
    adapter_width: Annotated[int, Within(0, 4096)] = 0
    """Bottleneck of the 3D adapters; 0: the authors' 384, but at most half the width of the backbone's tokens."""
    dropout: Annotated[float, Within(0, 1, below=True)] = 0.1
    """Share of FacT's low-rank vectors that training drops."""
    initialization: Annotated[str, OneOf("official", "zero")] = "official"
    """"official": adapters start at random, so the encoder does not start as SAM; "zero": their up projections start at
    zero."""
    upsampling: Annotated[int, Within(1, 16)] = 16
    """Upsampling of the decoder: 16, progressive, to the encoder's resolution; 4 as in SAM."""

    def adapter_width_for(self, width: int) -> int:
        """Return the adapters' bottleneck in a backbone with tokens of a width."""
        return self.adapter_width or min(ADAPTER_WIDTH, width // 2)


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.models.heads import ClassTokenMasks
    from samunet.models.prompt_free import PromptFreeSAM

    head = ClassTokenMasks(sam, spec.labels.outputs, config.upsampling, hq=config.hq)
    return PromptFreeSAM(
        sam, spec, adapters(sam, config), head=head, pixel_range=config.pixel_range, checkpointing=config.checkpointing
    )


def adapters(sam: Sam, config: Config) -> list[Sites]:
    """Return the encoder's adapters."""
    from samunet.models.depth_adapters import MASAMSites, SharedFactors

    width = sam.image_encoder.pos_embed.shape[-1]
    factors = SharedFactors(width, config.rank) if config.rank > 0 else None
    zero = config.initialization == "zero"
    return [
        MASAMSites(width, config.adapter_width_for(width), factors, dropout=config.dropout, start_at_zero=zero)
        for _ in sam.image_encoder.blocks
    ]


def preferred(topology: Topology, patch_size: Shape, smallest_class_voxels: float) -> tuple[Preference, ...]:
    """Return the encoder scales of all prompt-free methods, with the authors' five slices per slab."""
    return tuple(
        replace(choice, depth=SLAB_DEPTH) for choice in rules.preferred(topology, patch_size, smallest_class_voxels)
    )


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB."""
    return step_gib(
        spec,
        backbone,
        batch_size,
        adapter_width=config.adapter_width_for(backbone.width),
        upsampling=config.upsampling,
        checkpointing=config.checkpointing,
        hq=config.hq,
    )


METHOD = Method(
    source=(
        "Chen et al., MA-SAM: Modality-agnostic SAM adaptation for 3D medical image segmentation, Medical Image "
        "Analysis 2024."
    ),
    starts_as=None,  # the authors start the adapters at random; initialization="zero" starts as SAM
    slices_meet=True,
    without_gradient=WITHOUT_PROMPTS,
    config=Config,
    build=build,
    preferred=preferred,
    cost=cost,
)
