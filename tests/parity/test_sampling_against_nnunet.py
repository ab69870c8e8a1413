"""Patch sizes, sampling shares and the augmentation are nnU-Net's (nnunetv2 2.8.1 as the oracle)."""

from __future__ import annotations

import types
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samunet.core.preprocessed import OUTSIDE_NONZERO
from samunet.data.augmentation import Augmentation, augment
from samunet.data.loader import FOREGROUND_SHARE

pytest.importorskip("nnunetv2")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # imports of nnU-Net's dependencies warn about their own deprecations
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def nnunets(patch_size):
    """Rotation, whether depth is left out, enlarged patch and mirror axes, as nnU-Net's trainer decides them; 2D
    patches have D = 1.
    """
    patch = list(patch_size if patch_size[0] > 1 else patch_size[1:])
    trainer = types.SimpleNamespace(
        configuration_manager=types.SimpleNamespace(patch_size=patch), print_to_log_file=lambda *_: None
    )
    return nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(trainer)


def augmentation(patch_size, **options):
    return Augmentation(
        **{
            "patch_size": patch_size,
            "mirror_axes": (0, 1, 2) if patch_size[0] > 1 else (1, 2),
            "masked_channels": (),
            **options,
        }
    )


def assert_equal_sizes(patch_size):
    rotation, in_plane, size, _ = nnunets(patch_size)
    ours = augmentation(patch_size)
    assert ours.read_size == (tuple(size) if patch_size[0] > 1 else (1, *size))
    assert ours.rotation == pytest.approx(rotation[1])
    if patch_size[0] > 1:
        assert ours.in_plane_only == in_plane


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.tuples(*[st.integers(2, 320)] * 3))
def test_3d_patches_are_enlarged_as_nnunet_does(patch_size):
    assert_equal_sizes(patch_size)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.tuples(st.just(1), *[st.integers(8, 1024)] * 2))
def test_2d_patches_are_enlarged_as_nnunet_does(patch_size):
    assert_equal_sizes(patch_size)


def test_the_enlarged_cube_is_get_patch_sizes():
    angle = (-np.pi / 6, np.pi / 6)
    assert (
        augmentation((128, 128, 128)).read_size
        == tuple(get_patch_size((128, 128, 128), angle, angle, angle, (0.85, 1.25)))
        == (205, 205, 205)
    )


@pytest.mark.parametrize("batch_size", range(1, 21))
def test_the_same_samples_of_a_batch_are_forced_to_foreground(batch_size):
    loader = types.SimpleNamespace(batch_size=batch_size, oversample_foreground_percent=nnunets_share())
    theirs = [nnUNetDataLoader._oversample_last_XX_percent(loader, item) for item in range(batch_size)]
    assert [item >= round(batch_size * (1 - FOREGROUND_SHARE)) for item in range(batch_size)] == theirs


def nnunets_share() -> float:
    import inspect
    import re

    return float(
        re.search(r"self\.oversample_foreground_percent = ([0-9.]+)", inspect.getsource(nnUNetTrainer.__init__))[1]
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("patch_size", [(16, 20, 24), (5, 24, 20), (1, 24, 28)], ids=["3D", "slab", "2D"])
def test_one_seed_gives_nnunets_sample(patch_size, masked):
    rotation, in_plane, _, mirror = nnunets(patch_size)
    planar = patch_size[0] == 1
    mask = [masked, False]
    theirs = nnUNetTrainer.get_training_transforms(
        patch_size[planar:],
        rotation,
        None,
        mirror,
        in_plane,
        use_mask_for_norm=mask,
        foreground_labels=[1, 2],
        regions=None,
        ignore_label=None,
    )
    for transform in theirs.transforms:
        if hasattr(inner := getattr(transform, "transform", None), "benchmark"):
            inner.benchmark = False  # else a stopwatch decides between two ways to blur
    ours = augmentation(patch_size, masked_channels=(0,) if masked else ())
    assert ours.read_size[planar:] == tuple(nnunets(patch_size)[2])
    random = np.random.default_rng(0)
    image = random.normal(size=(2, *ours.read_size)).astype(np.float32)
    label = np.kron(random.integers(0, 3, [-(-n // 4) for n in ours.read_size]), np.ones((4, 4, 4), int))[
        tuple(map(slice, ours.read_size))
    ]
    if masked:
        label[..., :9] = OUTSIDE_NONZERO
    middle = (
        slice(None),
        *[slice(n // 2 - p // 2, n // 2 - p // 2 + p) for n, p in zip(ours.read_size, patch_size, strict=True)],
    )
    changed = 0
    for seed in range(40):
        for generator in (np.random.seed, torch.manual_seed):
            generator(seed)
        image_ours, label_ours = augment(ours.pipeline, image, label, ours.masked_channels)
        for generator in (np.random.seed, torch.manual_seed):
            generator(seed)
        given_image, given_label = torch.from_numpy(image.copy()), torch.from_numpy(label.astype(np.int16))[None]
        expected = theirs(
            image=given_image.squeeze(1) if planar else given_image,
            segmentation=given_label.squeeze(1) if planar else given_label,
        )
        torch.testing.assert_close(
            image_ours.squeeze(1) if planar else image_ours, expected["image"].float(), rtol=1e-4, atol=1e-4
        )
        assert torch.equal(label_ours.squeeze(0) if planar else label_ours, expected["segmentation"][0].to(torch.int16))
        changed += not torch.equal(image_ours, torch.from_numpy(image[middle]))
    assert changed > 30
