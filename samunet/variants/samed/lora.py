"""Low-rank updates of q and v, in SAM's encoder and in its mask decoder.

Source: Zhang and Liu, Customized Segment Anything Model for medical image segmentation (SAMed), 2023. E is the width of
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.image_encoder import Attention
from segment_anything.modeling.transformer import Attention as DecoderAttention
from torch import Tensor, nn

from samunet.models.convolution import set_to_zero
from samunet.sam.decoder import IMAGE_TO_TOKEN, SELF, TOKEN_TO_IMAGE, DecoderSites
from samunet.sam.encoder import Sites, query_and_value


class LowRank(nn.Sequential):
    """A linear map by way of a few numbers, W_up W_down x; W_up starts at zero."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        down, up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
        set_to_zero(up)
        super().__init__(down, up)

    def product(self) -> Tensor:
        """Return the (outputs, inputs) matrix that the map is."""
        down, up = (cast(nn.Linear, layer).weight for layer in self)
        return up @ down


class LoRASites(Sites):
    """One encoder block's low-rank updates of q and v, B A x, without a scale (SAMed); B starts at zero.

    Args:
        width: token embedding length E.
        rank: of the update.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.query, self.value = LowRank(width, width, rank), LowRank(width, width, rank)
        self.merged = False

    def qkv_update(self, tokens: Tensor) -> Tensor | None:
        return None if self.merged else query_and_value(self.query(tokens), self.value(tokens))

    @torch.no_grad()
    def merge_into(self, attention: Attention) -> None:
        if not self.merged:
            attention.qkv.weight += query_and_value(self.query.product().T, self.value.product().T).T
            self.merged = True


class LoRADecoderSites(DecoderSites):
    """Low-rank updates of q and v in the attentions of one decoder layer (SAMed_s); B starts at zero.

    Args:
        attentions: name to the package's attention of the layer, as `samunet.sam.decoder` names them.
        rank: of the updates.
    """

    def __init__(self, attentions: Mapping[str, DecoderAttention], rank: int) -> None:
        super().__init__()

        def updates() -> nn.ModuleDict:
            sizes = {name: (attention.embedding_dim, attention.internal_dim) for name, attention in attentions.items()}
            return nn.ModuleDict({name: LowRank(*size, rank) for name, size in sizes.items()})

        self.query, self.value = updates(), updates()

    def update(self, attention: str, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None, Tensor]:
        return self.query[attention](query), None, self.value[attention](value)


def decoder_lora(transformer: TwoWayTransformer, rank: int) -> list[LoRADecoderSites]:
    """Return SAMed_s's updates for every attention of the two-way transformer, the one after the layers included."""
    names = {
        SELF: "self_attn",
        TOKEN_TO_IMAGE: "cross_attn_token_to_image",
        IMAGE_TO_TOKEN: "cross_attn_image_to_token",
    }
    layers = [{name: getattr(layer, part) for name, part in names.items()} for layer in transformer.layers]
    layers.append({TOKEN_TO_IMAGE: transformer.final_attn_token_to_image})
    return [LoRADecoderSites(attentions, rank) for attentions in layers]
