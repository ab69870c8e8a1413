"""Multi-scale deformable attention by grid sampling, and the layer that DB-SAM makes of it.

Source: Zhu et al., Deformable DETR, ICLR 2021; Qin et al., DB-SAM, MICCAI 2024. Written from their equations. Axes: N
planes, J levels that ask, L levels that are asked, h w rows and columns of the grid that all levels share, E width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from samunet.models.convolution import set_to_zero

POINTS = 4  # that a head looks at in each level, the authors'
DROPOUT, DROP_PATH = 0.1, 0.3  # of what attention gives, and of planes for which training skips a layer; the authors'


class DeformableAttention(nn.Module):
    """Every place looks at a few points around itself in every level, and weighs what it finds.

    With V = W_v values, r_n the center of place n, and i over heads, l over levels, p over points:

        A(q)_n = W_o concat_i sum_l,p a_ilp(q_n) V_il(r_n + d_ilp(q_n)),   sum_l,p a_ilp = 1

    d is in places of the grid, V_il is bilinear between its places and zero outside. d starts as p + 1 steps in a
    direction of each head's own, a equal for all, W_o at zero.

    Args:
        width: E.
        heads: parts of the width.
        levels: L.
    """

    def __init__(self, width: int, heads: int, levels: int) -> None:
        super().__init__()
        self.heads, self.levels = heads, levels
        self.offsets, self.shares = (nn.Linear(width, heads * levels * POINTS * count) for count in (2, 1))
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        for start in (self.offsets.weight, self.shares.weight, self.shares.bias):
            nn.init.zeros_(start)
        set_to_zero(self.output)
        angle = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = direction[:, None, None] * torch.arange(1, POINTS + 1)[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_(steps.expand(-1, levels, -1, -1).flatten())

    def forward(self, queries: Tensor, values: Tensor) -> Tensor:
        """(N, J, h, w, E) queries and (N, L, h, w, E) values to (N, J, h, w, E)."""
        kinds = (self.heads, self.levels, POINTS)
        offsets = self.offsets(queries).unflatten(-1, (*kinds, 2)).float()
        shares = self.shares(queries).unflatten(-1, (self.heads, -1)).float().softmax(-1).unflatten(-1, kinds[1:])
        value = self.value(values).unflatten(-1, (self.heads, -1)).float()
        mixed = torch.zeros((), device=queries.device)
        for level in range(self.levels):
            part = (value[:, level], offsets[..., level, :, :], shares[..., level, :])
            # What was sampled is as large as all queries times POINTS: found again for the gradient, not kept.
            learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in part)
            mixed = mixed + (checkpoint(_look, *part, use_reentrant=False) if learns else _look(*part))
        return self.output(mixed.to(queries.dtype))


def _look(value: Tensor, offsets: Tensor, shares: Tensor) -> Tensor:
    """Sample one level in fp32.

    Args:
        value: (N, h, w, heads, c).
        offsets: (N, J, h, w, heads, POINTS, 2), x before y, in places.
        shares: (N, J, h, w, heads, POINTS).

    Returns:
        (N, J, h, w, heads * c).
    """
    count, height, width, heads = value.shape[:4]
    rows = torch.arange(height, device=value.device) + 0.5
    columns = torch.arange(width, device=value.device) + 0.5
    centers = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)[:, :, None, None]
    places = (centers + offsets) * (2 / torch.tensor([width, height], device=value.device)) - 1
    with torch.autocast(value.device.type, enabled=False):
        maps = value.permute(0, 3, 4, 1, 2).flatten(0, 1)
        grid = places.permute(0, 4, 1, 2, 3, 5, 6).flatten(0, 1).flatten(1, 3)  # (N * heads, J * h * w, POINTS, 2)
        found = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weights = shares.permute(0, 4, 1, 2, 3, 5).flatten(0, 1).flatten(1, 3)
        mixed = (found * weights.unsqueeze(1)).sum(-1).transpose(1, 2)
    return mixed.unflatten(0, (count, heads)).transpose(1, 2).unflatten(1, offsets.shape[1:4]).flatten(4)


class DeformableLayer(nn.Module):
    """q <- q + A(LN q, LN v); q <- q + MLP(LN q), a depthwise 3x3 convolution in the MLP's middle and zeros at its end.

    Args:
        width, heads, levels: of `DeformableAttention`.
    """

    def __init__(self, width: int, heads: int, levels: int) -> None:
        super().__init__()
        self.query_norm, self.value_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.attention = DeformableAttention(width, heads, levels)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.around = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width)
        set_to_zero(self.narrow)

    def forward(self, queries: Tensor, values: Tensor) -> Tensor:
        """(N, J, h, w, E) queries and (N, L, h, w, E) values to what the queries become."""
        attended = self.attention(self.query_norm(queries), self.value_norm(values))
        queries = queries + skip_some(F.dropout(attended, DROPOUT, self.training), self.training)
        hidden = self.widen(self.mlp_norm(queries)).flatten(0, 1).permute(0, 3, 1, 2)
        hidden = F.gelu(self.around(hidden)).permute(0, 2, 3, 1).unflatten(0, queries.shape[:2])
        return queries + skip_some(self.narrow(hidden), self.training)


def skip_some(increment: Tensor, training: bool) -> Tensor:
    """Drop (N, ...) increments of some planes in training, and enlarge the others (stochastic depth)."""
    kept = increment.new_ones(len(increment), *(1,) * (increment.ndim - 1))
    return increment * F.dropout(kept, DROP_PATH, training)
