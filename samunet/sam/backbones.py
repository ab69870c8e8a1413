"""Sizes of SAM's models and of what they look at; nothing here needs torch, so that planning starts quickly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from samunet.errors import ConfigError, did_you_mean

TOKEN_PIXELS = 16  # SAM's patch size
LAYER_NORM_EPS = 1e-6  # of the image encoder; the mask decoder keeps torch's 1e-5
PIXEL_MEAN = (123.675, 116.28, 103.53)  # of SAM's pretraining images, 0..255
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Sizes of one SAM model."""

    name: str
    width: int
    """Token embedding length E."""
    depth: int
    """Number of transformer blocks."""
    heads: int
    global_blocks: tuple[int, ...]
    """Blocks that attend over the whole plane; the others attend within windows."""
    window: int = 14
    mlp_ratio: int = 4
    decoder_width: int = 256
    decoder_mlp: int = 2048
    iou_hidden: int = 256
    pretrained: bool = False
    """True when official weights exist."""


BACKBONES = (
    # For tests: window 4 makes window padding happen at 64 to 96 pixels; under 0.3 M parameters in all.
    Backbone(
        name="vit_nano",
        width=48,
        depth=4,
        heads=3,
        global_blocks=(1, 3),
        window=4,
        mlp_ratio=2,
        decoder_width=64,
        decoder_mlp=64,
        iou_hidden=32,
    ),
    Backbone(name="vit_tiny", width=192, depth=12, heads=3, global_blocks=(2, 5, 8, 11)),
    Backbone(name="vit_b", width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11), pretrained=True),
    Backbone(name="vit_l", width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23), pretrained=True),
    Backbone(name="vit_h", width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31), pretrained=True),
)


def backbone_named(name: str) -> Backbone:
    """Return the sizes of a backbone; raises ConfigError that names the nearest one."""
    for backbone in BACKBONES:
        if backbone.name == name:
            return backbone
    raise ConfigError(f"There is no backbone '{name}'.{did_you_mean(name, [backbone.name for backbone in BACKBONES])}")


def encoder_size(patch_plane: Sequence[int], scale: float) -> tuple[int, int]:
    """Return the (H, W) pixels of the encoder for a patch plane: scaled, then up to the next multiple of 16."""
    height, width = (-(-round(side * scale) // TOKEN_PIXELS) * TOKEN_PIXELS for side in patch_plane)
    return height, width
