"""Bring a case to the network's grid: transpose, crop to nonzero, normalize, resample (nnU-Net's order)."""

from __future__ import annotations

import numpy as np

from samunet.core.geometry import Geometry, Triple, shape3, triple
from samunet.core.history import SpatialHistory, turned
from samunet.core.plan import Configuration, Plan
from samunet.core.preprocessed import OUTSIDE_NONZERO, PreprocessedCase
from samunet.core.volume import Volume
from samunet.ops.crop import bounding_box, crop, nonzero_mask
from samunet.ops.normalize import normalize
from samunet.ops.resample import resample_image, resample_label, target_shape, thick_axis


def preprocess(volume: Volume, label: np.ndarray | None, plan: Plan, configuration: Configuration) -> PreprocessedCase:
    """Bring one case to the network's grid.

    Args:
        volume: (C, D, H, W) on the file's grid.
        label: (D, H, W) integers on the same grid, or None.

    Returns:
        Image, label and everything export needs to go back.
    """
    axes, flips = plan.axes_of(volume.geometry)
    image = turned(volume.array, axes, flips)
    spacing = spacing_before(volume.geometry, plan, configuration)
    mask = nonzero_mask(image)
    box = bounding_box(mask)
    mask = crop(mask, box)
    # Normalize before resampling: zeros outside the body would bleed into the rim.
    image = normalize(crop(image, box), plan.channels, mask)
    new_spacing = network_spacing(configuration, spacing)
    shape = shape3(image.shape[1:])
    new_shape = target_shape(shape, spacing, new_spacing)
    axis = slice_axis(volume.geometry, spacing, new_spacing)
    if label is not None:
        label = crop(turned(label, axes, flips), box).astype(np.int16)
        if any(channel.within_mask for channel in plan.channels):
            label[(label == 0) & ~mask] = OUTSIDE_NONZERO  # the image cannot tell later: splines ring into the zeros
        label = resample_label(label, new_shape, axis=axis)
    return PreprocessedCase(
        image=np.ascontiguousarray(resample_image(image, new_shape, axis=axis)),
        label=None if label is None else np.ascontiguousarray(label),
        history=SpatialHistory(
            geometry=volume.geometry,
            transpose=axes,
            crop=box,
            shape_after_crop=shape,
            spacing_after_transpose=spacing,
            shape_after_resample=new_shape,
            spacing_after_resample=new_spacing,
            flips=flips,
        ),
    )


def spacing_before(geometry: Geometry, plan: Plan, configuration: Configuration) -> Triple:
    """Return a case's spacing on the network's axes; one that tells none is taken for what the plan resamples to."""
    if not geometry.measured and not plan.in_voxels:
        return configuration.spacing
    spacing = plan.spacing_of(geometry)
    return triple([spacing[axis] for axis in plan.axes_of(geometry)[0]])


def slice_axis(geometry: Geometry, spacing: Triple, new_spacing: Triple) -> int | None:
    """Return the axis whose slices are resampled apart; a 2D image's missing thickness makes no side thick."""
    return 0 if geometry.planar else thick_axis(spacing, new_spacing)


def network_spacing(configuration: Configuration, spacing: Triple) -> Triple:
    """Return the spacing a case is resampled to; 2D configurations leave the slices where they are."""
    if configuration.dimensions == 2:
        return (spacing[0], configuration.spacing[1], configuration.spacing[2])
    return configuration.spacing
