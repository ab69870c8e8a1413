"""The bottleneck's equation, its start, and what stands in its middle."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from samunet.models.bottleneck import Bottleneck, BottleneckStyle


@torch.no_grad()
@pytest.mark.parametrize(("activation", "function"), [("relu", torch.relu), ("gelu", nn.functional.gelu)])
def test_it_is_its_equation(activation, function):
    torch.manual_seed(0)
    module = Bottleneck(6, 3, BottleneckStyle(activation=activation, start_at_zero=False), nn.Linear(3, 3))
    tokens = torch.randn(2, 5, 6)
    squeezed = module.middle(function(tokens @ module.down.weight.T + module.down.bias))
    assert torch.allclose(module(tokens), squeezed @ module.up.weight.T + module.up.bias, atol=1e-6)


def test_it_starts_at_zero_and_learns_from_there():
    module = Bottleneck(6, 3, BottleneckStyle())
    tokens = torch.randn(2, 6)
    assert not module(tokens).any()
    module(tokens).square().sum().backward()
    (module(tokens) - 1).square().sum().backward()
    assert module.up.weight.grad.any() and not module.down.weight.grad.any()
