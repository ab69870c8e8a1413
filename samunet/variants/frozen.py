"""A frozen SAM encoder under a head that trains alone: class tokens, a small convolutional decoder, or one linear map.

See documentation/methods/frozen.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from samunet.core.ranges import OneOf, Within
from samunet.errors import ConfigError
from samunet.models.rules import WITHOUT_PROMPTS, Options, preferred, step_gib
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import Backbone
from samunet.variants.method import Method

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import nn

    from samunet.models.segmenter import SlabSegmenter


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options of this method."""

    head: Annotated[str, OneOf("class_tokens", "cnn", "linear")] = "class_tokens"
    """"class_tokens": SAM's mask decoder with one token per class; "cnn": a small convolutional decoder; "linear": one
    linear map per token."""
    upsampling: Annotated[int, Within(1, 16)] = 16
    """Upsampling of the class-token decoder: 16, progressive (MA-SAM's); 4 as in SAM."""
    pixel_range: str = "sam"
    """"sam": intensities with the mean and deviation of SAM's pretraining; "unit": every slab in [0, 1]."""
    hq: bool = False
    """HQ-SAM: correct the class tokens' masks by one read from early, late and upsampled features; the loss is taken at
    the points that are least decided."""
    random_encoder: bool = False
    """Accept an encoder without pretrained weights, as a control; it stays frozen too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hq and self.head != "class_tokens":
            raise ConfigError(f"frozen: hq corrects the masks of class tokens; the head is '{self.head}'.")


def build(sam: Sam, spec: NetworkSpec, config: Config) -> SlabSegmenter:
    """Compose the network around a SAM whose token grid fits `spec`.

    Raises:
        ConfigError: the encoder has no pretrained weights, and `random_encoder` does not accept that.
    """
    from samunet.models.heads import ClassTokenMasks, convolutional_head, linear_head
    from samunet.models.prompt_free import PromptFreeSAM

    if not spec.pretrained and not config.random_encoder:
        raise ConfigError(
            "frozen: an encoder without pretrained weights would stay random. Plan with pretrained weights "
            '(-backbone vit_b), choose another method, or set "random_encoder": true in variant_options for a control.'
        )
    width, outputs = sam.mask_decoder.transformer_dim, spec.labels.outputs
    head: nn.Module
    if config.head == "class_tokens":
        head = ClassTokenMasks(sam, outputs, config.upsampling, hq=config.hq)
    elif config.head == "cnn":
        head = convolutional_head(width, outputs)
    else:
        head = linear_head(width, outputs)
    network = PromptFreeSAM(sam, spec, None, head=head, pixel_range=config.pixel_range, train_encoder=False)
    network.pixels.requires_grad_(False)  # channels other than 1 or 3 enter as their mean
    return network


def cost(spec: NetworkSpec, backbone: Backbone, batch_size: int, config: Config) -> float:
    """Estimate the memory of one mixed-precision training step in GiB; the encoder's activations are not kept."""
    upsampling = config.upsampling if config.head == "class_tokens" else 4
    return step_gib(
        spec, backbone, batch_size, adapter_width=0, upsampling=upsampling, encoder_learns=False, hq=config.hq
    )


METHOD = Method(
    source=(
        "Probing of a frozen encoder (Alain and Bengio, ICLR workshop 2017) with heads on Segment Anything (Kirillov "
        "et al., ICCV 2023); with a convolutional head the setting of AutoSAM (Hu et al., 2023)."
    ),
    starts_as="sam",
    slices_meet=False,
    without_gradient=WITHOUT_PROMPTS,
    config=Config,
    build=build,
    preferred=preferred,
    cost=cost,
)
