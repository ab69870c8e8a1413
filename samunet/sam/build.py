"""Build SAM for any backbone and any input size that is a multiple of 16.

Source: Kirillov et al., Segment Anything, ICCV 2023; modules and parameter names are the segment_anything package's.
"""

from __future__ import annotations

from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from samunet.errors import ShapeError
from samunet.sam.backbones import LAYER_NORM_EPS, PIXEL_MEAN, PIXEL_STD, TOKEN_PIXELS, Backbone


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
    prompt_encoder = PromptEncoder(
        embed_dim=width, image_embedding_size=grid, input_image_size=encoder_size, mask_in_chans=16
    )
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
