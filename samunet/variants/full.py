"""Full fine-tuning: every weight of SAM trains, early layers more slowly, with a decoder of class tokens.

See documentation/methods/full.md.
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
    """Options of this method."""

    layer_decay: Annotated[float, Within(1e-3, 1)] = 0.8
    """Learning rate of a block as a share of the next block's; 1 trains all blocks alike."""
    upsampling: Annotated[int, Within(1, 16)] = 16
    """Upsampling of the decoder: 16, progressive, to the encoder's resolution (MA-SAM's); 4 as in SAM."""


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.models.heads import ClassTokenMasks
    from samunet.models.prompt_free import PromptFreeSAM

    return PromptFreeSAM(
        sam,
        spec,
        None,
        head=ClassTokenMasks(sam, spec.labels.outputs, config.upsampling, hq=config.hq),
        pixel_range=config.pixel_range,
        train_encoder=True,
        layer_decay=config.layer_decay,
        checkpointing=config.checkpointing,
    )


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB."""
    # Gradients and both moments of what is frozen elsewhere.
    trained = 12 * backbone.depth * backbone.width**2 * 12 / 2**30 if spec.pretrained else 0.0
    return trained + step_gib(
        spec,
        backbone,
        batch_size,
        adapter_width=0,
        upsampling=config.upsampling,
        checkpointing=config.checkpointing,
        hq=config.hq,
    )


METHOD = Method(
    source=(
        "Fine-tuning of all of Segment Anything (Kirillov et al., ICCV 2023), the usual comparison of the adapter "
        "papers; layer-wise learning rates: Clark et al., ELECTRA, ICLR 2020, and Bao et al., BEiT, ICLR 2022."
    ),
    starts_as="sam",
    slices_meet=False,
    without_gradient=WITHOUT_PROMPTS,
    config=Config,
    build=build,
    preferred=preferred,
    cost=cost,
)
