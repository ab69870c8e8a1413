"""The bottleneck adapter of Medical SAM Adapter and MaskSAM with what may stand in its middle.

Source: Wu et al., Medical SAM Adapter, Medical Image Analysis 2025; Xie et al., MaskSAM, ICCV 2025. Written from their equations.
Tokens are (B, D, ..., E) in the encoder and (N, T, E) in the decoder; h is the width of the middle.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samunet.models.convolution import Convolution
from samunet.sam.backbones import LAYER_NORM_EPS

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}
INITIALIZATIONS = ("official", "zero")


class Bottleneck(nn.Module):
    """W_up m(act(W_down x)): an increment to its input, with an optional middle m.

    Args:
        width: E.
        hidden: h.
        activation: a key of ACTIVATIONS.
        middle: maps the h channels after the activation to what goes up; None leaves them.
        start_at_zero: start with W_up = 0, so that the increment is zero at first; otherwise at random, as both publications do.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: str = "gelu",
        middle: nn.Module | None = None,
        start_at_zero: bool = True,
    ) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = ACTIVATIONS[activation]()
        self.middle = middle
        if start_at_zero:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., E) to (..., E)."""
        squeezed = self.activation(self.down(tokens))
        return self.up(squeezed if self.middle is None else self.middle(squeezed))


class PromptedBottleneck(nn.Module):
    """A bottleneck whose middle depends on a prompt, token by token (HyP-Adpt, and the two simpler forms it was compared with).

    With e = W_down x and p = W_prompt prompt:

    - "hyper": for each of some layers, e <- ReLU(LN(e M_n(p))), M_n(p) an (h, h) matrix that a linear map makes of p;
    - "add": e <- ReLU(e + p);
    - "concat": e <- ReLU(W [e, p]).

    Args:
        width: of tokens and prompts.
        hidden: h.
        form: one of FORMS.
        layers: of "hyper".
    """

    FORMS = ("hyper", "add", "concat")

    def __init__(
        self, width: int, hidden: int, *, form: str = "hyper", layers: int = 1, start_at_zero: bool = True
    ) -> None:
        super().__init__()
        self.form, self.hidden = form, hidden
        self.down, self.prompt, self.up = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.maps = nn.ModuleList(nn.Linear(hidden, hidden * hidden) for _ in range(layers if form == "hyper" else 0))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in self.maps)
        self.join = nn.Linear(2 * hidden, hidden) if form == "concat" else None
        if start_at_zero:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """(N, T, E) tokens and prompts to an increment (N, T, E)."""
        hidden, prompt = self.down(tokens), self.prompt(prompts)
        if self.form == "add":
            hidden = torch.relu(hidden + prompt)
        elif self.join is not None:
            hidden = torch.relu(self.join(torch.cat((hidden, prompt), dim=-1)))
        for made, norm in zip(self.maps, self.norms, strict=True):
            matrix = made(prompt).unflatten(-1, (self.hidden, self.hidden))
            hidden = torch.relu(norm((hidden.unsqueeze(-2) @ matrix).squeeze(-2)))
        return self.up(hidden)


class DepthConvolution(nn.Module):
    """MaskSAM's middle in the encoder: g + GELU(LN(conv(g))), a 3x3x3 convolution of each channel by itself on (B, D, h, w, C)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.convolution = Convolution(hidden, hidden, 3, padding=1, groups=hidden)
        self.norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.activation = nn.GELU()

    def forward(self, squeezed: Tensor) -> Tensor:
        """(B, D, h, w, C) to the same shape."""
        mixed = self.convolution(squeezed.movedim(-1, 1)).movedim(1, -1)
        return squeezed + self.activation(self.norm(mixed))


class DepthOfTokens(nn.Module):
    """MaskSAM's middle in the decoder: g + v, v what the slices say of one channel of one token; on (..., D, C).

    Args:
        hidden: C.
        depth: slices of a slab; v is a perceptron over them, D to 4D to D with GELU between. None takes a convolution of three slices, each
            channel by itself, whose weights fit any depth.
    """

    def __init__(self, hidden: int, depth: int | None) -> None:
        super().__init__()
        self.mix: nn.Module = nn.Conv1d(hidden, hidden, 3, padding=1, groups=hidden)
        if depth is not None:
            self.mix = nn.Sequential(nn.Linear(depth, 4 * depth), nn.GELU(), nn.Linear(4 * depth, depth))

    def forward(self, squeezed: Tensor) -> Tensor:
        along = squeezed.transpose(-1, -2)
        mixed = self.mix(along.flatten(0, -3)).unflatten(0, along.shape[:-2])
        return squeezed + mixed.transpose(-1, -2)
