"""A moving average of the weights that train.

Source: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """average = decay * average + (1 - decay) * weight after every step; over the first steps the decay is smaller, (1
    + n) / (10 + n).

    Args:
        model: its trainable parameters are averaged, from what they are now.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.averages: dict[str, Tensor] = {name: weight.detach().clone() for name, weight in self.weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step` (0 for the first)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.averages.values()), [weight.detach() for weight in self.weights.values()], 1 - decay
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model hold the averages for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self.weights.items():
            held = weight.detach().clone()
            weight.copy_(self.averages[name])
            self.averages[name].copy_(held)
