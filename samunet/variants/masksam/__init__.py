"""MaskSAM: queries instead of prompts. A generator makes a mask, a box and a token for each; SAM's decoder answers.

The encoder and the decoder of SAM are frozen around bottlenecks that see depth. See documentation/methods/masksam.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from samunet.core.units import counted
from samunet.errors import ConfigError
from samunet.models.spec import NetworkSpec
from samunet.variants.masksam.rules import Config, cost, preferred
from samunet.variants.method import Method

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`.

    Raises:
        ConfigError: there are more classes than queries, or the plan's encoder scale is no power of two.
    """
    from samunet.variants.masksam.network import MaskSAM

    queries = config.queries_for(spec.labels.outputs)
    answered = spec.labels.outputs - config.background_is_rest(spec.labels)
    if queries < answered:
        raise ConfigError(
            f"masksam: queries is {queries}, and {counted(answered, 'structure')} of one slice need one each; give as "
            "many or more."
        )
    if spec.encoder_scale < 1 or not math.log2(spec.encoder_scale).is_integer():
        raise ConfigError(
            f"masksam: its stem doubles the plane, so encoder_scale must be 1, 2, 4, ...; got {spec.encoder_scale:g}."
        )
    return MaskSAM(sam, spec, config)


QUALITY, POINTS, FIRST = (
    "SAM's quality head has no loss",
    "there are no points",
    "masks come from SAM's first mask token",
)
METHOD = Method(
    source=(
        "Xie et al., MaskSAM: Auto-prompt SAM with mask classification for volumetric medical image segmentation, ICCV "
        "2025."
    ),
    starts_as="sam",  # as the publication does not: initialization="official" starts its adapters at random
    slices_meet=True,
    without_gradient={
        "head.mask_decoder.iou_prediction_head": QUALITY,
        **{f"head.mask_decoder.output_hypernetworks_mlps.{index}": FIRST for index in (1, 2, 3)},
        **{f"head.prompt_encoder.point_embeddings.{index}": POINTS for index in (0, 1)},
        "head.prompt_encoder.not_a_point_embed": POINTS,
        "head.prompt_encoder.no_mask_embed": "every query has a mask prompt",
    },
    config=Config,
    build=build,
    preferred=preferred,
    cost=cost,
)
