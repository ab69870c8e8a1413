"""The branch of convolutions of DB-SAM, where it meets SAM's encoder, and what becomes of both.

Source: Qin et al., DB-SAM, MICCAI 2024. Written from a description of what paper and code compute. Axes: B batch, D
slices, N = B*D planes, h w token rows and columns, E width of tokens, LEVELS maps of the branch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from samunet.models.convolution import Convolution, instance_norm, set_to_zero
from samunet.sam.encoder import ends_of_quarters
from samunet.variants.db_sam.deformable import DeformableLayer, skip_some

LEVELS = 4
SHARES = (6, 3, 1.5)
"""A path's widths are E over these: 128, 256 and 512 for ViT-B."""


class DualBranch(nn.Module):
    """The branch as what `samunet.models.sam_with_sites.AdaptedSAM` runs beside its blocks.

    Args:
        encoder: of SAM.
        depth: slices of a slab.
        layout: "plus" or "two_branch".
        checkpointing: keep only what goes into a meeting for the backward pass, and run it again there.
    """

    def __init__(self, encoder: ImageEncoderViT, depth: int, layout: str, *, checkpointing: bool) -> None:
        super().__init__()
        width, heads = encoder.pos_embed.shape[-1], encoder.blocks[0].attn.num_heads
        meeting, mix = {"plus": (Together, SoftmaxMix), "two_branch": (InTurn, SigmoidMix)}[layout]
        self.pyramid = Pyramid(width, depth)
        self.ends, self.checkpointing = ends_of_quarters(encoder), checkpointing
        self.meetings = nn.ModuleList(meeting(width, heads) for _ in self.ends)
        self.fusion = Fusion(width, mix(width))

    def forward(self, pixels: Tensor) -> Callable[[int, Tensor], Tensor]:
        """Take (B, D, 3, H, W) pixels; the answer takes a block's index and (B, D, h, w, E) output to what goes on."""
        levels = self.pyramid(pixels)

        def after(block: int, tokens: Tensor) -> Tensor:
            nonlocal levels
            if block not in self.ends:
                return tokens
            meeting, planes = self.meetings[self.ends.index(block)], tokens.flatten(0, 1)
            if self.checkpointing and torch.is_grad_enabled():
                planes, levels = checkpoint(meeting, planes, levels, use_reentrant=False)
            else:
                planes, levels = meeting(planes, levels)
            if block == self.ends[-1]:
                planes = self.fusion(planes, levels)
            return planes.unflatten(0, tokens.shape[:2])

        return after


class Pyramid(nn.Module):
    """The plane at 1/2, 1/4, 1/8 and 1/16 of its size, each brought to the grid of tokens by convolutions of its own.

    In a slab every 3x3 convolution sees a depthwise one along depth first, which starts as nothing.

    Args:
        width, depth: E, and slices of a slab.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        widths = [round(width / share) for share in SHARES]
        self.paths = nn.ModuleList(_path(widths, width, depth, halvings) for halvings in (3, 2, 1, 0))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(LEVELS))
        self.level = nn.Parameter(torch.zeros(LEVELS, width))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, D, 3, H, W) to (N, LEVELS, h, w, E)."""
        planes, (height, width) = pixels.flatten(0, 1).float(), pixels.shape[3:]
        levels = []
        for index, (path, norm) in enumerate(zip(self.paths, self.norms, strict=True)):
            size = (height >> index + 1, width >> index + 1)
            small = F.interpolate(planes, size=size, mode="bilinear", align_corners=False, antialias=True)
            features = path(small.unflatten(0, pixels.shape[:2]).movedim(2, 1))
            levels.append(norm(features.permute(0, 2, 3, 4, 1).flatten(0, 1)) + self.level[index])
        return torch.stack(levels, dim=1)


class AlongDepth(Convolution):
    """x + a depthwise convolution along depth, at first nothing, on (B, C, D, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, (3, 1, 1), padding=(1, 0, 0), groups=channels, bias=False)
        set_to_zero(self)

    def forward(self, image: Tensor) -> Tensor:
        return image + super().forward(image)


def _path(widths: list[int], outputs: int, depth: int, halvings: int) -> nn.Sequential:
    """Return 3x3 and 1x1 convolutions of each width, the first `halvings` of stride 2, and one to `outputs`."""
    layers: list[nn.Module] = []
    inputs = 3
    for index, width in enumerate(widths):
        stride = 2 if index < halvings else 1
        layers += [AlongDepth(inputs)] if depth > 1 else []
        layers += [Convolution(inputs, width, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)]
        layers += [instance_norm(width), nn.ReLU(inplace=True)]
        layers += [Convolution(width, width, 1, bias=False), instance_norm(width), nn.ReLU(inplace=True)]
        inputs = width
    return nn.Sequential(*layers, Convolution(inputs, outputs, 1, bias=False))


class Together(nn.Module):
    """Tokens and levels are five levels that look at all five, in two layers ("plus").

    Args:
        width, heads: of tokens.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DeformableLayer(width, heads, LEVELS + 1) for _ in range(2))

    def forward(self, tokens: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, h, w, E) tokens and (N, LEVELS, h, w, E) levels to what they become."""
        joined = torch.cat((tokens.unsqueeze(1), levels), dim=1)
        for layer in self.layers:
            joined = layer(joined, joined)
        return joined[:, 0], joined[:, 1:]


class InTurn(nn.Module):
    """After a convolution tokens look at the levels, and the levels at what the tokens were (the paper's).

    Args:
        width, heads: of tokens.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.around = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        squeeze, excite = (nn.Linear(*sizes, bias=False) for sizes in ((width, width // 4), (width // 4, width)))
        self.channels = nn.Sequential(squeeze, nn.ReLU(), excite, nn.Sigmoid())
        self.out = nn.Linear(width, width, bias=False)
        set_to_zero(self.out)
        self.of_tokens, self.of_levels = DeformableLayer(width, heads, LEVELS), DeformableLayer(width, heads, 1)

    def forward(self, tokens: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, h, w, E) tokens and (N, LEVELS, h, w, E) levels to what they become."""
        around = F.gelu(self.around(self.norm(tokens).permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        tokens = (tokens + self.out(around * self.channels(around.mean((1, 2), keepdim=True)))).unsqueeze(1)
        return self.of_tokens(tokens, levels)[:, 0], self.of_levels(levels, tokens)


class Fusion(nn.Module):
    """y = what is mixed of V and the levels; y <- y + MLP(LN y); V + s (LN y - V), s = 0 at first.

    Args:
        width: E.
        mix: takes (N, h, w, E) tokens and (N, LEVELS, h, w, E) levels to (N, h, w, E).
    """

    def __init__(self, width: int, mix: nn.Module) -> None:
        super().__init__()
        self.mix, self.opening = mix, nn.Parameter(torch.zeros(width))
        self.mlp_norm, self.last_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, levels: Tensor) -> Tensor:
        """Take what `mix` takes and give what it gives."""
        mixed = self.mix(tokens, levels)
        mixed = self.last_norm(mixed + skip_some(self.mlp(self.mlp_norm(mixed)), self.training))
        return tokens + self.opening * (mixed - tokens)


class SoftmaxMix(nn.Module):
    """A share of tokens and of every level at each place and channel; the five add up to one ("plus")."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList(_gate(width) for _ in range(LEVELS + 1))

    def shares(self, tokens: Tensor, levels: Tensor) -> Tensor:
        """Return the (N, 1 + LEVELS, h, w, E) shares, the tokens' first."""
        sources = (tokens, *levels.unbind(1))
        return torch.stack([gate(source) for gate, source in zip(self.gates, sources, strict=True)], 1).softmax(1)

    def forward(self, tokens: Tensor, levels: Tensor) -> Tensor:
        return (self.shares(tokens, levels) * torch.cat((tokens.unsqueeze(1), levels), dim=1)).sum(1)


class SigmoidMix(nn.Module):
    """m F + (1 - m) V, F a linear map of the levels, m from F at each place and from the mean token (the paper's)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.joined, self.norm = nn.Linear(LEVELS * width, width), nn.LayerNorm(width)
        self.place, self.gate = nn.Linear(width, 1), _gate(width)

    def forward(self, tokens: Tensor, levels: Tensor) -> Tensor:
        joined = self.joined(levels.movedim(1, 3).flatten(3))
        share = (self.place(self.norm(joined)) + self.gate(tokens.mean((1, 2), keepdim=True))).sigmoid()
        return share * joined + (1 - share) * tokens


def _gate(width: int) -> nn.Sequential:
    """Return a bottleneck to logits of every channel, 64 wide for ViT-B."""
    hidden = width // 12
    down, up = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)
    return nn.Sequential(down, nn.SiLU(), nn.LayerNorm(hidden), up)
