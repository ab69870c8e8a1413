"""A 3D convolution whose gradient can be trusted on CPUs.

With bf16 on CPUs (oneDNN) the gradient of the weights goes wrong in two places. Where a map of two slices meets a kernel of depth 3, it
reads memory that nothing has written (seen with torch 2.15): now and then it is NaN, and otherwise it may be anything. Such maps are small.
And on CPUs with AMX, kernels of depth 1 write past the end of their memory (seen with torch 2.14), which ends the process; 2D convolutions,
which compute the same, do not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Convolution(nn.Conv3d):
    """torch's Conv3d; on CPUs two slices under a kernel of depth 3 are computed in fp32, and kernels of depth 1 slice by slice."""

    def forward(self, image: Tensor) -> Tensor:
        if image.device.type != "cpu":
            return super().forward(image)
        if image.shape[2] == 2 and self.kernel_size[0] == 3:
            with torch.autocast("cpu", enabled=False):
                return super().forward(image.float() if image.dtype in (torch.bfloat16, torch.float16) else image)
        flat = self.kernel_size[0] == self.stride[0] == 1 and not self.padding[0]
        if not (flat and torch.is_grad_enabled() and (torch.is_autocast_enabled("cpu") or image.dtype == torch.bfloat16)):
            return super().forward(image)
        planes = image.movedim(2, 1)
        settings = (self.stride[1:], self.padding[1:], self.dilation[1:], self.groups)
        return F.conv2d(planes.flatten(0, 1), self.weight[:, :, 0], self.bias, *settings).unflatten(0, planes.shape[:2]).movedim(1, 2)
