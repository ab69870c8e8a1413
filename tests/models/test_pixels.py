"""What SAM's patch embedding gets: three channels, SAM's statistics, and padding at the bottom and right."""

from __future__ import annotations

import pytest
import torch

from samunet.errors import ConfigError
from samunet.models.pixels import SAMPixels


def test_unit_range_stretches_every_slab():
    pixels = SAMPixels(("ct",), 1.0, (16, 16), "unit")
    image = torch.stack([torch.randn(1, 2, 16, 16), 5 * torch.randn(1, 2, 16, 16), torch.zeros(1, 2, 16, 16)])
    stretched = pixels(image)
    assert stretched.shape == (3, 2, 3, 16, 16)
    assert stretched[:2].amin((1, 2, 3, 4)).tolist() == [0, 0] and stretched[:2].amax((1, 2, 3, 4)).tolist() == [1, 1]
    assert not stretched[2].any()


def test_one_channel_is_repeated_and_three_stay():
    gray, color = torch.randn(1, 1, 2, 16, 16), torch.randn(1, 3, 2, 16, 16)
    assert torch.equal(SAMPixels(("ct",), 1.0, (16, 16))(gray), gray.expand(-1, 3, -1, -1, -1).movedim(1, 2))
    assert torch.equal(SAMPixels(("zscore",) * 3, 1.0, (16, 16))(color), color.movedim(1, 2))


@pytest.mark.parametrize("channels", [2, 5])
def test_other_numbers_of_channels_start_as_their_mean(channels):
    image = torch.randn(1, channels, 2, 16, 16)
    pixels = SAMPixels(("zscore",) * channels, 1.0, (16, 16))(image)
    assert torch.allclose(pixels, image.mean(1, keepdim=True).expand(-1, 3, -1, -1, -1).movedim(1, 2), atol=1e-6)


def test_channels_from_0_to_1_get_the_statistics_of_sams_pretraining():
    """By hand: SAM's red channel has mean 123.675 and deviation 58.395 of 255."""
    pixels = SAMPixels(("rgb_to_0_1",) * 3, 1.0, (16, 16))(torch.ones(1, 3, 1, 16, 16))
    assert pixels[0, 0, 0, 0, 0].item() == pytest.approx((255 - 123.675) / 58.395, rel=1e-5)
    gray = SAMPixels(("rescale_to_0_1",), 1.0, (16, 16))(torch.zeros(1, 1, 1, 16, 16))
    mean, deviation = (123.675 + 116.28 + 103.53) / 3, (58.395 + 57.12 + 57.375) / 3
    assert gray[0, 0, 0, 0, 0].item() == pytest.approx(-mean / deviation, rel=1e-5)


def test_planes_are_padded_with_zeros_at_the_bottom_and_right():
    image = torch.randn(1, 1, 1, 10, 13)
    pixels = SAMPixels(("ct",), 1.0, (16, 16))(image)[0, 0, 0]
    assert torch.equal(pixels[:10, :13], image[0, 0, 0]) and not pixels[10:].any() and not pixels[:, 13:].any()


def test_an_unknown_range_is_refused():
    with pytest.raises(ConfigError, match="pixel_range must be one of sam, unit; got 'byte'"):
        SAMPixels(("ct",), 1.0, (16, 16), "byte")
