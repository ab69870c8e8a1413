"""How much memory a case takes until it is on the network's grid, from what its headers tell."""

from __future__ import annotations

import math

from samunet.core.geometry import NO_FLIPS, Geometry, Shape
from samunet.core.plan import Configuration, Plan
from samunet.imageio.case import CaseSize
from samunet.imageio.reader import FLOAT_BYTES
from samunet.ops.resample import target_shape
from samunet.preprocessing.forward import network_spacing, spacing_before

STORED = 24  # bytes per voxel: a label of 16 bits with its copies, places of classes; benchmarks/prediction_memory.py


def network_shape(geometry: Geometry, plan: Plan, configuration: Configuration) -> Shape:
    """Return the (D, H, W) voxels of a case on the network's grid when nothing is cropped away."""
    axes, _ = plan.axes_of(geometry)
    depth, height, width = (geometry.shape[axis] for axis in axes)
    spacing = spacing_before(geometry, plan, configuration)
    return target_shape((depth, height, width), spacing, network_spacing(configuration, spacing))


def preprocessing_bytes(size: CaseSize, plan: Plan, configuration: Configuration) -> int:
    """Return what reading and `preprocess` take at most for a case without a label.

    The image is in memory as it was read and normalized, beside it two or three arrays of the channel that is worked
    on, or the image on the network's grid; filling the holes of the mask of what is not zero takes some bytes per
    voxel.
    """
    channels, voxels = len(plan.channels), math.prod(size.geometry.shape)
    new_voxels = math.prod(network_shape(size.geometry, plan, configuration))
    image, new_image = channels * voxels * FLOAT_BYTES, channels * new_voxels * FLOAT_BYTES
    within_mask = any(channel.within_mask for channel in plan.channels)
    filling = image + 8 * voxels
    normalizing = 2 * image + 2 * voxels + (3 if within_mask else 2) * voxels * FLOAT_BYTES
    resampling = 2 * image + voxels + new_image + 3 * max(voxels, new_voxels) * FLOAT_BYTES
    unchanged = 2 * image + voxels + (0 if plan.axes_of(size.geometry) == ((0, 1, 2), NO_FLIPS) else new_image)
    return max(size.reading, filling, normalizing, resampling if new_voxels != voxels else unchanged)


def storing_bytes(size: CaseSize, plan: Plan, configuration: Configuration) -> int:
    """Return what preprocessing and storing a training case take at most."""
    voxels, new_voxels = math.prod(size.geometry.shape), math.prod(network_shape(size.geometry, plan, configuration))
    # The image, packed, and as the bytes of its file.
    storing = 3 * len(plan.channels) * new_voxels * FLOAT_BYTES + STORED * new_voxels
    return max(preprocessing_bytes(size, plan, configuration) + 8 * (voxels + new_voxels), storing)
