"""Array operations give nnU-Net's numbers (nnunetv2 2.8.1 as the oracle)."""

import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from samunet.core.fingerprint import IntensityStatistics
from samunet.core.plan import ChannelPlan
from samunet.ops.crop import bounding_box, crop, nonzero_mask
from samunet.ops.normalize import SCHEMES, normalize, scheme_for
from samunet.ops.resample import resample_image, resample_label, target_shape, thick_axis
from samunet.ops.tiling import gaussian_importance, tile_starts

pytest.importorskip("nnunetv2")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # imports of nnU-Net's dependencies warn about their own deprecations
    import torch
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
    from nnunetv2.preprocessing.normalization import default_normalization_schemes as theirs
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
    from nnunetv2.preprocessing.resampling.default_resampling import (
        compute_new_shape,
        determine_do_sep_z_and_axis,
        resample_data_or_seg_to_shape,
    )

STATISTICS = {"mean": 40.0, "median": 41.0, "std": 20.0, "percentile_00_5": -60.0, "percentile_99_5": 200.0}
CLASSES = {
    "ct": theirs.CTNormalization,
    "zscore": theirs.ZScoreNormalization,
    "none": theirs.NoNormalization,
    "rescale_to_0_1": theirs.RescaleTo01Normalization,
    "rgb_to_0_1": theirs.RGBTo01Normalization,
}
# (shape, spacing, new spacing) that meet every branch: all directions, thick slices on each axis, a tie, one slice
GRIDS = [
    ((12, 20, 24), (1.5, 1.0, 1.2), (1.0, 1.3, 0.9)),
    ((9, 24, 20), (5.0, 1.0, 1.0), (2.0, 0.8, 1.3)),
    ((9, 24, 20), (5.0, 1.0, 1.0), (5.0, 0.8, 1.3)),
    ((24, 8, 20), (1.0, 4.0, 1.0), (0.9, 1.5, 1.1)),
    ((20, 24, 8), (1.0, 1.0, 1.0), (0.8, 1.1, 4.0)),
    ((20, 10, 10), (1.0, 4.0, 4.0), (1.5, 2.0, 2.0)),
    ((1, 24, 20), (1.0, 1.0, 1.0), (1.0, 0.7, 1.4)),
    ((12, 16, 20), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0)),
    ((12, 16, 20), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0)),  # every label boundary is a tie
]


def smooth(shape, seed=0):
    return gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0 if min(shape) > 1 else (0, 2, 2))


def blobs(shape):
    values = np.stack([smooth(shape, seed) for seed in range(4)])
    return np.array([0, 1, 2, 5], np.int16)[values.argmax(axis=0)]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("within_mask", [False, True])
def test_normalization_is_nnunets(scheme, within_mask):
    if within_mask and scheme != "zscore":
        pytest.skip("nnU-Net uses the mask for z-scores only")
    image = np.random.default_rng(0).uniform(0, 255, (1, 9, 10, 11)).astype(np.float32)
    mask = np.random.default_rng(1).random((9, 10, 11)) > 0.4
    plan = ChannelPlan(
        name="x",
        scheme=scheme,
        within_mask=within_mask,
        intensities=IntensityStatistics(**STATISTICS, minimum=-90.0, maximum=300.0),
    )
    expected = CLASSES[scheme](within_mask, STATISTICS).run(image[0].copy(), np.where(mask, 0, -1))
    np.testing.assert_allclose(normalize(image, [plan], mask)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["CT", "ct", "noNorm", "zscore", "rescale_to_0_1", "rgb_to_0_1", "T1", "MRI", "none", "R", "cT "]
)
def test_channel_names_choose_nnunets_scheme(name):
    assert CLASSES[scheme_for(name)] is get_normalization_scheme(name)


@pytest.mark.parametrize("shape,spacing,new_spacing", GRIDS)
def test_target_shape_and_thick_axis_are_nnunets(shape, spacing, new_spacing):
    assert target_shape(shape, spacing, new_spacing) == tuple(compute_new_shape(shape, spacing, new_spacing))
    assert thick_axis(spacing, new_spacing) == determine_do_sep_z_and_axis(None, spacing, new_spacing)[1]


def test_thick_axis_is_nnunets_on_random_spacings():
    for spacing, new_spacing in np.random.default_rng(0).choice([0.5, 1.0, 1.2, 2.0, 4.0, 7.0], (500, 2, 3)):
        assert (
            thick_axis(tuple(spacing), tuple(new_spacing)) == determine_do_sep_z_and_axis(None, spacing, new_spacing)[1]
        )


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape,spacing,new_spacing", GRIDS)
def test_image_resampling_is_nnunets(shape, spacing, new_spacing, order):
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    new_shape = target_shape(shape, spacing, new_spacing)
    expected = resample_data_or_seg_to_shape(
        image.copy(), new_shape, spacing, new_spacing, is_seg=False, order=order, order_z=0, force_separate_z=None
    )
    result = resample_image(image, new_shape, axis=thick_axis(spacing, new_spacing), order=order)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


def ties(label: np.ndarray, new_shape, axis) -> np.ndarray:
    """Voxels whose two largest shares are equal but for rounding: there either label is right."""
    shares = np.stack(
        [
            resample_image((label == value)[None].astype(np.float32), new_shape, axis=axis, order=1)[0]
            for value in np.unique(label)
        ]
    )
    second, first = np.sort(shares, axis=0)[-2:] if len(shares) > 1 else (np.zeros(new_shape), np.ones(new_shape))
    return first - second < 1e-5


@pytest.mark.parametrize("shape,spacing,new_spacing", GRIDS)
def test_label_resampling_is_nnunets(shape, spacing, new_spacing):
    label = blobs(shape)
    new_shape = target_shape(shape, spacing, new_spacing)
    expected = resample_data_or_seg_to_shape(
        label[None].copy(), new_shape, spacing, new_spacing, is_seg=True, order=1, order_z=0, force_separate_z=None
    )[0]
    result = resample_label(label, new_shape, axis=thick_axis(spacing, new_spacing))
    assert (result == expected)[~ties(label, new_shape, thick_axis(spacing, new_spacing))].all()
    assert (result == expected).mean() >= 0.995
    assert set(np.unique(result)) <= {0, 1, 2, 5}


@pytest.mark.parametrize("shape", [(12, 20, 24), (1, 20, 24)])
def test_cropping_is_nnunets(shape):
    image = np.stack([smooth(shape, 0), smooth(shape, 1)]).astype(np.float32)
    image[np.abs(image) < 1.2 * image.std()] = 0
    image[..., :3] = 0
    image[..., 2:5, :] = 0
    data, seg, box = crop_to_nonzero(image.copy())
    mask = nonzero_mask(image)
    assert bounding_box(mask) == tuple(tuple(pair) for pair in box)
    np.testing.assert_array_equal(crop(image, bounding_box(mask)), data)
    np.testing.assert_array_equal(crop(mask, bounding_box(mask)), seg[0] >= 0)


def test_tile_starts_are_nnunets():
    for size, tile, step in zip(range(64, 400, 7), [64, 33, 17, 60] * 12, [0.5, 0.3, 0.9, 1.0] * 12, strict=True):
        assert list(tile_starts(size, tile, step)) == compute_steps_for_sliding_window((size,), (tile,), step)[0]


@pytest.mark.parametrize("tile", [(16, 24, 31), (1, 32, 20)])
def test_importance_is_nnunets(tile):
    expected = compute_gaussian(tile, 1 / 8, 1, torch.float32, torch.device("cpu")).numpy()
    np.testing.assert_allclose(gaussian_importance(tile), expected, rtol=1e-5)
