"""PerSAM's guided pass through SAM's mask decoder: tokens look where the image is like a reference.

Axes: T tokens (the decoder's own, then the prompts'), L = h*w places, C decoder width.

Source: Zhang et al., Personalize Segment Anything Model with One Shot (ICLR 2024).
"""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from segment_anything.modeling.transformer import Attention
from torch import Tensor

from samunet.sam.decoder import Decoded, dense_positions, mask_weights, masks_from, own_tokens

RELEASED, LOG = "released", "log"
FORMS = (RELEASED, LOG)
"""softmax(softmax(logits) + guidance), as released, which is nearly the mean over all places; and softmax(logits +
log(guidance)), which is sharp."""
LEAST = 1e-6  # guidance of the form LOG is no smaller


def guided_masks(
    decoder: MaskDecoder,
    prompt_encoder: PromptEncoder,
    embedding: Tensor,
    sparse: Tensor,
    dense: Tensor,
    *,
    guidance: Tensor,
    semantic: Tensor,
    form: str = RELEASED,
) -> tuple[Tensor, Tensor]:
    """Decode all masks of one plane.

    Args:
        embedding: (1, C, h, w) of the image.
        sparse, dense: of the prompt encoder.
        guidance: (L,) in [0, 1], added to every attention of tokens to the image but the last.
        semantic: (C,) mean embedding of the reference's structure, added to all tokens; zeros for none.
        form: one of `FORMS`.

    Returns:
        (M, f*h, f*w) logits, the single mask first, then those for ambiguous prompts; and (M,) their expected IoU.
    """
    transformer = decoder.transformer
    planes = embedding + dense
    image = planes.flatten(2).transpose(1, 2)
    places = dense_positions(prompt_encoder.pe_layer, (planes.shape[2], planes.shape[3])).flatten(2).transpose(1, 2)
    # The first addition changes the positions of the tokens too, in the released code; later ones do not.
    tokens = torch.cat((own_tokens(decoder)[None], sparse), dim=1) + semantic
    queries = tokens
    for number, layer in enumerate(transformer.layers):
        queries = queries + semantic if number else queries
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(queries, queries, queries)
        else:
            queries = queries + layer.self_attn(queries + tokens, queries + tokens, queries)
        queries = layer.norm1(queries)
        seen = _guided(layer.cross_attn_token_to_image, queries + tokens, image + places, image, guidance, form)
        queries = layer.norm2(queries + seen)
        queries = layer.norm3(queries + layer.mlp(queries))
        image = layer.norm4(image + layer.cross_attn_image_to_token(image + places, queries + tokens, queries))
    seen = transformer.final_attn_token_to_image(queries + tokens + semantic, image + places, image)
    queries = transformer.norm_final_attn(queries + seen)
    decoded = Decoded(queries, image.transpose(1, 2).unflatten(2, planes.shape[2:]))
    weights = torch.stack([mask_weights(decoder, decoded, mask) for mask in range(decoder.num_mask_tokens)], dim=1)
    return masks_from(decoder, decoded, weights)[0], decoder.iou_prediction_head(queries[:, 0])[0]


def _guided(attention: Attention, query: Tensor, key: Tensor, value: Tensor, guidance: Tensor, form: str) -> Tensor:
    projected = (attention.q_proj(query), attention.k_proj(key), attention.v_proj(value))
    query, key, value = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in projected)
    logits = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    if form == RELEASED:
        weights = (logits.softmax(-1) + guidance).softmax(-1)
    else:
        weights = (logits + guidance.clamp_min(LEAST).log()).softmax(-1)
    return attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
