"""The gradient of a convolution's weights in bf16 is that in fp32, whatever freed memory holds."""

from __future__ import annotations

import pytest
import torch

from samunet.models.convolution import Convolution


def leave_behind(value: float) -> None:
    """Fill and free memory of several sizes, for whoever reads what nobody wrote."""
    held = [torch.full((count,), value) for count in (10_000, 100_000, 1_000_000)]
    del held


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 1, 1), (1, 3, 3)])
def test_gradients_in_bf16_are_those_in_fp32(depth, kernel):
    torch.manual_seed(0)
    convolution, image = Convolution(48, 48, kernel, padding=tuple(size // 2 for size in kernel)), torch.randn(2, 48, depth, 14, 10)
    convolution(image).square().sum().backward()
    expected = convolution.weight.grad
    for _ in range(6):
        convolution.weight.grad = None
        leave_behind(float("nan"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = convolution(image)
        leave_behind(float("nan"))
        result.float().square().sum().backward()
        assert (convolution.weight.grad - expected).abs().max() < 0.03 * expected.abs().max()
