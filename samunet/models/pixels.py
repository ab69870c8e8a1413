"""From a normalized medical image to pixels that SAM's patch embedding knows.

Axes: (B, C, D, H, W) images, (B, D, 3, H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samunet.errors import ConfigError
from samunet.models.convolution import Convolution
from samunet.sam.backbones import PIXEL_MEAN, PIXEL_STD

PIXEL_RANGES = ("sam", "unit")
FLAT = 1e-8  # a slab without contrast stays at zero
UNIT_RANGE_SCHEMES = ("rgb_to_0_1", "rescale_to_0_1")


class SAMPixels(nn.Module):
    """Bring channels to three, intensities to SAM's statistics and planes to the encoder's size.

    One channel is repeated, three stay as they are, any other number goes through a learned 1x1 map that starts as
    the mean. Z-scored and CT-normalized channels already have SAM's zero mean and unit variance; channels in [0, 1]
    are standardized with SAM's pixel statistics.

    Args:
        schemes: normalization scheme of each input channel.
        scale: encoder pixels per voxel in the plane.
        encoder_size: (H, W) pixels; planes are zero-padded at the bottom and right to it, as SAM pads.
        pixel_range: "sam" as above; "unit" stretches every slab and channel to [0, 1] instead, as MA-SAM and SAMed
            were trained.

    Raises:
        ConfigError: `pixel_range` is neither.
    """

    shift: Tensor
    factor: Tensor

    def __init__(
        self, schemes: Sequence[str], scale: float, encoder_size: tuple[int, int], pixel_range: str = "sam"
    ) -> None:
        super().__init__()
        if pixel_range not in PIXEL_RANGES:
            raise ConfigError(f"pixel_range must be one of {', '.join(PIXEL_RANGES)}; got '{pixel_range}'.")
        self.scale, self.encoder_size, self.pixel_range = scale, encoder_size, pixel_range
        channels = len(schemes)
        self.mix = None if channels in (1, 3) else Convolution(channels, 3, 1, bias=False)
        if self.mix is not None:
            nn.init.constant_(self.mix.weight, 1 / channels)
        unit = torch.tensor([scheme in UNIT_RANGE_SCHEMES for scheme in schemes])
        gray = channels != 3
        mean = torch.full((channels,), sum(PIXEL_MEAN) / 3) if gray else torch.tensor(PIXEL_MEAN)
        std = torch.full((channels,), sum(PIXEL_STD) / 3) if gray else torch.tensor(PIXEL_STD)
        self.register_buffer("shift", torch.where(unit, mean / 255, 0.0).view(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("factor", torch.where(unit, 255 / std, 1.0).view(1, -1, 1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        if self.pixel_range == "unit":
            lowest, highest = image.amin((2, 3, 4), keepdim=True), image.amax((2, 3, 4), keepdim=True)
            image = (image - lowest) / (highest - lowest).clamp_min(FLAT)
        else:
            image = (image - self.shift) * self.factor
        if self.mix is not None:
            image = self.mix(image)
        elif image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1, -1)
        planes = image.movedim(1, 2).flatten(0, 1)
        if self.scale != 1:
            size = [round(side * self.scale) for side in planes.shape[2:]]
            planes = F.interpolate(planes, size=size, mode="bilinear", align_corners=False)
        missing = [want - have for want, have in zip(self.encoder_size, planes.shape[2:], strict=True)]
        return F.pad(planes, (0, missing[1], 0, missing[0])).unflatten(0, (image.shape[0], image.shape[2]))
