"""The default model: a 3D U-Net that receives SAM's features through gates that start closed.

At step 0 the network equals the plain U-Net. See documentation/methods/sam_unet.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from samunet.models.spec import NetworkSpec
from samunet.variants.method import Convolutions, Method
from samunet.variants.sam_unet.rules import Config, cost, operations, preferred

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec` (see `samunet.sam.backbones.encoder_size`)."""
    from samunet.variants.sam_unet.network import SAMUNet

    return SAMUNet(sam, spec, config)


METHOD = Method(
    source=(
        "samunet's own. It composes nnU-Net (Isensee et al., Nature Methods 2021), Segment Anything (Kirillov et al., "
        "ICCV 2023), MA-SAM's adapters (Chen et al., Medical Image Analysis 2024) and nnSAM's idea of a U-Net that "
        "takes SAM features (Li et al., 2023)."
    ),
    starts_as="unet",
    slices_meet=True,
    config=Config,
    build=build,
    preferred=preferred,
    cost=cost,
    convolutions=Convolutions(
        without_encoder={"sam_path": False}, sparing={"checkpointing": True}, operations=operations
    ),
)
