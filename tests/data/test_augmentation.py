"""Augmented patches: sizes, labels and what must not happen to them (tests/parity compares with nnU-Net)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from samunet.core.preprocessed import OUTSIDE_NONZERO
from samunet.data.augmentation import Augmentation, augment


def augmentation(patch_size, **options) -> Augmentation:
    axes = (0, 1, 2) if patch_size[0] > 1 else (1, 2)
    return Augmentation(**{"patch_size": patch_size, "mirror_axes": axes, "masked_channels": (), **options})


def seeded(seed, function, *arguments):
    np.random.seed(seed)
    torch.manual_seed(seed)
    return function(*arguments)


def sample(made: Augmentation, seed: int, image: np.ndarray, label: np.ndarray):
    return seeded(seed, augment, made.pipeline, image, label, made.masked_channels)


def random_patch(made: Augmentation, values=(0, 1, 2), channels=2):
    random = np.random.default_rng(0)
    coarse = random.choice(values, [-(-n // 4) for n in made.read_size])
    label = np.kron(coarse, np.ones((4, 4, 4), int))[tuple(map(slice, made.read_size))]
    return random.normal(size=(channels, *made.read_size)).astype(np.float32), label


@pytest.mark.parametrize(
    "patch,read",
    [
        ((128, 128, 128), (205, 205, 205)),  # 128 * (cos 30 + sin 30) / 0.85 = 205.7
        ((96, 160, 160), (191, 257, 219)),
        ((64, 192, 192), (178, 308, 233)),
        ((28, 256, 256), (28, 301, 301)),  # depth is left alone; 256 / 0.85 = 301.2
        ((1, 512, 512), (1, 602, 602)),
        ((1, 160, 320), (1, 279, 376)),  # oblong: 160 * cos 15 + 320 * sin 15 = 237.4
    ],
)
def test_more_is_read_than_the_patch_so_that_turning_finds_something(patch, read):
    assert augmentation(patch).read_size == read


@pytest.mark.parametrize(
    "patch,degrees,in_plane",
    [
        ((16, 20, 24), 30, False),
        ((8, 24, 24), 30, False),
        ((7, 24, 24), 180, True),
        ((5, 24, 60), 180, True),
        ((1, 24, 28), 180, True),
        ((1, 24, 48), 15, True),
    ],
)
def test_thin_patches_turn_within_the_plane_only(patch, degrees, in_plane):
    made = augmentation(patch)
    assert made.rotation == pytest.approx(math.radians(degrees)) and made.in_plane_only == in_plane


@pytest.mark.parametrize(
    "patch",
    [
        (16, 20, 24),
        (8, 24, 20),
        (5, 24, 20),
        (4, 24, 20),
        (3, 24, 20),
        (2, 24, 20),
        (3, 8, 9),
        (1, 24, 28),
        (1, 20, 40),
    ],
)
def test_every_kind_of_patch_keeps_its_size_and_types(patch):
    made = augmentation(patch)
    image, label = random_patch(made)
    for seed in range(40):
        new_image, new_label = sample(made, seed, image, label)
        assert new_image.shape == (2, *patch) and new_label.shape == patch
        assert new_image.dtype == torch.float32 and new_label.dtype == torch.int16
        assert torch.isfinite(new_image).all() and set(new_label.unique().tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("patch", [(16, 20, 24), (5, 24, 20), (1, 24, 28)])
def test_label_values_far_apart_do_not_mix_and_the_ignore_label_survives(patch):
    made = augmentation(patch)
    image, label = random_patch(made, values=(0, 3, 40))  # 40 is the ignore label
    turned = 0
    for seed in range(60):
        found = sample(made, seed, image, label)[1]
        assert set(found.unique().tolist()) <= {0, 3, 40} and (found == 40).any() and (found == 3).any()
        turned += not any(torch.equal(found, flipped) for flipped in flips(made, label))
    assert turned > 5  # about 36 % are turned or scaled


def flips(made: Augmentation, label: np.ndarray):
    start = [n // 2 - p // 2 for n, p in zip(made.read_size, made.patch_size, strict=True)]
    middle = torch.from_numpy(
        label[tuple(slice(a, a + p) for a, p in zip(start, made.patch_size, strict=True))].astype(np.int16)
    )
    for number in range(8):
        yield middle.flip([axis for axis in range(3) if number >> axis & 1])


@pytest.mark.parametrize("patch", [(5, 24, 20), (2, 24, 20), (3, 24, 24)])
def test_every_slice_of_a_slab_gets_the_same_in_plane_transform(patch):
    made = augmentation(patch)
    spatial = ComposeTransforms(made.pipeline.transforms[:3])  # to 2D, the spatial transform, back to 3D
    random = np.random.default_rng(0)
    image = torch.from_numpy(
        np.repeat(random.normal(size=(2, 1, *made.read_size[1:])), patch[0], axis=1).astype(np.float32)
    )
    label = torch.from_numpy(
        np.repeat(random.integers(0, 3, (1, 1, *made.read_size[1:])), patch[0], axis=1).astype(np.int16)
    )
    start = [n // 2 - p // 2 for n, p in zip(made.read_size, patch, strict=True)]
    middle = image[:, :, start[1] : start[1] + patch[1], start[2] : start[2] + patch[2]]
    turned = 0
    for seed in range(30):
        done = seeded(seed, lambda: spatial(image=image.clone(), segmentation=label.clone()))
        for array in (done["image"], done["segmentation"]):
            assert array.shape[1:] == patch
            torch.testing.assert_close(array, array[:, :1].expand_as(array), rtol=0, atol=0)
        turned += not torch.equal(done["image"], middle)
    assert 3 < turned < 25


def test_depth_is_left_in_order_in_a_slab_and_not_in_a_cube():
    for patch, mixes in (((5, 24, 20), False), ((16, 20, 24), True)):
        made = augmentation(patch, mirror_axes=())
        depth = np.broadcast_to(np.arange(1.0, made.read_size[0] + 1)[:, None, None], made.read_size).astype(np.int64)
        image = np.zeros((1, *made.read_size), np.float32)
        mixed = [
            len(set(row.unique().tolist()) - {0}) > 1
            for seed in range(30)
            for row in sample(made, seed, image, depth)[1]
        ]
        assert any(mixed) == mixes


@pytest.mark.parametrize(
    "patch,axes,inner",
    [
        ((16, 20, 24), (0, 2), (0, 2)),
        ((1, 24, 28), (1, 2), (0, 1)),
        ((1, 24, 28), (2,), (1,)),
        ((1, 24, 28), (0, 1, 2), (0, 1)),
        ((5, 24, 20), (1,), (1,)),
    ],
)
def test_only_the_given_axes_are_mirrored(patch, axes, inner):
    made = augmentation(patch, mirror_axes=axes)
    (mirror,) = (step for step in made.pipeline.transforms if isinstance(step, MirrorTransform))
    assert tuple(mirror.allowed_axes) == inner
    image, label = random_patch(made)
    seen = set()
    for seed in range(60):
        found = sample(made, seed, image, label)[1]
        seen |= {number for number, flipped in enumerate(flips(made, label)) if torch.equal(found, flipped)}
    possible = {
        number
        for number in range(8)
        if all(axis in axes for axis in range(3) if number >> axis & 1 and patch[axis] > 1)
    }
    assert seen == possible


def test_no_mirror_axes_means_no_mirroring():
    assert not any(
        isinstance(step, MirrorTransform) for step in augmentation((16, 20, 24), mirror_axes=()).pipeline.transforms
    )


@pytest.mark.parametrize("patch", [(16, 20, 24), (5, 24, 20), (1, 24, 28)])
def test_channels_normalized_within_a_mask_stay_zero_outside_it(patch):
    made = augmentation(patch, masked_channels=(1,))
    image, label = np.full((2, *made.read_size), 5.0, np.float32), np.ones(made.read_size, np.int64)
    half = made.read_size[2] // 2
    image[1, ..., half:], label[..., half:] = 1e-3, OUTSIDE_NONZERO  # what splines leave outside the mask
    image[:, :, -8:], label[:, -8:] = 0, 0  # padding around the case
    for seed in range(40):
        new_image, new_label = sample(made, seed, image, label)
        small = (new_image[1] != 0) & (new_image[1].abs() < 0.1)
        assert not small.any() and (new_image[1] == 0).float().mean() > 0.2
        assert (new_image[1][new_label == 1] != 0).all() and set(new_label.unique().tolist()) <= {0, 1}
    assert (new_image[0] != 0).float().mean() > 0.6


def test_inputs_are_not_modified():
    made = augmentation((1, 24, 28), masked_channels=(0,))
    image, label = random_patch(made)
    before = image.copy(), label.copy()
    for seed in range(30):
        sample(made, seed, image, label)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(label, before[1])


def test_equal_seeds_give_equal_samples_in_any_pipeline_and_order():
    one, two = augmentation((5, 24, 20)), augmentation((5, 24, 20))
    image, label = random_patch(one)
    forward = [sample(one, seed, image, label) for seed in range(15)]
    backward = [sample(two, seed, image, label) for seed in reversed(range(15))][::-1]
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(forward, backward, strict=True))
    assert sum(torch.equal(forward[0][0], other[0]) for other in forward) == 1


def test_arrays_with_any_memory_layout_are_taken():
    made = augmentation((5, 24, 20))
    image, label = random_patch(made)
    plain = sample(made, 3, image, label)
    strange = sample(made, 3, image[..., ::-1].copy()[..., ::-1], np.asfortranarray(label))
    assert torch.equal(plain[0], strange[0]) and torch.equal(plain[1], strange[1])
