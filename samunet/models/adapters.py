"""What MA-SAM and SAMed add to SAM's encoder blocks: 3D adapters and low-rank updates.

Source: Chen et al., MA-SAM: Modality-agnostic SAM adaptation for 3D medical image segmentation, Medical Image
Analysis 2024; Jie and Deng, FacT: Factor-tuning for lightweight adaptation on vision transformer, AAAI 2023; Zhang and
Liu, Customized Segment Anything Model for medical image segmentation (SAMed), 2023.
Tokens are (B, D, h, w, E).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn

from samunet.models.convolution import Convolution
from samunet.sam.backbones import LAYER_NORM_EPS
from samunet.sam.decoder import IMAGE_TO_TOKEN, SELF, TOKEN_TO_IMAGE, DecoderSites
from samunet.sam.encoder import Sites


class DepthAdapter(nn.Module):
    """Bottleneck whose only mixing is along depth: norm, down, 3x1x1 convolution, GELU, up.

    Maps (B, D, h, w, E) to an increment of the same shape.

    Args:
        width: token embedding length E.
        bottleneck: adapter width.
        start_at_zero: start with a zero up projection, so that the adapted encoder starts as SAM; MA-SAM itself starts at random.
    """

    def __init__(self, width: int, bottleneck: int, *, start_at_zero: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.down = nn.Linear(width, bottleneck, bias=False)
        self.depth = Convolution(bottleneck, bottleneck, (3, 1, 1), padding=(1, 0, 0))
        self.activation = nn.GELU()
        self.up = nn.Linear(bottleneck, width, bias=False)
        if start_at_zero:
            nn.init.zeros_(self.up.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        squeezed = self.down(self.norm(tokens)).movedim(-1, 1)
        return self.up(self.activation(self.depth(squeezed).movedim(1, -1)))


class SharedFactors(nn.Module):
    """FacT's tensor-train factors U and V, one pair for the whole encoder; V starts at zero."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.up.weight)


class MASAMSites(Sites):
    """One encoder block's adapters before and after attention, and low-rank updates of q and v.

    Args:
        width: token embedding length E.
        bottleneck: adapter width; 0 leaves the adapters out.
        factors: low-rank factors that all blocks share; None leaves q and v alone.
        dropout: of the low-rank vectors in training (MA-SAM: 0.1).
        start_at_zero: see DepthAdapter.
    """

    def __init__(
        self,
        width: int,
        bottleneck: int,
        factors: SharedFactors | None,
        *,
        dropout: float = 0.0,
        start_at_zero: bool = True,
    ) -> None:
        super().__init__()
        self.before, self.after = (
            DepthAdapter(width, bottleneck, start_at_zero=start_at_zero) if bottleneck else None for _ in range(2)
        )
        self.factors = factors
        if factors is not None:
            rank = factors.down.out_features
            self.query = nn.Linear(rank, rank, bias=False)
            self.value = nn.Linear(rank, rank, bias=False)
        self.dropout = nn.Dropout(dropout)

    def before_attention(self, tokens: Tensor) -> Tensor | None:
        return self.before(tokens) if self.before is not None else None

    def after_attention(self, tokens: Tensor) -> Tensor | None:
        return self.after(tokens) if self.after is not None else None

    def qkv_update(self, tokens: Tensor) -> Tensor | None:
        if self.factors is None:
            return None
        squeezed = self.factors.down(tokens)
        return query_and_value(*(self.factors.up(self.dropout(own(squeezed))) for own in (self.query, self.value)))

    @torch.no_grad()
    def merge_into(self, attention: nn.Module) -> None:
        """Add the low-rank updates to the q and v weights of a block and drop them: prediction then costs what SAM costs."""
        if self.factors is not None:
            up, down = self.factors.up.weight, self.factors.down.weight
            attention.qkv.weight += query_and_value(
                (up @ self.query.weight @ down).T, (up @ self.value.weight @ down).T
            ).T
            self.factors = None


class LoRASites(Sites):
    """One encoder block's low-rank updates of q and v, B A x, without a scale (SAMed); B starts at zero.

    Args:
        width: token embedding length E.
        rank: of the update.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.query, self.value = _low_rank(width, width, rank), _low_rank(width, width, rank)
        self.merged = False

    def qkv_update(self, tokens: Tensor) -> Tensor | None:
        return None if self.merged else query_and_value(self.query(tokens), self.value(tokens))

    @torch.no_grad()
    def merge_into(self, attention: nn.Module) -> None:
        """Add the updates to the q and v weights of a block and switch them off."""
        if not self.merged:
            attention.qkv.weight += query_and_value(
                *((up.weight @ down.weight).T for down, up in (self.query, self.value))
            ).T
            self.merged = True


class LoRADecoderSites(DecoderSites):
    """Low-rank updates of q and v in the attentions of one decoder layer (SAMed_s); B starts at zero.

    Args:
        attentions: name to the package's attention of the layer, as `samunet.sam.decoder` names them.
        rank: of the updates.
    """

    def __init__(self, attentions: Mapping[str, Attention], rank: int) -> None:
        super().__init__()
        self.query, self.value = (
            nn.ModuleDict(
                {
                    name: _low_rank(attention.embedding_dim, attention.internal_dim, rank)
                    for name, attention in attentions.items()
                }
            )
            for _ in range(2)
        )

    def update(self, attention: str, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None, Tensor]:
        return self.query[attention](query), None, self.value[attention](value)


def decoder_lora(transformer: TwoWayTransformer, rank: int) -> list[LoRADecoderSites]:
    """Return SAMed_s's updates for every attention of the two-way transformer, the one after the layers included."""
    layers = [
        {
            SELF: layer.self_attn,
            TOKEN_TO_IMAGE: layer.cross_attn_token_to_image,
            IMAGE_TO_TOKEN: layer.cross_attn_image_to_token,
        }
        for layer in transformer.layers
    ]
    return [
        LoRADecoderSites(attentions, rank)
        for attentions in (*layers, {TOKEN_TO_IMAGE: transformer.final_attn_token_to_image})
    ]


def _low_rank(inputs: int, outputs: int, rank: int) -> nn.Sequential:
    down, up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
    nn.init.zeros_(up.weight)
    return nn.Sequential(down, up)


def merge_updates(encoder: nn.Module, sites: Iterable[Sites]) -> None:
    """Add the low-rank updates of all sites that have any to the weights of the encoder's blocks."""
    for block, attached in zip(encoder.blocks, sites, strict=True):
        if isinstance(attached, (MASAMSites, LoRASites)):
            attached.merge_into(block.attn)


def query_and_value(query: Tensor, value: Tensor) -> Tensor:
    """Lay (..., E) updates of q and v out as (..., 3E) in the order q, k, v; the untouched k gets zeros."""
    return torch.cat((query, torch.zeros_like(query), value), dim=-1)
