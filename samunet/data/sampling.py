"""Where patches are cut: a share of them around foreground.

Source: nnU-Net's sampling, with foreground voxels at a random place in the middle of the patch instead of its exact
center.
"""

from __future__ import annotations

import numpy as np

from samunet.core.geometry import Shape, shape3
from samunet.data.dataset import PreprocessedDataset

JITTER = 0.25  # a chosen voxel lies within this share of the patch from its center


def choose_patch(
    dataset: PreprocessedDataset,
    patch_size: Shape,
    read_size: Shape,
    random: np.random.Generator,
    *,
    foreground: bool,
    balanced: bool = False,
) -> tuple[str, Shape]:
    """Choose a case and the first voxel to read.

    Args:
        patch_size: (D, H, W) the network will see.
        read_size: (D, H, W) to read, at least the patch, so that rotations find something at the corners.
        foreground: place the patch so that a random voxel of a random class of the case lies in it. Other patches lie
            anywhere, or around a random annotated voxel where the dataset has an ignore label.
        balanced: choose the class of a foreground patch first and then a case that holds it, so that classes of few
            cases are seen as often as the others.

    Returns:
        Case identifier and (D, H, W) start, which may be negative.
    """
    class_index = None
    if foreground and balanced and any(dataset.holders):
        held = [index for index, cases in enumerate(dataset.holders) if cases]
        class_index = held[random.integers(len(held))]
    among = dataset.identifiers if class_index is None else dataset.holders[class_index]
    identifier = among[random.integers(len(among))]
    shape = dataset.shape(identifier)
    locations = dataset.locations(identifier)
    candidates = locations.classes if class_index is None else locations.classes[class_index : class_index + 1]
    present = [voxels for voxels in candidates if len(voxels)] if foreground else []
    if not present and locations.annotated is not None and len(locations.annotated):
        present = [locations.annotated]
    if present:
        voxels = present[random.integers(len(present))]
        voxel = voxels[random.integers(len(voxels))]
        shift = random.uniform(-JITTER, JITTER, 3) * np.array(patch_size)
        center = np.round(voxel + shift).astype(int)
        start = [_place(int(c), patch, size) for c, patch, size in zip(center, patch_size, shape, strict=True)]
    else:
        first = random.integers(np.maximum(np.array(shape) - patch_size, 0) + 1)
        start = [
            _place(int(f) + patch // 2, patch, size) for f, patch, size in zip(first, patch_size, shape, strict=True)
        ]
    # The augmentation crops around read // 2.
    margin = [read // 2 - patch // 2 for read, patch in zip(read_size, patch_size, strict=True)]
    return identifier, shape3([a - m for a, m in zip(start, margin, strict=True)])


def _place(center: int, patch: int, size: int) -> int:
    """Place a patch around `center` inside the image; an image smaller than the patch lies in its middle."""
    if size <= patch:
        return -((patch - size) // 2)
    return min(max(center - patch // 2, 0), size - patch)
