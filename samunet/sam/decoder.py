"""SAM's mask decoder as functions over the package's modules, with sites where adapters attach.

`decode` lets tokens and the places of a plane attend to each other; `masks_from` reads masks out of what it gives.
Axes: N slices, T tokens (S the decoder's own, P those of prompts), L = h*w places of the plane, C decoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn

SELF, TOKEN_TO_IMAGE, IMAGE_TO_TOKEN = "self", "token_to_image", "image_to_token"
"""The attentions of a layer; the one after the last layer is a TOKEN_TO_IMAGE alone."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of (N, T, C) queries to keys and values, with what is attached to it."""


class DecoderSites(nn.Module):
    """What is attached to one layer of the two-way transformer; this base attaches nothing.

    The order in a layer is: tokens attend to themselves, tokens to the image (or these two the other way round), the
    MLP of the tokens, the image to the tokens. A residual and a norm follow each.
    """

    def among_tokens(self, layer: TwoWayAttentionBlock, queries: Tensor, tokens: Tensor, attend: Attend) -> Tensor:
        """Let tokens attend to themselves as SAM does: in its first layer without positions and without a residual.

        Args:
            layer: the package's.
            queries: (N, T, C) tokens as the layer gets them.
            tokens: (N, T, C) tokens that went into the transformer, which serve as their positions.
            attend: the layer's attention among tokens.

        Returns:
            (N, T, C) tokens, before the norm.
        """
        if layer.skip_first_layer_pe:
            return attend(queries, queries, queries)
        placed = queries + tokens
        return queries + attend(placed, placed, queries)

    def update(
        self, attention: str, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return increments to the projected q, k and v of one attention, each the size of its projection, or None.

        Args:
            attention: its name.
            query, key, value: (N, T or L, C), what goes into the projections.
        """
        return None, None, None

    def beside_attention(self, attention: str, attended: Tensor, prompts: Tensor) -> Tensor | None:
        """Return what joins an attention's output before its residual.

        Args:
            attention: its name.
            attended: (N, T, C), or (N, L, C) after IMAGE_TO_TOKEN.
            prompts: (N, T, C) what `decode` lets the sites hear.

        Returns:
            An increment of the shape of `attended`, or None.
        """
        return None

    def beside_mlp(self, tokens: Tensor) -> Tensor | None:
        """(N, T, C) tokens, as the MLP gets them, to an increment of the same shape, or None."""
        return None


class Decoded(NamedTuple):
    """What the two-way transformer gives."""

    tokens: Tensor
    """(N, T, C)."""
    places: Tensor
    """(N, C, h, w)."""


def own_tokens(decoder: MaskDecoder) -> Tensor:
    """Return a mask decoder's own (S, C) tokens: one for the quality, then one for each mask."""
    return torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))


def without_mask(prompt_encoder: PromptEncoder) -> Tensor:
    """Return SAM's (1, C, 1, 1) dense prompt where there is no mask."""
    return prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)


def dense_positions(encoding: PositionEmbeddingRandom, plane: tuple[int, int]) -> Tensor:
    """Return SAM's (1, C, h, w) positions of a plane's places, in fp32 also under autocast: phases bear no rounding."""
    with torch.autocast(encoding.positional_encoding_gaussian_matrix.device.type, enabled=False):
        return encoding(plane).unsqueeze(0)


def decode(
    transformer: TwoWayTransformer,
    encoding: PositionEmbeddingRandom,
    embedding: Tensor,
    tokens: Tensor,
    *,
    dense: Tensor,
    along: Tensor | None = None,
    prompts: Tensor | None = None,
    shown: Tensor | None = None,
    mean: Tensor | None = None,
    guide: Tensor | None = None,
    prior: Tensor | None = None,
    cross_first: bool = False,
    sites: Iterable[DecoderSites] | nn.ModuleList | None = None,
) -> Decoded:
    """Let tokens and the places of a plane attend to each other, as SAM's mask decoder does before it reads masks.

    Args:
        transformer: the package's.
        encoding: gives the positions of the places.
        embedding: (N, C, h, w) from the image encoder.
        tokens: (S, C) for all slices, or (N, S, C).
        dense: (N, C, h, w) or (1, C, 1, 1), added to the embedding: a mask prompt's, a made one, or `without_mask`.
        along: (N, C) added to the positions of all places of a slice.
        prompts: (N, P, C) tokens that follow the others.
        shown: (N, P) false where a prompt only fills up and nothing attends to it. None: all are there.
        mean: (N, 1, C) added to the tokens in what sites hear as prompts.
        guide: (N, S + P, L) false where a token must not look, or a number that is added to the logits of its
            attention to the places, in every layer.
        prior: (N, S + P, L) what the weights between tokens and places are multiplied by in the layers, in both
            directions, after their softmax (H-SAM); the attention after the layers is without.
        cross_first: let tokens attend to the image before they attend to themselves (Mask2Former, H-SAM).
        sites: one entry for each layer, and a last one for the attention after the layers; None attaches nothing.

    Numerically the package's own forward pass when the sites attach nothing.
    """
    planes = embedding + dense
    positions = dense_positions(encoding, (planes.shape[2], planes.shape[3])).to(planes.dtype)
    if along is not None:
        positions = positions + along[..., None, None].to(planes.dtype)
    tokens, present = tokens.expand(len(planes), -1, -1), None
    if prompts is not None:
        if shown is not None:
            present = torch.cat((shown.new_ones(tokens.shape[:2]), shown), dim=1)[:, None, None]
        tokens = torch.cat((tokens, prompts.to(tokens.dtype)), dim=1)
    heard = tokens if mean is None else tokens + mean
    guide, prior = (None if given is None else given.unsqueeze(1) for given in (guide, prior))
    told = _Told(heard, present, guide, prior, cross_first)
    *attached, last = [DecoderSites()] * (len(transformer.layers) + 1) if sites is None else sites
    queries, image, places = tokens, planes.flatten(2).transpose(1, 2), positions.flatten(2).transpose(1, 2)
    for layer, site in zip(transformer.layers, cast("list[DecoderSites]", attached), strict=True):
        queries, image = _run_layer(layer, queries, image, tokens, places, site, told)
    attention, site = transformer.final_attn_token_to_image, cast(DecoderSites, last)
    told = told._replace(prior=None)
    attended = _attend(attention, queries + tokens, image + places, image, TOKEN_TO_IMAGE, site, told)
    queries = transformer.norm_final_attn(queries + attended)
    return Decoded(queries, image.transpose(1, 2).unflatten(2, planes.shape[2:]))


def masks_from(decoder: MaskDecoder, decoded: Decoded, weights: Tensor) -> Tensor:
    """Return (N, f*h, f*w) or (N, K, f*h, f*w) logits of masks, f the decoder's upsampling.

    Args:
        decoder: gives the upsampling.
        decoded: of `decode`.
        weights: (N, c) or (N, K, c) over the c upsampled features, from `mask_weights`.
    """
    return read_masks(decoder.output_upscaling(decoded.places), weights)


def read_masks(features: Tensor, weights: Tensor) -> Tensor:
    """Sum (N, c, H, W) features by (N, c) or (N, K, c) weights to (N, H, W) or (N, K, H, W) logits."""
    return torch.einsum("n...c,nchw->n...hw", weights, features)


def mask_weights(decoder: MaskDecoder, decoded: Decoded, mask: int) -> Tensor:
    """Return the (N, c) weights over the upsampled features that a mask's hypernetwork makes of its token."""
    return decoder.output_hypernetworks_mlps[mask](decoded.tokens[:, 1 + mask])


class _Told(NamedTuple):
    """What every attention of a pass knows of the tokens."""

    heard: Tensor
    """(N, T, C) for the sites."""
    present: Tensor | None = None
    """(N, 1, 1, T) false where a token only fills up."""
    guide: Tensor | None = None
    """(N, 1, T, L) where tokens look."""
    prior: Tensor | None = None
    """(N, 1, T, L) factors on the weights between tokens and places."""
    cross_first: bool = False
    """The order of a layer."""


def _run_layer(
    layer: TwoWayAttentionBlock,
    queries: Tensor,
    image: Tensor,
    tokens: Tensor,
    places: Tensor,
    sites: DecoderSites,
    told: _Told,
) -> tuple[Tensor, Tensor]:
    def among(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _attend(layer.self_attn, query, key, value, SELF, sites, told)

    to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    for crosses in (told.cross_first, not told.cross_first):
        if crosses:
            attended = _attend(to_image, queries + tokens, image + places, image, TOKEN_TO_IMAGE, sites, told)
            queries = layer.norm2(queries + attended)
        else:
            queries = layer.norm1(sites.among_tokens(layer, queries, tokens, among))
    queries = layer.norm3(queries + _add(layer.mlp(queries), sites.beside_mlp(queries)))
    image = image + _attend(to_tokens, image + places, queries + tokens, queries, IMAGE_TO_TOKEN, sites, told)
    return queries, layer.norm4(image)


def _attend(
    attention: Attention, query: Tensor, key: Tensor, value: Tensor, name: str, sites: DecoderSites, told: _Told
) -> Tensor:
    updates = sites.update(name, query, key, value)
    projections = (attention.q_proj(query), attention.k_proj(key), attention.v_proj(value))
    query, key, value = (
        _add(projected, update).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for projected, update in zip(projections, updates, strict=True)
    )
    mask = told.guide if name == TOKEN_TO_IMAGE else told.present
    if told.prior is None or name == SELF:
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else logits + mask
        factors = told.prior if name == TOKEN_TO_IMAGE else told.prior.transpose(-1, -2)
        mixed = (logits.softmax(-1) * factors).to(value.dtype) @ value
    attended = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return _add(attended, sites.beside_attention(name, attended, told.heard))


def _add(value: Tensor, increment: Tensor | None) -> Tensor:
    return value if increment is None else value + increment
