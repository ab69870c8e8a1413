"""What MA-SAM adds to SAM's encoder blocks: 3D adapters and low-rank updates.

Source: Chen et al., MA-SAM: Modality-agnostic SAM adaptation for 3D medical image segmentation, Medical Image
Analysis 2024; Jie and Deng, FacT: Factor-tuning for lightweight adaptation on vision transformer, AAAI 2023.
Tokens are (B, D, h, w, E).
"""

from __future__ import annotations

from torch import Tensor, nn

from samunet.sam.build import LAYER_NORM_EPS
from samunet.sam.encoder import Sites


class DepthAdapter(nn.Module):
    """Bottleneck whose only mixing is along depth: norm, down, 3x1x1 convolution, GELU, up.

    Maps (B, D, h, w, E) to an increment of the same shape. The up projection starts at zero, so the adapted
    encoder starts as SAM (MA-SAM itself starts from random up projections).
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.down = nn.Linear(width, bottleneck, bias=False)
        self.depth = nn.Conv3d(bottleneck, bottleneck, (3, 1, 1), padding=(1, 0, 0))
        self.activation = nn.GELU()
        self.up = nn.Linear(bottleneck, width, bias=False)
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
        bottleneck: adapter width.
        factors: shared low-rank factors; None leaves q and v alone.
    """

    def __init__(self, width: int, bottleneck: int, factors: SharedFactors | None) -> None:
        super().__init__()
        self.before = DepthAdapter(width, bottleneck)
        self.after = DepthAdapter(width, bottleneck)
        self.factors = factors
        if factors is not None:
            rank = factors.down.out_features
            self.query = nn.Linear(rank, rank, bias=False)
            self.value = nn.Linear(rank, rank, bias=False)

    def before_attention(self, tokens: Tensor) -> Tensor:
        return self.before(tokens)

    def after_attention(self, tokens: Tensor) -> Tensor:
        return self.after(tokens)

    def qkv_update(self, tokens: Tensor) -> Tensor | None:
        if self.factors is None:
            return None
        squeezed = self.factors.down(tokens)
        query, value = self.factors.up(self.query(squeezed)), self.factors.up(self.value(squeezed))
        # F.pad cannot leave a hole, so the untouched k gets explicit zeros.
        return nn.functional.pad(query, (0, 2 * query.shape[-1])) + nn.functional.pad(value, (2 * value.shape[-1], 0))
