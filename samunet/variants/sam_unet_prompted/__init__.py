"""The default model as one that segments what prompts show: clicks, boxes, scribbles and an earlier mask.

Prompts join the U-Net's stages as maps and, where SAM's path is there, its mask decoder as tokens. Nothing before knows
of them, so that an image is encoded once and every click costs only what comes after. See
documentation/methods/sam_unet_prompted.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from samunet.core.ranges import Within
from samunet.errors import ConfigError
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import Backbone
from samunet.variants import sam_unet
from samunet.variants.method import Convolutions, Method
from samunet.variants.sam_unet import rules

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of this method: sam_unet's, of which class_tokens means prompts as tokens, and its own."""

    network: rules.Config = rules.Config()
    """Options of sam_unet; class_tokens lets SAM's mask decoder take the prompts as tokens."""
    maps: bool = True
    """Let prompts join the U-Net's stages as maps."""
    rounds: Annotated[int, Within(1, 20)] = 3
    """A training step shows a first prompt and then up to so many less one corrections, each where the answer is most
    wrong."""

    def __post_init__(self) -> None:
        if not self.maps and not self.tokens:
            raise ConfigError(
                "sam_unet_prompted: without maps prompts must be tokens, which need sam_path and class_tokens."
            )

    @property
    def tokens(self) -> bool:
        """Tell whether SAM's mask decoder takes the prompts as tokens."""
        return self.network.sam_path and self.network.class_tokens


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.variants.sam_unet_prompted.network import PromptedSAMUNet

    return PromptedSAMUNet(sam, spec, config)


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB: one structure of each sample is decoded."""
    return rules.cost(spec, backbone, batch_size, config.network)


def operations(spec: NetworkSpec, backbone: Backbone, config: Config) -> float:
    """Estimate the work of one sample's training step in multiply-adds, see `samunet.variants.sam_unet.rules`."""
    return rules.operations(spec, backbone, config.network)


METHOD = Method(
    source=(
        "samunet's own. It composes sam_unet with prompts as maps (as ScribblePrompt, Wong et al., ECCV 2024, and "
        "nnInteractive, Isensee et al., 2025, have them) and SAM's prompt tokens (Kirillov et al., ICCV 2023)."
    ),
    starts_as=None,
    slices_meet=True,
    without_gradient={
        "tokens.prompts.point_embeddings": "only the kinds of prompts that a step draws have a gradient",
        "tokens.prompts.not_a_point_embed": "only the kinds of prompts that a step draws have a gradient",
    },
    config=Config,
    build=build,
    preferred=sam_unet.METHOD.preferred,
    cost=cost,
    prompted=True,
    convolutions=Convolutions(
        without_encoder={"sam_path": False}, sparing={"checkpointing": True}, operations=operations
    ),
)
