"""Build SAM for any backbone and any input size that is a multiple of 16.

Source: Kirillov et al., Segment Anything, ICCV 2023; modules and parameter names are the segment_anything package's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from samunet.errors import ConfigError, ShapeError, did_you_mean

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
        name="vit_nano", width=48, depth=4, heads=3, global_blocks=(1, 3), window=4, mlp_ratio=2, decoder_width=64, decoder_mlp=64, iou_hidden=32
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


def build_sam(backbone: Backbone, encoder_size: tuple[int, int], *, window: int | None = None) -> Sam:
    """Build a SAM with random weights.

    Position tables have the shapes that this input size needs, so that no resizing happens in the forward pass.

    Args:
        backbone: sizes.
        encoder_size: input (H, W) in pixels, multiples of 16; they may differ.
        window: window side in tokens; the backbone's own when None, 0 for global attention in every block.

    Raises:
        ShapeError: a side is not a positive multiple of 16.
    """
    if min(encoder_size) < TOKEN_PIXELS or any(side % TOKEN_PIXELS for side in encoder_size):
        raise ShapeError(f"SAM's encoder takes sides that are multiples of {TOKEN_PIXELS} pixels; got {encoder_size}.")
    grid = (encoder_size[0] // TOKEN_PIXELS, encoder_size[1] // TOKEN_PIXELS)
    encoder = ImageEncoderViT(
        img_size=TOKEN_PIXELS,  # the tables are made below, for planes that need not be square
        patch_size=TOKEN_PIXELS,
        embed_dim=backbone.width,
        depth=backbone.depth,
        num_heads=backbone.heads,
        mlp_ratio=backbone.mlp_ratio,
        out_chans=backbone.decoder_width,
        norm_layer=partial(nn.LayerNorm, eps=LAYER_NORM_EPS),
        use_rel_pos=True,
        window_size=backbone.window if window is None else window,
        global_attn_indexes=backbone.global_blocks,
    )
    _make_position_tables(encoder, grid)
    _initialize(encoder)
    width = backbone.decoder_width
    prompt_encoder = PromptEncoder(embed_dim=width, image_embedding_size=grid, input_image_size=encoder_size, mask_in_chans=16)
    mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=backbone.decoder_mlp, num_heads=8),
        transformer_dim=width,
        iou_head_depth=3,
        iou_head_hidden_dim=backbone.iou_hidden,
    )
    return Sam(encoder, prompt_encoder, mask_decoder, list(PIXEL_MEAN), list(PIXEL_STD))


def _make_position_tables(encoder: ImageEncoderViT, grid: tuple[int, int]) -> None:
    width = encoder.pos_embed.shape[-1]
    encoder.pos_embed = nn.Parameter(torch.zeros(1, *grid, width))
    for block in encoder.blocks:
        if block.window_size == 0:
            head_width = block.attn.rel_pos_h.shape[-1]
            block.attn.rel_pos_h = nn.Parameter(torch.zeros(2 * grid[0] - 1, head_width))
            block.attn.rel_pos_w = nn.Parameter(torch.zeros(2 * grid[1] - 1, head_width))


def _initialize(encoder: ImageEncoderViT) -> None:
    """Give training from scratch the usual ViT start (Dosovitskiy et al., 2021): truncated normal, 0.02."""
    nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
