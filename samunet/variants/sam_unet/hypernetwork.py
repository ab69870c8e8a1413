"""Tokens turned into weights over features, as SAM's decoder reads its masks, for features that others made.

Source: Kirillov et al., Segment Anything, 2023 (hypernetworks). SAM reads masks from an upsampling that learns together
with them. Features of a U-Net are there before, and those of a pretrained one differ little from place to place beside
what all places share. Adam moves every weight of a layer by the rate, however many there are; a fresh hypernetwork over
such features would soon give one class every place. So weights are divided by the root of the last layer's inputs, and
read features that are normalized in each place (measured: documentation/results/seed.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samunet.models.convolution import set_to_zero

EPSILON = 1e-5  # as of layer norms


class Hypernetwork(nn.Sequential):
    """Linear layers with ReLU between that turn (..., C) tokens into (..., F) weights, zeros until it is trained.

    Args:
        width: C.
        features: F.
        hidden: layers before the last.
    """

    def __init__(self, width: int, features: int, hidden: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(hidden):
            layers += [nn.Linear(width, width), nn.ReLU()]
        super().__init__(*layers, nn.Linear(width, features))
        set_to_zero(self[-1])
        self.share = width**-0.5

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self:
            tokens = layer(tokens)
        return self.share * tokens


def read_normalized(equation: str, weights: Tensor, features: Tensor) -> Tensor:
    """Contract weights with features after a layer norm of these over their channels, which is not computed.

    Args:
        equation: of torch.einsum, whose result has one axis in the place of the channels.
        weights: (..., F).
        features: (N, F, ...).
    """
    centered = weights - weights.mean(-1, keepdim=True)  # the same as to center the features
    spread = features.var(1, keepdim=True, correction=0) + EPSILON
    return torch.einsum(equation, centered, features) * spread.rsqrt()
