"""The default model as one that segments what prompts show: clicks, boxes, scribbles and an earlier mask.

Prompts join the U-Net's stages as maps and, where SAM's path is there, its mask decoder as tokens. Nothing before knows
of them, so that an image is encoded once and every click costs only what comes after. See
documentation/methods/sam_unet_prompted.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from samunet.models.spec import NetworkSpec
from samunet.variants import sam_unet
from samunet.variants.method import Convolutions, Method
from samunet.variants.sam_unet_prompted.rules import Config, cost, operations

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.variants.sam_unet_prompted.network import PromptedSAMUNet

    return PromptedSAMUNet(sam, spec, config)


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
