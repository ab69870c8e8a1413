"""SAMed: a frozen SAM encoder with LoRA on q and v, and a decoder with class tokens; slices are segmented one by one.

See documentation/methods/samed.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from samunet.core.ranges import Within
from samunet.models.rules import WITHOUT_PROMPTS, EncoderOptions, preferred, step_gib
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import Backbone
from samunet.variants.method import Method

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter


@dataclass(frozen=True, kw_only=True)
class Config(EncoderOptions):
    """Options of this method; the defaults are the authors'."""

    rank: Annotated[int, Within(1, 4096)] = 4
    """Rank of LoRA on q and v."""
    adapt_decoder: bool = False
    """SAMed_s: freeze the decoder's two-way transformer as well, with LoRA on its q and v."""
    low_resolution_loss: bool = True
    """Take the loss on the decoder's logits, a quarter of the encoder's resolution, instead of on the patch's grid."""


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.models.heads import ClassTokenMasks
    from samunet.models.prompt_free import PromptFreeSAM
    from samunet.variants.samed.lora import LoRASites, decoder_lora

    width = sam.image_encoder.pos_embed.shape[-1]
    transformer = sam.mask_decoder.transformer
    decoder_sites = decoder_lora(transformer, config.rank) if config.adapt_decoder else None
    if config.adapt_decoder and spec.pretrained:
        transformer.requires_grad_(False)
    return PromptFreeSAM(
        sam,
        spec,
        [LoRASites(width, config.rank) for _ in sam.image_encoder.blocks],
        head=ClassTokenMasks(sam, spec.labels.outputs, 4, decoder_sites, hq=config.hq),
        pixel_range=config.pixel_range,
        low_resolution_loss=config.low_resolution_loss,
        checkpointing=config.checkpointing,
    )


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB."""
    return step_gib(
        spec,
        backbone,
        batch_size,
        adapter_width=config.rank,
        upsampling=4,
        checkpointing=config.checkpointing,
        hq=config.hq,
    )


METHOD = Method(
    source=(
        "Zhang and Liu, Customized Segment Anything Model for medical image segmentation (SAMed), arXiv 2304.13785, "
        "2023."
    ),
    starts_as="sam",
    slices_meet=False,
    without_gradient=WITHOUT_PROMPTS,
    config=Config,
    build=build,
    preferred=preferred,
    cost=cost,
)
