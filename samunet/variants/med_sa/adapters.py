"""What Medical SAM Adapter adds to SAM's blocks: space, depth and MLP adapters, and in the decoder steered ones.

Source: Wu et al., Medical SAM Adapter, Medical Image Analysis 2025, from its equations. Tokens are (B, D, h, w, E) in
the encoder and (N, T, C) in the decoder; h, where a width is meant, is that of a bottleneck.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

from samunet.models.bottleneck import Bottleneck, BottleneckStyle
from samunet.models.convolution import set_to_zero
from samunet.sam.decoder import IMAGE_TO_TOKEN, TOKEN_TO_IMAGE, DecoderSites
from samunet.sam.encoder import Sites, attend_along_depth


class MedicalSites(Sites):
    """One encoder block's adapters.

    With u the normalized tokens and a = Attention(u): the block gets a + A_space(a) + A_depth(Attention along
    depth(u)), and beside the MLP scale * A_mlp. The attention along depth has the block's own weights, and compares a
    place with itself in the other slices (SD-Trans).

    Args:
        width: E.
        hidden: of the bottlenecks.
        style: of the bottlenecks.
        depth: with the branch along depth; it is left out where a slab has one slice.
        scale: of the adapter beside the MLP.
    """

    def __init__(self, width: int, hidden: int, style: BottleneckStyle, *, depth: bool, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.space, self.mlp = Bottleneck(width, hidden, style), Bottleneck(width, hidden, style)
        self.depth = Bottleneck(width, hidden, style) if depth else None

    def beside_attention(self, attention: Attention, qkv: Tensor, attended: Tensor) -> Tensor:
        joined: Tensor = self.space(attended)
        if self.depth is not None and attended.shape[1] > 1:
            joined = joined + self.depth(attend_along_depth(attention, qkv))
        return joined

    def beside_mlp(self, tokens: Tensor) -> Tensor:
        return self.scale * self.mlp(tokens)


class PromptedBottleneck(nn.Module):
    """A bottleneck whose middle depends on a prompt, token by token.

    It is HyP-Adpt, or one of the two simpler forms that it was compared with.
    With e = W_down x and p = W_prompt prompt:

    - "hyper": for each of some layers, e <- ReLU(LN(e M_n(p))), M_n(p) an (h, h) matrix that a linear map makes of p;
    - "add": e <- ReLU(e + p);
    - "concat": e <- ReLU(W [e, p]).

    Args:
        width: of tokens and prompts.
        hidden: h.
        style: gives the start; the activation is ReLU.
        form: "hyper", "add" or "concat".
        layers: of "hyper".
    """

    def __init__(
        self, width: int, hidden: int, style: BottleneckStyle, *, form: str = "hyper", layers: int = 1
    ) -> None:
        super().__init__()
        self.form, self.hidden = form, hidden
        self.down, self.prompt, self.up = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.maps = nn.ModuleList(nn.Linear(hidden, hidden * hidden) for _ in range(layers if form == "hyper" else 0))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in self.maps)
        self.join = nn.Linear(2 * hidden, hidden) if form == "concat" else None
        if style.start_at_zero:
            set_to_zero(self.up)

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


class MedicalDecoderSites(DecoderSites):
    """Adapters of one decoder layer: one that the prompt tokens steer, one beside the MLP, one of the image's places.

    Args:
        width: C.
        hidden: of the bottlenecks.
        style: of the bottlenecks.
        scale: of the adapter beside the MLP.
        form, hyper_layers: of `PromptedBottleneck`.
    """

    def __init__(
        self, width: int, hidden: int, style: BottleneckStyle, *, scale: float, form: str, hyper_layers: int
    ) -> None:
        super().__init__()
        self.scale = scale
        self.prompted = PromptedBottleneck(width, hidden, style, form=form, layers=hyper_layers)
        self.mlp, self.image = Bottleneck(width, hidden, style), Bottleneck(width, hidden, style)

    def beside_attention(self, attention: str, attended: Tensor, prompts: Tensor) -> Tensor | None:
        if attention == TOKEN_TO_IMAGE:
            return self.prompted(attended, prompts)
        return self.image(attended) if attention == IMAGE_TO_TOKEN else None

    def beside_mlp(self, tokens: Tensor) -> Tensor:
        return self.scale * self.mlp(tokens)


def with_first_layer(first: DecoderSites, layers: int) -> list[DecoderSites]:
    """Return the decoder's sites: adapters in the first layer, as published, and nothing in those after it."""
    return [first, *(DecoderSites() for _ in range(layers))]
