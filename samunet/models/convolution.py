"""A 3D convolution whose gradient can be trusted on CPUs.

With bf16 on CPUs (oneDNN; seen with torch 2.15) the gradient of the weights reads memory that nothing has written where a map of
two slices meets a kernel of depth 3: now and then it is NaN, and otherwise it may be anything. Such maps are small.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Convolution(nn.Conv3d):
    """torch's Conv3d; on CPUs two slices under a kernel of depth 3 are computed in fp32, whatever the autocast."""

    def forward(self, image: Tensor) -> Tensor:
        if image.device.type == "cpu" and image.shape[2] == 2 and self.kernel_size[0] == 3:
            with torch.autocast("cpu", enabled=False):
                return super().forward(image.float() if image.dtype in (torch.bfloat16, torch.float16) else image)
        return super().forward(image)
