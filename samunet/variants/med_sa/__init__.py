"""Medical SAM Adapter: a frozen SAM with bottlenecks in every encoder block, attention along depth, a steered decoder.

Slices meet where every place of the plane attends to itself in the other slices, with the block's own attention. See
documentation/methods/med_sa.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from samunet.core.ranges import OneOf, Within
from samunet.models.rules import WITHOUT_PROMPTS, EncoderOptions, narrowed, preferred, step_gib
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import Backbone
from samunet.variants.method import Method

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter
    from samunet.sam.decoder import DecoderSites
    from samunet.sam.encoder import Sites

ATTENTION_ALONG_DEPTH = 0.75  # of a token's width: what it keeps for the gradient, in adapter widths of `step_gib`


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(EncoderOptions):
    """Options of the adapters; the defaults are the paper's where it tells, but for the start at zero."""

    ratio: Annotated[float, Within(1e-3, 1)] = 0.25
    """Width of the encoder's adapters as a share of its tokens' width."""
    decoder_width: Annotated[int, Within(1, 4096)] = 64
    """Width of the decoder's adapters."""
    activation: Annotated[str, OneOf("relu", "gelu")] = "relu"
    """Activation of the adapters: "relu" as in the paper, "gelu" as in the released code."""
    scale: Annotated[float, Within(-100, 100)] = 0.5
    """Factor on the adapters beside the MLPs."""
    initialization: Annotated[str, OneOf("zero", "official")] = "zero"
    """"zero": the adapters' up projections start at zero, so that the encoder starts as SAM; "official": at random."""
    depth_attention: bool = True
    """Attend along depth as well (SD-Trans); without it slices do not see each other."""
    prompted: Annotated[str, OneOf("hyper", "add", "concat")] = "hyper"
    """How prompt tokens steer the decoder's first adapter: "hyper" (HyP-Adpt), "add" or "concat", the ablation."""
    hyper_layers: Annotated[int, Within(1, 64)] = 1
    """Layers that "hyper" makes."""


@dataclass(frozen=True, kw_only=True)
class Config(AdapterConfig):
    """Options of this method."""

    upsampling: Annotated[int, Within(1, 16)] = 4
    """Upsampling of the decoder: 4 as in SAM; 16, progressive, as in MA-SAM."""


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.models.heads import ClassTokenMasks
    from samunet.models.prompt_free import PromptFreeSAM

    sites, decoder = adapters_for(sam, spec, config)
    head = ClassTokenMasks(sam, spec.labels.outputs, config.upsampling, decoder, hq=config.hq)
    return PromptFreeSAM(
        sam, spec, sites, head=head, pixel_range=config.pixel_range, checkpointing=config.checkpointing
    )


def adapters_for(sam: Sam, spec: NetworkSpec, config: AdapterConfig) -> tuple[list[Sites], list[DecoderSites]]:
    """Return the encoder's and the decoder's adapters, and freeze the decoder's first layer where it is pretrained."""
    from samunet.models.bottleneck import BottleneckStyle
    from samunet.variants.med_sa.adapters import MedicalDecoderSites, MedicalSites, with_first_layer

    width, transformer = sam.image_encoder.pos_embed.shape[-1], sam.mask_decoder.transformer
    style = BottleneckStyle(activation=config.activation, start_at_zero=config.initialization == "zero")
    depth = config.depth_attention and spec.patch_size[0] > 1
    sites: list[Sites] = [
        MedicalSites(width, narrowed(width, config.ratio), style, depth=depth, scale=config.scale)
        for _ in sam.image_encoder.blocks
    ]
    first = MedicalDecoderSites(
        sam.mask_decoder.transformer_dim,
        config.decoder_width,
        style,
        scale=config.scale,
        form=config.prompted,
        hyper_layers=config.hyper_layers,
    )
    if spec.pretrained:  # the adapters learn instead; the second layer and the heads train whole
        transformer.layers[0].requires_grad_(False)
    return sites, with_first_layer(first, len(transformer.layers))


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB."""
    return step_gib(
        spec,
        backbone,
        batch_size,
        adapter_width=adapters_width(backbone, config),
        upsampling=config.upsampling,
        checkpointing=config.checkpointing,
        hq=config.hq,
    )


def adapters_width(backbone: Backbone, config: AdapterConfig) -> int:
    """Return what a block's adapters keep for the gradient, in the unit of `step_gib`."""
    if not config.depth_attention:
        return narrowed(backbone.width, config.ratio)
    return int(backbone.width * (config.ratio * 1.5 + ATTENTION_ALONG_DEPTH))


METHOD = Method(
    source=(
        "Wu et al., Medical SAM Adapter: Adapting Segment Anything Model for medical image segmentation, Medical Image "
        "Analysis 2025."
    ),
    starts_as="sam",  # as the publication does not: initialization="official" starts its adapters at random
    slices_meet=True,
    without_gradient=WITHOUT_PROMPTS,
    config=Config,
    build=build,
    preferred=preferred,
    cost=cost,
)
