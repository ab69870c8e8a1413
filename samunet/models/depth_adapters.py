"""What MA-SAM adds to SAM's encoder blocks: adapters that mix along depth, and low-rank updates from shared factors.

Source: Chen et al., MA-SAM: Modality-agnostic SAM adaptation for 3D medical image segmentation, Medical Image
Analysis 2024; Jie and Deng, FacT: Factor-tuning for lightweight adaptation on vision transformer, AAAI 2023.
Tokens are (B, D, h, w, E).
"""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

from samunet.models.convolution import Convolution, set_to_zero
from samunet.sam.backbones import LAYER_NORM_EPS
from samunet.sam.encoder import Sites, query_and_value


class DepthAdapter(nn.Module):
    """Bottleneck whose only mixing is along depth: norm, down, 3x1x1 convolution, GELU, up.

    Maps (B, D, h, w, E) to an increment of the same shape.

    Args:
        width: token embedding length E.
        bottleneck: adapter width.
        start_at_zero: start with a zero up projection, so that the adapted encoder starts as SAM; MA-SAM itself starts
            at random.
    """

    def __init__(self, width: int, bottleneck: int, *, start_at_zero: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.down = nn.Linear(width, bottleneck, bias=False)
        self.depth = Convolution(bottleneck, bottleneck, (3, 1, 1), padding=(1, 0, 0))
        self.activation = nn.GELU()
        self.up = nn.Linear(bottleneck, width, bias=False)
        if start_at_zero:
            set_to_zero(self.up)

    def forward(self, tokens: Tensor) -> Tensor:
        squeezed = self.down(self.norm(tokens)).movedim(-1, 1)
        return self.up(self.activation(self.depth(squeezed).movedim(1, -1)))


class SharedFactors(nn.Module):
    """FacT's tensor-train factors U and V, one pair for the whole encoder; V starts at zero."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)
        set_to_zero(self.up)


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
    def merge_into(self, attention: Attention) -> None:
        if self.factors is not None:
            up, down = self.factors.up.weight, self.factors.down.weight
            query, value = ((up @ own.weight @ down).T for own in (self.query, self.value))
            attention.qkv.weight += query_and_value(query, value).T
            self.factors = None
