"""SAM's image encoder as a function over the package's modules, with sites where adapters attach.

Axes: B batch, D slices, h w token rows and columns, E embedding, N = B*D. Tokens are (B, D, h, w, E): depth is
a real axis, folded into the batch only inside the layers that work on one plane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block, window_partition, window_unpartition
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from samunet.sam.attention import relative_attention

CONVOLVED_WIDTH = 512  # smallest side of a weight for which `linear` uses a convolution


class Sites(nn.Module):
    """What is attached to one transformer block; this base attaches nothing.

    The order in a block is: x += before_attention(x); a = attention(norm(x)), where qkv_update adds to the q, k
    and v of every token; x += a + beside_attention(..., a); x += after_attention(x); y = norm(x);
    x += mlp(y) + beside_mlp(y).
    """

    def before_attention(self, tokens: Tensor) -> Tensor | None:
        """(B, D, h, w, E) to an increment of the same shape, or None."""
        return None

    def qkv_update(self, tokens: Tensor) -> Tensor | None:
        """(..., E) normalized tokens to an increment (..., 3E) ordered q, k, v, or None; token by token.

        Where the plane is padded to whole windows, it is also asked for the increment of the token that fills it up.
        """
        return None

    def padding(self, tokens: Tensor) -> Tensor:
        """(1, E) normalized token that fills the plane up to whole windows: zeros, as in SAM."""
        return tokens.new_zeros(1, tokens.shape[-1])

    def beside_attention(self, attention: Attention, qkv: Tensor, attended: Tensor) -> Tensor | None:
        """What joins the block's attention before its residual.

        Args:
            attention: the block's own, whose weights may be used again.
            qkv: (B, D, h, w, 3E) of its tokens, updates included.
            attended: (B, D, h, w, E) what it gave.

        Returns:
            (B, D, h, w, E) increment, or None.
        """
        return None

    def after_attention(self, tokens: Tensor) -> Tensor | None:
        """(B, D, h, w, E) to an increment of the same shape, before the MLP's norm, or None."""
        return None

    def beside_mlp(self, tokens: Tensor) -> Tensor | None:
        """(B, D, h, w, E) normalized tokens, as the MLP gets them, to an increment of the same shape, or None."""
        return None

    def merge_into(self, attention: Attention) -> None:
        """Fold what can be folded into the weights of the block's attention, and attach it no longer."""


class Encoded(NamedTuple):
    """What the encoder gives."""

    neck: Tensor
    """(B, D, C, h, w), C = decoder width."""
    taps: tuple[Tensor, ...]
    """(B, D, h, w, E) after each block that was asked for."""


def ends_of_quarters(encoder: ImageEncoderViT) -> tuple[int, ...]:
    """Return the index of the last block of each quarter: those with global attention in ViT-B, L and H."""
    return tuple(len(encoder.blocks) * quarter // 4 - 1 for quarter in (1, 2, 3, 4))


def embed_patches(encoder: ImageEncoderViT, pixels: Tensor) -> Tensor:
    """Turn (B, D, 3, H, W) pixels into (B, D, h, w, E) tokens by SAM's 16-pixel patch embedding."""
    return encoder.patch_embed(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])


def encode(
    encoder: ImageEncoderViT,
    tokens: Tensor,
    sites: Iterable[Sites] | nn.ModuleList,
    taps: Sequence[int] = (),
    *,
    after: Callable[[int, Tensor], Tensor] | None = None,
    checkpointing: bool = False,
) -> Encoded:
    """Run position embedding, blocks and neck on embedded tokens.

    Args:
        encoder: the package's encoder, built for this token grid.
        tokens: (B, D, h, w, E) from `embed_patches` or another source of the same width.
        sites: one entry per block.
        taps: indices of blocks whose output is wanted.
        after: takes the index of a block and its output, and gives what goes on.
        checkpointing: keep only each block's input for the backward pass and run the block again there.

    Numerically the package's own forward pass when the sites attach nothing.
    """
    tokens = (tokens + encoder.pos_embed).contiguous()  # the patch embedding's strides would last through all blocks
    tapped = []
    blocks = zip(encoder.blocks, cast("Iterable[Sites]", sites), strict=True)
    for index, (block, attached) in enumerate(blocks):
        if checkpointing and torch.is_grad_enabled():
            tokens = checkpoint(_run_block, block, tokens, attached, use_reentrant=False)
        else:
            tokens = _run_block(block, tokens, attached)
        if after is not None:
            tokens = after(index, tokens)
        if index in taps:
            tapped.append(tokens)
    planes = encoder.neck(tokens.flatten(0, 1).permute(0, 3, 1, 2))
    return Encoded(neck=planes.unflatten(0, tokens.shape[:2]), taps=tuple(tapped))


def _run_block(block: Block, tokens: Tensor, sites: Sites) -> Tensor:
    tokens = _add(tokens, sites.before_attention(tokens))
    tokens = tokens + _attend(block, block.norm1(tokens), sites)
    tokens = _add(tokens, sites.after_attention(tokens))
    normalized = block.norm2(tokens)
    hidden = block.mlp.act(linear(block.mlp.lin1, normalized))
    return tokens + _add(linear(block.mlp.lin2, hidden), sites.beside_mlp(normalized))


def _attend(block: Block, tokens: Tensor, sites: Sites) -> Tensor:
    """Attention of a block, windowed or global, and what joins it; (B, D, h, w, E) normalized tokens to the same shape.

    SAM pads the plane with equal tokens to whole windows and lets them through the linear layers. All of them get the
    same q, k and v there, so those are computed once, and only real tokens go through the output layer.
    """
    of_tokens = _add(linear(block.attn.qkv, tokens), sites.qkv_update(tokens))
    qkv = of_tokens.flatten(0, 1)
    if block.window_size == 0:
        mixed = _mix(block.attn, qkv)
    else:
        plane = qkv.shape[1:3]
        if any(size % block.window_size for size in plane):
            empty = sites.padding(tokens)
            qkv = pad_to_windows(qkv, _add(block.attn.qkv(empty), sites.qkv_update(empty)), block.window_size)
        windows, padded = window_partition(qkv, block.window_size)
        mixed = window_unpartition(_mix(block.attn, windows), block.window_size, padded, plane)
    attended = linear(block.attn.proj, mixed).unflatten(0, tokens.shape[:2])
    return _add(attended, sites.beside_attention(block.attn, of_tokens, attended))


def attend_along_depth(attention: Attention, qkv: Tensor) -> Tensor:
    """Let every place of the plane attend to itself in the other slices, with a block's heads and output layer.

    There are no relative positions along depth: SAM has none.

    Args:
        attention: of the block.
        qkv: (B, D, h, w, 3E).

    Returns:
        (B, D, h, w, E).
    """
    batch, _, height, width, _ = qkv.shape
    query, key, value = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(4, 0, 2, 3, 5, 1, 6).flatten(1, 3)
    mixed = F.scaled_dot_product_attention(query, key, value).unflatten(0, (batch, height, width))
    return linear(attention.proj, mixed.permute(0, 4, 1, 2, 3, 5).flatten(4))


def pad_to_windows(planes: Tensor, values: Tensor, window: int) -> Tensor:
    """Extend (N, h, w, C) planes to whole windows at the bottom and right with (1, C) values."""
    down, right = (-size % window for size in planes.shape[1:3])
    if right:
        planes = torch.cat((planes, values.expand(*planes.shape[:2], right, -1)), dim=2)
    if down:
        planes = torch.cat((planes, values.expand(len(planes), down, planes.shape[2], -1)), dim=1)
    return planes


def _mix(attention: Attention, qkv: Tensor) -> Tensor:
    """Multi-head attention with SAM's decomposed relative positions; (N, h, w, 3E) q, k and v to (N, h, w, E)."""
    height, width = qkv.shape[1:3]
    query, key, value = qkv.flatten(1, 2).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    rows, columns = _by_difference(attention.rel_pos_h, height), _by_difference(attention.rel_pos_w, width)
    mixed = relative_attention(query.unflatten(2, (height, width)), key, value, rows, columns)
    return mixed.transpose(1, 2).flatten(2).unflatten(1, (height, width))


def linear(layer: nn.Linear, tokens: Tensor) -> Tensor:
    """Apply a linear layer to (..., E) tokens.

    On some CPUs, AMD's among them, the convolutions of oneDNN multiply large fp32 matrices faster than the BLAS behind
    torch's linear layers (benchmarks/encoder.py times both), so without a gradient a 1x1 convolution does it.
    """
    plain = tokens.device.type != "cpu" or tokens.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
    learns = torch.is_grad_enabled() and (tokens.requires_grad or layer.weight.requires_grad)
    if plain or learns or min(layer.weight.shape) < CONVOLVED_WIDTH:
        return layer(tokens)
    pixels = tokens.reshape(1, -1, 1, tokens.shape[-1]).permute(0, 3, 1, 2)  # channels last
    return (
        F.conv2d(pixels, layer.weight[:, :, None, None], layer.bias).permute(0, 2, 3, 1).reshape(*tokens.shape[:-1], -1)
    )


def _by_difference(table: Tensor, size: int) -> Tensor:
    """(2n-1, c) table of relative positions to (n, n, c) by query and key position."""
    places = torch.arange(size, device=table.device)
    return table[places.unsqueeze(1) - places + size - 1]


def _add(tokens: Tensor, increment: Tensor | None) -> Tensor:
    return tokens if increment is None else tokens + increment


def query_and_value(query: Tensor, value: Tensor) -> Tensor:
    """Lay (..., E) updates of q and v out as (..., 3E) in the order q, k, v; the untouched k gets zeros."""
    return torch.cat((query, torch.zeros_like(query), value), dim=-1)


def merge_updates(encoder: ImageEncoderViT, sites: Iterable[Sites] | nn.ModuleList) -> None:
    """Fold what is attached to the encoder's blocks into their weights, as far as it can be, for prediction only."""
    for block, attached in zip(encoder.blocks, cast("Iterable[Sites]", sites), strict=True):
        attached.merge_into(block.attn)
