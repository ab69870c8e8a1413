"""AutoSAM: a network of its own makes SAM's dense prompt from the image; SAM is frozen, but for what knows the classes.

The network is the plan's U-Net down to the grid of tokens; slices meet in it. See documentation/methods/autosam.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from samunet.core.ranges import OneOf
from samunet.models.rules import WITHOUT_PROMPTS, EncoderOptions, preferred, step_gib
from samunet.models.spec import NetworkSpec
from samunet.models.unet_rules import convolutions_gib, cumulative
from samunet.sam.backbones import TOKEN_PIXELS, Backbone
from samunet.variants.method import Method

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter


@dataclass(frozen=True, kw_only=True)
class Config(EncoderOptions):
    """Options of this method."""

    encoder: Annotated[str, OneOf("sam", "constant")] = "sam"
    """"sam": SAM's encoder sees the image; "constant": it sees a black plane, about as in the released code, so that
    the prompt alone says what is there: tells what SAM's encoder brings."""


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.variants.autosam.network import AutoSAM

    return AutoSAM(
        sam,
        spec,
        last_stage(spec),
        constant=config.encoder == "constant",
        hq=config.hq,
        pixel_range=config.pixel_range,
        checkpointing=config.checkpointing,
    )


def last_stage(spec: NetworkSpec) -> int:
    """Return the stage at which the U-Net's decoder ends: the last with two steps or more to a token, as published."""
    most = TOKEN_PIXELS / spec.encoder_scale / 2
    return max((i for i, stride in enumerate(cumulative(spec.topology)) if max(stride[1:]) <= most), default=0)


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB; a frozen encoder's activations are not kept."""
    sam = step_gib(
        spec,
        backbone,
        batch_size,
        adapter_width=0,
        upsampling=4,
        checkpointing=config.checkpointing,
        encoder_learns=not spec.pretrained,
        hq=config.hq,
    )
    return sam + convolutions_gib(spec, batch_size, last_stage(spec))


METHOD = Method(
    source="Shaharabany et al., AutoSAM: Adapting SAM to medical images by overloading the prompt encoder, BMVC 2023.",
    starts_as="sam",
    slices_meet=True,
    without_gradient=WITHOUT_PROMPTS,
    config=Config,
    build=build,
    preferred=preferred,
    cost=cost,
)
