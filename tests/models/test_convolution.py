"""The gradient of a convolution's weights in bf16 is that in fp32, whatever freed memory holds."""

from __future__ import annotations

import pytest
import torch

from samunet.models.convolution import Convolution, TransposedConvolution


def leave_behind(value: float) -> None:
    """Fill and free memory of several sizes, for whoever reads what nobody wrote."""
    held = [torch.full((count,), value) for count in (10_000, 100_000, 1_000_000)]
    del held


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 1, 1), (1, 3, 3)])
def test_gradients_in_bf16_are_those_in_fp32(depth, kernel):
    torch.manual_seed(0)
    convolution, image = (
        Convolution(48, 48, kernel, padding=tuple(size // 2 for size in kernel)),
        torch.randn(2, 48, depth, 14, 10),
    )
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


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3])
def test_a_single_slice_in_bf16_is_that_in_fp32(channels):
    torch.manual_seed(0)
    convolution, image = Convolution(channels, 8, 3, padding=1), torch.randn(8, channels, 1, 14, 10)
    expected = convolution(image)
    for _ in range(3):
        leave_behind(float("nan"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (convolution(image).float() - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize("kernel", [(1, 3, 3), (1, 1, 1)])
@pytest.mark.parametrize(("channels", "outputs", "stride"), [(1, 24, 1), (48, 24, 1), (24, 3, 1), (24, 48, 2)])
def test_kernels_of_one_slice_stay_within_their_memory(kernel, channels, outputs, stride):
    # on CPUs with AMX torch's own ends the process here
    torch.manual_seed(0)
    padding = tuple(size // 2 for size in kernel)
    ours, theirs = (
        kind(channels, outputs, kernel, (1, stride, stride), padding) for kind in (Convolution, torch.nn.Conv3d)
    )
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, channels, 4, 64, 64)
    expected = theirs(image)
    expected.square().mean().backward()
    for _ in range(3):
        ours.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = ours(image)
        result.float().square().mean().backward()
        assert result.shape == expected.shape and torch.allclose(
            result.float(), expected, atol=0.03 * expected.abs().max().item()
        )
        assert (ours.weight.grad - theirs.weight.grad).abs().max() < 0.03 * theirs.weight.grad.abs().max()


def test_transposed_kernels_of_one_slice_stay_within_their_memory_too():
    torch.manual_seed(0)
    ours, theirs = TransposedConvolution(48, 24, (1, 2, 2)), torch.nn.ConvTranspose3d(48, 24, (1, 2, 2), (1, 2, 2))
    theirs.load_state_dict(ours.state_dict())
    for depth, side in ((1, 128), (4, 32)):
        image = torch.randn(2, 48, depth, side, side)
        expected = theirs(image)
        theirs.zero_grad()
        expected.square().mean().backward()
        ours.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = ours(image)
        result.float().square().mean().backward()
        assert result.shape == expected.shape and torch.allclose(
            result.float(), expected, atol=0.03 * expected.abs().max().item()
        )
        assert (ours.weight.grad - theirs.weight.grad).abs().max() < 0.03 * theirs.weight.grad.abs().max()


@pytest.mark.parametrize("depth", [3, 8])
def test_few_slices_under_a_deep_kernel_stay_within_their_memory(depth):
    # on CPUs with AMX torch's own ends the process here
    ours, theirs = (kind(8, 3, 3, padding=1) for kind in (Convolution, torch.nn.Conv3d))
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 8, depth, 112, 80)
    theirs(image).square().mean().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours(image).float().square().mean().backward()
    assert (ours.weight.grad - theirs.weight.grad).abs().max() < 0.03 * theirs.weight.grad.abs().max()


@pytest.mark.parametrize("depth", [3, 5])
def test_the_gradient_of_few_slices_under_a_strided_kernel_ends(depth):
    # on CPUs with AMX torch's own does not
    torch.manual_seed(0)
    ours, theirs = (kind(96, 192, 3, (1, 2, 2), 1) for kind in (Convolution, torch.nn.Conv3d))
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 96, depth, 128, 128)
    theirs(image).square().mean().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = ours(image)
    assert result.dtype == torch.float32  # before a backward pass that otherwise has no end
    result.square().mean().backward()
    assert (ours.weight.grad - theirs.weight.grad).abs().max() < 1e-5 * theirs.weight.grad.abs().max()
