"""The estimate of what the prompt generator keeps against what autograd keeps."""

from __future__ import annotations

import pytest
import torch

from samunet.variants.masksam.queries import PromptGenerator
from samunet.variants.masksam.rules import STAGES, generator_doublings, generator_values


@pytest.mark.parametrize("scale", [1.0, 2.0, 4.0])
def test_the_generator_keeps_about_as_much_as_estimated(scale):
    depth, height, width, channels = 2, 3, 2, 64
    doublings = generator_doublings(scale)
    generator = PromptGenerator(48, channels, 8, doublings=doublings, kernels=((3, 3, 3),))
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor):
        alive.append(tensor)  # so that no address is taken twice
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    taps = [torch.randn(1, depth, height, width, 48) for _ in range(STAGES)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        generator(taps, torch.randn(1, depth, channels, height, width), (1.0, 1.0))
    weights = {parameter.untyped_storage().data_ptr() for parameter in generator.parameters()}
    values = sum(size for address, size in kept.items() if address not in weights) / 4
    assert 0.5 < generator_values(channels, doublings) * depth * height * width / values < 1.5
