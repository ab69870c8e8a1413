"""Bring the intensities of each channel to a common scale (nnU-Net's schemes)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from samunet.core.plan import ChannelPlan
from samunet.core.units import counted
from samunet.errors import ConfigError, DatasetError, ShapeError, did_you_mean

EPSILON = 1e-8  # nnU-Net's smallest divisor
CONSTANT_WITHIN = 1e-6  # of float32, relative; what varies less is taken for constant


def normalize(array: np.ndarray, channels: Sequence[ChannelPlan], mask: np.ndarray) -> np.ndarray:
    """Normalize each channel by its scheme.

    Args:
        array: (C, D, H, W) float32.
        channels: one plan per channel.
        mask: (D, H, W) bool. A channel planned `within_mask` takes its statistics there and is left as it is elsewhere.

    Returns:
        (C, D, H, W) float32, a new array.

    Raises:
        ShapeError: the number of channels or the mask does not fit.
        ConfigError: a scheme is unknown.
        DatasetError: a channel planned as rgb_to_0_1 has values outside 0 to 255.
    """
    if len(channels) != len(array) or mask.shape != array.shape[1:]:
        raise ShapeError(
            f"Normalization of {counted(len(channels), 'planned channel')} needs as many in the image and a mask of "
            f"its grid; got an image of shape {array.shape} and a mask of shape {mask.shape}."
        )
    result = array.astype(np.float32)
    for values, channel in zip(result, channels, strict=True):
        refuse_unknown_scheme(channel)
        scheme = SCHEMES[channel.scheme]
        if not channel.within_mask:
            values[...] = scheme(values, channel)
        elif mask.any():
            values[mask] = scheme(values[mask], channel)
    return result


def refuse_unknown_scheme(channel: ChannelPlan) -> None:
    """Raise ConfigError that names the nearest for a scheme that there is not."""
    if channel.scheme not in SCHEMES:
        raise ConfigError(
            f"Channel '{channel.name}': unknown normalization "
            f"'{channel.scheme}'.{did_you_mean(channel.scheme, SCHEMES)}"
        )


def scheme_for(channel_name: str) -> str:
    """Return the scheme that a channel's name asks for (nnU-Net's table); z-score for every name not in it."""
    return SCHEME_BY_CHANNEL_NAME.get(channel_name.casefold(), "zscore")


def _ct(values: np.ndarray, channel: ChannelPlan) -> np.ndarray:
    statistics = channel.intensities
    clipped = np.clip(values, np.float32(statistics.percentile_00_5), np.float32(statistics.percentile_99_5))
    clipped -= np.float32(statistics.mean)
    clipped /= np.float32(max(statistics.std, EPSILON))
    return clipped


def _zscore(values: np.ndarray, channel: ChannelPlan) -> np.ndarray:
    with np.errstate(over="ignore"):
        centered = values - np.float32(values.mean(dtype=np.float64))
        spread = float(np.sqrt(np.square(centered).mean(dtype=np.float64)))
    if not EPSILON < spread < np.inf:
        exact = values.astype(np.float64) - values.mean(dtype=np.float64)
        if _varies(values, spread := float(exact.std())):
            return (exact / spread).astype(np.float32)
    centered /= np.float32(max(spread, EPSILON))
    return centered


def _varies(values: np.ndarray, spread: float) -> bool:
    """Tell whether values in unusual units differ by more than rounding."""
    return spread > CONSTANT_WITHIN * float(np.abs(values).max())


def _none(values: np.ndarray, channel: ChannelPlan) -> np.ndarray:
    return values.copy()


def _rescale_to_0_1(values: np.ndarray, channel: ChannelPlan) -> np.ndarray:
    with np.errstate(over="ignore"):
        shifted = values - values.min()
    if not EPSILON < shifted.max() < np.inf:
        exact = values.astype(np.float64) - float(values.min())
        if _varies(values, float(exact.max())):
            return (exact / exact.max()).astype(np.float32)
    shifted /= max(shifted.max(), np.float32(EPSILON))
    return shifted


def _rgb_to_0_1(values: np.ndarray, channel: ChannelPlan) -> np.ndarray:
    lowest, highest = float(values.min()), float(values.max())
    if lowest < 0 or highest > 255:
        raise DatasetError(
            f"Channel '{channel.name}' is normalized as RGB and must lie in 0 to 255; got {lowest:g} to {highest:g}. "
            "Save 8-bit images, or give the channel another name in dataset.json, for example zscore."
        )
    return values / np.float32(255)


SCHEMES: dict[str, Callable[[np.ndarray, ChannelPlan], np.ndarray]] = {
    "ct": _ct,
    "zscore": _zscore,
    "none": _none,
    "rescale_to_0_1": _rescale_to_0_1,
    "rgb_to_0_1": _rgb_to_0_1,
}
"""Each maps float32 values of any shape to new ones."""
SCHEME_BY_CHANNEL_NAME = {"nonorm": "none", **{name: name for name in SCHEMES if name != "none"}}
