"""DB-SAM: a frozen SAM encoder and a branch of convolutions that meet by deformable attention, with class tokens.

Slices meet in the branch. See documentation/methods/db_sam.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from samunet.core.geometry import Shape
from samunet.core.plan import Preference, Topology
from samunet.core.ranges import OneOf
from samunet.models import rules
from samunet.models.rules import WITHOUT_PROMPTS, EncoderOptions, step_gib
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import TOKEN_PIXELS, Backbone, encoder_size
from samunet.variants.method import Method

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter

SLAB_DEPTH = 7  # the branch convolves along depth three times, by a slice to each side
LAYER_BYTES, PYRAMID_BYTES = 160, 200  # fitted to measured steps on a CPU in bf16


@dataclass(frozen=True, kw_only=True)
class Config(EncoderOptions):
    """Options of this method."""

    layout: Annotated[str, OneOf("plus", "two_branch")] = "plus"
    """"plus": the released default, tokens and all levels of the branch look at each other; "two_branch": the paper's,
    tokens and levels look at each other in turn."""


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`."""
    from samunet.models.heads import ClassTokenMasks
    from samunet.models.prompt_free import PromptFreeSAM
    from samunet.variants.db_sam.branch import DualBranch

    network = PromptFreeSAM(
        sam,
        spec,
        None,
        head=ClassTokenMasks(sam, spec.labels.outputs, 4, hq=config.hq),
        branch=DualBranch(sam.image_encoder, spec.patch_size[0], config.layout, checkpointing=config.checkpointing),
        pixel_range=config.pixel_range,
        checkpointing=config.checkpointing,
    )
    network.image_encoder.neck.requires_grad_(True)
    return network


def preferred(topology: Topology, patch_size: Shape, smallest_class_voxels: float) -> tuple[Preference, ...]:
    """Return the encoder scales of all prompt-free methods, with slabs of the slices that one of them sees."""
    choices = rules.preferred(topology, patch_size, smallest_class_voxels)
    return tuple(replace(choice, depth=SLAB_DEPTH) for choice in choices)


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config, decoder_runs: int = 1) -> float:
    """Estimate the memory of one mixed-precision training step in GiB.

    Beside SAM's a place of a level needs LAYER_BYTES per width in each layer that it goes through, and a place
    PYRAMID_BYTES; the branch has about 112 E^2 weights in either layout. What a layer samples is freed at once, but C's
    allocator hardly uses it again: on a GPU a step needs less.
    """
    height, width = (side // TOKEN_PIXELS for side in encoder_size(spec.patch_size[1:], spec.encoder_scale))
    places = batch_size * spec.patch_size[0] * height * width
    layers = (10 if config.layout == "plus" else 5) * (3 if config.checkpointing else 4)
    branch = places * backbone.width * (layers * LAYER_BYTES + PYRAMID_BYTES) + 16 * 112 * backbone.width**2
    return branch / 2**30 + step_gib(
        spec,
        backbone,
        batch_size,
        adapter_width=0,
        upsampling=4,
        checkpointing=config.checkpointing,
        decoder_runs=decoder_runs,
        hq=config.hq,
    )


METHOD = Method(
    source="Qin et al., DB-SAM: Delving into high quality universal medical image segmentation, MICCAI 2024.",
    starts_as="sam",  # the publication starts its branch at random
    slices_meet=True,
    without_gradient=WITHOUT_PROMPTS,
    config=Config,
    build=build,
    preferred=preferred,
    cost=cost,
)
