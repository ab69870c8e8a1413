"""Scenes as training samples: every one is used once, and depends on nothing but the seed and its number."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from samunet.core.geometry import Shape
from samunet.data.loader import Sample, SampleSource
from samunet.phantom.scenes import Scene, make_scene

TARGET, REFERENCE, FAMILY = 1, 2, 3
"""Values of a sample's label: what is to be segmented, another object of its family, and the family's others."""
LEAST_VOXELS, LARGEST_SHARE = 16, 0.5  # of an object that is to be segmented
LEAST_CONTRAST = 0.15  # between an object and what is around it, in the image's standard deviations
NUMBERS = 1 << 20  # samples of a seed before the next draws of scenes without an object begin


@dataclass(frozen=True, kw_only=True)
class SceneSource(SampleSource):
    """Scenes, each with one object that is to be segmented."""

    shape: Shape
    """(D, H, W) voxels; D = 1 for slices."""
    batch_size: int
    seed: int

    def __getitem__(self, number: int) -> Sample:
        """Return image (1, D, H, W) float32 of mean 0 and deviation 1, and label (D, H, W) int16."""
        rng = np.random.default_rng([self.seed, number, 1])
        for index in itertools.count(number, NUMBERS):
            scene = make_scene(self.seed, index, self.shape)
            label = choose_object(scene, rng)
            if label is not None:
                break
        weights = rng.dirichlet(np.ones(len(scene.image))).astype(np.float32)
        image = np.tensordot(weights, scene.image, 1)  # colors become one gray, as one channel sees them
        image = (image - image.mean()) / (image.std() + np.float32(1e-6))
        return torch.from_numpy(image[None]), torch.from_numpy(label)


def choose_object(scene: Scene, rng: np.random.Generator) -> np.ndarray | None:
    """Choose an object of a scene, and mark it and its family as (D, H, W) int16; None where none is fit.

    Large objects come oftener than their number, with the root of their voxels, and what differs from its surroundings
    before what does not.
    """
    masks = {number: scene.mask(number) for number in range(1, len(scene.parents) + 1)}
    sizes = {number: int(np.count_nonzero(mask)) for number, mask in masks.items()}
    fit = [number for number, size in sizes.items() if LEAST_VOXELS <= size <= LARGEST_SHARE * scene.parts.size]
    if not fit:
        return None
    weights = np.sqrt([sizes[number] for number in fit])
    drawn = [int(number) for number in rng.choice(fit, len(fit), replace=False, p=weights / weights.sum())]
    target = next((number for number in drawn if _visible(scene.image, masks[number])), drawn[0])
    family = scene.families[target - 1]
    others = [
        number
        for number in fit
        if number != target and scene.families[number - 1] == family and not (masks[number] & masks[target]).any()
    ]
    label = np.zeros(scene.parts.shape, np.int16)
    for number in others:
        label[masks[number]] = FAMILY
    if others:
        label[masks[int(rng.choice(others))]] = REFERENCE
    label[masks[target]] = TARGET
    return label


def _visible(image: np.ndarray, mask: np.ndarray) -> bool:
    """Whether an object of a (C, D, H, W) image is brighter or darker than a rim of two pixels around it."""
    near = ndimage.binary_dilation(mask, np.ones((1, 3, 3), bool), 2) & ~mask
    return bool(near.any() and (np.abs(image[:, mask].mean(1) - image[:, near].mean(1)) > LEAST_CONTRAST).any())
