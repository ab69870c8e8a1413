"""SAM's two-way transformer as a function over the package's modules, with sites where adapters attach.

Axes: N slices, T tokens, L = h*w places of the plane, C decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn

SELF, TOKEN_TO_IMAGE, IMAGE_TO_TOKEN = "self", "token_to_image", "image_to_token"
"""The attentions of a layer; the one after the last layer is a TOKEN_TO_IMAGE alone."""


class DecoderSites(nn.Module):
    """What is attached to one layer of the two-way transformer; this base attaches nothing.

    The order in a layer is: tokens attend to themselves, tokens to the image, the MLP of the tokens, the image to the tokens. A residual and a
    norm follow each.
    """

    def update(
        self, attention: str, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Increments to the projected q, k and v of one attention from what goes into its projections, (N, T or L, C) each, or None."""
        return None, None, None

    def beside_attention(self, attention: str, attended: Tensor, prompts: Tensor) -> Tensor | None:
        """What joins an attention's output before its residual.

        Args:
            attention: its name.
            attended: (N, T, C), or (N, L, C) after IMAGE_TO_TOKEN.
            prompts: (N, T, C) tokens that went into the transformer, or what `run_two_way` was given in their place.

        Returns:
            An increment of the shape of `attended`, or None.
        """
        return None

    def beside_mlp(self, tokens: Tensor) -> Tensor | None:
        """(N, T, C) tokens, as the MLP gets them, to an increment of the same shape, or None."""
        return None


NOTHING = DecoderSites()


def dense_positions(encoding: PositionEmbeddingRandom, plane: tuple[int, int]) -> Tensor:
    """Return SAM's (1, C, h, w) positions of a plane's places, in fp32 also under autocast: phases do not bear rounding."""
    with torch.autocast(encoding.positional_encoding_gaussian_matrix.device.type, enabled=False):
        return encoding(plane).unsqueeze(0)


def run_two_way(
    transformer: TwoWayTransformer,
    planes: Tensor,
    positions: Tensor,
    tokens: Tensor,
    sites: Sequence[DecoderSites] | None = None,
    *,
    heard: Tensor | None = None,
    present: Tensor | None = None,
    efficient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run SAM's two-way transformer.

    Args:
        transformer: the package's.
        planes: (N, C, h, w) embedding with its dense prompt.
        positions: (1, C, h, w) of the plane's places.
        tokens: (N, T, C).
        sites: one entry per layer, and a last one for the attention after the layers.
        heard: (N, T, C) what the sites get as prompts; None gives them the tokens.
        present: (N, T) bool, false where a token only fills up: nothing attends to it. None: all are there.
        efficient: tokens attend to themselves as in EfficientSAM (Xiong et al., CVPR 2024): with a residual in every layer, and from the second
            layer on with the positions added to the tokens for good.

    Returns:
        (N, T, C) tokens and (N, L, C) places. Numerically the package's own forward pass when the sites attach nothing.
    """
    sites = sites or [NOTHING] * (len(transformer.layers) + 1)
    image, places = planes.flatten(2).transpose(1, 2), positions.flatten(2).transpose(1, 2)
    queries, prompts = (
        tokens,
        _Prompts(tokens if heard is None else heard, None if present is None else present[:, None, None], efficient),
    )
    for layer, attached in zip(transformer.layers, sites[:-1], strict=True):
        queries, image = _run_layer(layer, queries, image, tokens, places, attached, prompts)
    attended = _attend(
        transformer.final_attn_token_to_image,
        queries + tokens,
        image + places,
        image,
        TOKEN_TO_IMAGE,
        sites[-1],
        prompts,
    )
    return transformer.norm_final_attn(queries + attended), image


class _Prompts(NamedTuple):
    """What `run_two_way` was told of the tokens, and how they attend to themselves."""

    heard: Tensor
    present: Tensor | None
    """(N, 1, 1, T)."""
    efficient: bool = False


def _run_layer(
    layer: TwoWayAttentionBlock,
    queries: Tensor,
    image: Tensor,
    tokens: Tensor,
    places: Tensor,
    sites: DecoderSites,
    prompts: _Prompts,
) -> tuple[Tensor, Tensor]:
    if prompts.efficient:
        queries = queries if layer.skip_first_layer_pe else queries + tokens
        queries = queries + _attend(layer.self_attn, queries, queries, queries, SELF, sites, prompts)
    elif layer.skip_first_layer_pe:  # SAM's first layer has neither positions nor a residual here
        queries = _attend(layer.self_attn, queries, queries, queries, SELF, sites, prompts)
    else:
        placed = queries + tokens
        queries = queries + _attend(layer.self_attn, placed, placed, queries, SELF, sites, prompts)
    queries = layer.norm1(queries)
    attended = _attend(
        layer.cross_attn_token_to_image, queries + tokens, image + places, image, TOKEN_TO_IMAGE, sites, prompts
    )
    queries = layer.norm2(queries + attended)
    queries = layer.norm3(queries + _add(layer.mlp(queries), sites.beside_mlp(queries)))
    image = image + _attend(
        layer.cross_attn_image_to_token, image + places, queries + tokens, queries, IMAGE_TO_TOKEN, sites, prompts
    )
    return queries, layer.norm4(image)


def _attend(
    attention: Attention, query: Tensor, key: Tensor, value: Tensor, name: str, sites: DecoderSites, prompts: _Prompts
) -> Tensor:
    updates = sites.update(name, query, key, value)
    projections = (attention.q_proj(query), attention.k_proj(key), attention.v_proj(value))
    heads = [
        _add(projected, update).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for projected, update in zip(projections, updates, strict=True)
    ]
    mask = None if name == TOKEN_TO_IMAGE else prompts.present
    attended = attention.out_proj(F.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2).flatten(2))
    return _add(attended, sites.beside_attention(name, attended, prompts.heard))


def _add(value: Tensor, increment: Tensor | None) -> Tensor:
    return value if increment is None else value + increment
