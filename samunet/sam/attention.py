"""Multi-head attention with SAM's decomposed relative positions, in three forms that give the same result.

The logits are q.k / sqrt(c) + q.Rh[row difference] + q.Rw[column difference]; the relative terms take q unscaled
(Kirillov et al., 2023; Li et al., ViTDet, 2022). The published code builds the (L, L) matrix of every head; here

- "bias" adds the relative terms as the mask of a fused kernel, which still holds that matrix;
- "chunked" does the same for some token rows at a time, and computes them again in the backward pass;
- "folded" widens the vectors, [q / sqrt(c), q.Rh, q.Rw] against [k, one-hot row, one-hot column], so that a flash
kernel needs
  no mask; v is padded with zeros to the same width, or the kernel would refuse and the math path would build the
  matrix.

Axes: N planes or windows, a heads, h w token rows and columns, L = h*w, c head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

FORMS = ("bias", "chunked", "folded")
CHUNK_LOGITS = 1 << 22  # logits of all heads held at a time by "chunked": 16 MiB in fp32
ALIGNMENT = 8  # CUDA's memory-efficient kernel takes vectors of a multiple of 8 halves
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


def relative_attention(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, *, form: str | None = None
) -> Tensor:
    """Attend with relative positions.

    Args:
        query: (N, a, h, w, c).
        key: (N, a, L, c).
        value: (N, a, L, c).
        rows: (h, h, c), the relative table by query row and key row.
        columns: (w, w, c) likewise.
        form: one of `FORMS`; None chooses by size and by whether a gradient is needed.

    Returns:
        (N, a, L, c).
    """
    form = form or choose_form(query)
    by_row = torch.einsum(
        "nahwc,hkc->nahwk", query, rows.to(query.dtype)
    ).contiguous()  # or their sum, which is large, would be copied
    by_column = torch.einsum("nahwc,wkc->nahwk", query, columns.to(query.dtype)).contiguous()
    if form == "folded":
        return _folded(query, key, value, by_row, by_column)
    if form == "bias":
        return _biased(query, key, value, by_row, by_column)
    step = _rows_at_a_time(query)
    again = torch.is_grad_enabled() and query.requires_grad
    parts = []
    for first in range(0, query.shape[2], step):
        part = (
            query[:, :, first : first + step],
            key,
            value,
            by_row[:, :, first : first + step],
            by_column[:, :, first : first + step],
        )
        parts.append(checkpoint(_biased, *part, use_reentrant=False) if again else _biased(*part))
    return torch.cat(parts, dim=2)


def choose_form(query: Tensor) -> str:
    """Return the form that is about the fastest and holds no large (L, L) matrix; benchmarks/encoder.py times all.

    On CPUs the additive bias is fastest while the matrix is small. Where it is large, chunks are faster without a
    gradient; with one, folding takes about as long as the bias and keeps no matrix.
    """
    if query.device.type == "cuda":
        return "folded"
    count, heads, height, width, _ = query.shape
    if count * heads * (height * width) ** 2 <= CHUNK_LOGITS:
        return "bias"
    return "folded" if torch.is_grad_enabled() and query.requires_grad else "chunked"


def _biased(query: Tensor, key: Tensor, value: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    bias = (by_row.unsqueeze(-1) + by_column.unsqueeze(-2)).flatten(-2).flatten(2, 3)
    return F.scaled_dot_product_attention(query.flatten(2, 3), key, value, attn_mask=bias)


def _folded(query: Tensor, key: Tensor, value: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    height, width, length = query.shape[2:]
    rows = torch.eye(height, dtype=query.dtype, device=query.device).repeat_interleave(width, dim=0)
    columns = torch.eye(width, dtype=query.dtype, device=query.device).repeat(height, 1)
    places = torch.cat((rows, columns), dim=-1)
    missing = -(length + height + width) % ALIGNMENT
    wide_query = F.pad(torch.cat((query * length**-0.5, by_row, by_column), dim=-1), (0, missing)).flatten(2, 3)
    wide_key = F.pad(torch.cat((key, places.expand(*key.shape[:2], -1, -1)), dim=-1), (0, missing))
    wide_value = F.pad(value, (0, height + width + missing))
    if query.device.type not in ("cpu", "cuda"):
        return F.scaled_dot_product_attention(wide_query, wide_key, wide_value, scale=1.0)[..., :length]
    with sdpa_kernel(FUSED):  # an error instead of the math path
        return F.scaled_dot_product_attention(wide_query, wide_key, wide_value, scale=1.0)[..., :length]


def _rows_at_a_time(query: Tensor) -> int:
    count, heads, height, width, _ = query.shape
    return max(1, min(height, CHUNK_LOGITS // (count * heads * width * height * width)))
