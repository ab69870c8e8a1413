"""3D convolutions whose gradients can be trusted on CPUs, and the block of convolution, norm and activation.

With bf16 on CPUs (oneDNN) the gradient of the weights goes wrong in two places. Where a map of two slices meets a
kernel of depth 3, it reads memory that nothing has written (seen with torch 2.15): now and then it is NaN, and
otherwise it may be anything. Such maps are small. On CPUs with AMX, kernels of depth 1, and deeper ones on a single
slice, write past the end of their memory (seen with torch 2.14 and 2.15), which ends the process; and a single slice of
one channel or three under a deeper kernel gives NaN or anything, without a gradient too. 2D convolutions, which compute
the same, do neither. Three to eight slices of 112 x 80 pixels and more, of few channels, do it under kernels of depth 3
too (seen with torch 2.14); ten or more do not, nor 64 channels. With a stride in the plane, the gradient of the weights
of five slices of 128 x 128 pixels and more of many channels never ends (seen with torch 2.14); that of twelve does.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samunet.core.geometry import Shape

FEW_SLICES, FEW_CHANNELS = 10, 64  # on fewer, deep kernels in bf16 may end the process, or never end


class Convolution(nn.Conv3d):
    """torch's Conv3d for CPUs too: few slices under a kernel of depth 3 in fp32, single slices in 2D."""

    def forward(self, image: Tensor) -> Tensor:
        if _needs_fp32(self, image):
            with torch.autocast("cpu", enabled=False):
                return super().forward(image.float() if image.dtype in (torch.bfloat16, torch.float16) else image)
        if not _slice_by_slice(self, image):
            return super().forward(image)
        padding = cast("tuple[int, ...]", self.padding)[1:]  # never "same" or "valid" here
        kernel = self.weight[:, :, self.kernel_size[0] // 2]  # the rest of it meets padding
        settings = (self.stride[1:], padding, self.dilation[1:], self.groups)
        return _unfold(F.conv2d(_fold(image), kernel, self.bias, *settings), image)


class TransposedConvolution(nn.ConvTranspose3d):
    """torch's ConvTranspose3d without padding; on CPUs kernels of depth 1 are computed slice by slice."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int, int]) -> None:
        super().__init__(inputs, outputs, stride, stride)

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]  # nobody asks for an output size
        if not _slice_by_slice(self, image):
            return super().forward(image)
        return _unfold(F.conv_transpose2d(_fold(image), self.weight[:, :, 0], self.bias, self.stride[1:]), image)


def instance_norm(channels: int) -> nn.GroupNorm:
    """Return instance normalization: one group per channel is the same, and much faster on CPUs."""
    return nn.GroupNorm(channels, channels)


class ConvNormAct(nn.Sequential):
    """Convolution, instance normalization, leaky ReLU (nnU-Net's slope) on (B, C, D, H, W); stride 1 keeps shapes."""

    def __init__(self, inputs: int, outputs: int, kernel: Shape = (3, 3, 3), stride: Shape = (1, 1, 1)) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        super().__init__(
            Convolution(inputs, outputs, kernel, stride, padding),
            instance_norm(outputs),
            nn.LeakyReLU(0.01, inplace=True),
        )


def _needs_fp32(layer: nn.Conv3d, image: Tensor) -> bool:
    """Tell whether torch cannot be trusted with a deep kernel in bf16 on a CPU, and slices meet."""
    if image.device.type != "cpu" or layer.kernel_size[0] != 3:
        return False
    unsafe = max(layer.in_channels, layer.out_channels) < FEW_CHANNELS or layer.stride[-1] > 1
    few = 1 < image.shape[2] < FEW_SLICES
    return image.shape[2] == 2 or (few and unsafe and torch.is_grad_enabled())


def _slice_by_slice(layer: nn.Conv3d | nn.ConvTranspose3d, image: Tensor) -> bool:
    """Tell whether a layer's slices do not meet, and torch cannot be trusted with it: bf16 on a CPU, in the gradient or
    with a deep kernel on a single slice.
    """
    kernel, padding = layer.kernel_size[0], int(layer.padding[0])
    apart = layer.stride[0] == 1 and kernel == 2 * padding + 1 and 1 in (kernel, image.shape[2])
    low = torch.is_autocast_enabled("cpu") or image.dtype == torch.bfloat16
    return image.device.type == "cpu" and apart and low and (torch.is_grad_enabled() or kernel > 1)


def _fold(image: Tensor) -> Tensor:
    """(B, C, D, H, W) to (B * D, C, H, W)."""
    return image.movedim(2, 1).flatten(0, 1)


def _unfold(planes: Tensor, image: Tensor) -> Tensor:
    """(B * D, C, H, W) to (B, C, D, H, W), with B and D of an image."""
    return planes.unflatten(0, (image.shape[0], image.shape[2])).movedim(1, 2)


def set_to_zero(layer: nn.Module) -> None:
    """Let a layer give nothing until it is trained."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
