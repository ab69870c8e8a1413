"""The bottleneck adapter that Medical SAM Adapter and MaskSAM share.

Source: Wu et al., Medical SAM Adapter, Medical Image Analysis 2025; Xie et al., MaskSAM, ICCV 2025. Written from their
equations. E is the width of tokens, h that of the middle.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from samunet.models.convolution import set_to_zero

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


@dataclass(frozen=True, kw_only=True)
class BottleneckStyle:
    """What the bottlenecks of a network have in common."""

    activation: str = "gelu"
    """A key of ACTIVATIONS."""
    start_at_zero: bool = True
    """Start with W_up = 0, so that the increment is zero at first; otherwise at random, as both publications do."""


class Bottleneck(nn.Module):
    """W_up m(act(W_down x)): an increment to its input, with an optional middle m.

    Args:
        width: E.
        hidden: h.
        style: activation and start.
        middle: maps the h channels after the activation to what goes up; None leaves them.
    """

    def __init__(self, width: int, hidden: int, style: BottleneckStyle, middle: nn.Module | None = None) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = ACTIVATIONS[style.activation]()
        self.middle = middle
        if style.start_at_zero:
            set_to_zero(self.up)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., E) to (..., E)."""
        squeezed = self.activation(self.down(tokens))
        return self.up(squeezed if self.middle is None else self.middle(squeezed))
