"""H-SAM: SAMed with a second decoder, to which the first one's masks say where every class's token looks.

Slices are segmented one by one. See documentation/methods/h_sam.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from samunet.models.rules import WITHOUT_PROMPTS, preferred
from samunet.models.spec import NetworkSpec
from samunet.variants.h_sam.rules import Config, cost
from samunet.variants.method import Method

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.variants.h_sam.network import HSAM

    return HSAM(sam, spec, config)


METHOD = Method(
    source=(
        "Cheng et al., Unleashing the potential of SAM for medical adaptation via hierarchical decoding (H-SAM), CVPR "
        "2024."
    ),
    starts_as="sam",
    slices_meet=False,
    without_gradient=WITHOUT_PROMPTS,
    config=Config,
    build=build,
    preferred=preferred,
    cost=cost,
)
