"""Resampling and tiling."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from samunet.errors import ShapeError
from samunet.ops.resample import nearest_indices, resample_image, resample_label, target_shape, thick_axis
from samunet.ops.tiling import gaussian_importance, tile_origins, tile_starts

SHAPES = st.tuples(*[st.integers(1, 7)] * 3)
AXES = st.sampled_from([None, 0, 1, 2])


def test_shape_follows_spacing_and_is_never_empty():
    assert target_shape((10, 100, 100), (5.0, 0.5, 0.5), (2.5, 1.0, 0.8)) == (20, 50, 62)
    assert target_shape((3, 3, 3), (1, 1, 1), (100, 1, 1)) == (1, 3, 3)


@pytest.mark.parametrize(
    "spacing,new_spacing,axis",
    [
        ((5, 1, 1), (1, 1, 1), 0),
        ((1, 4, 1), (9, 1, 1), 1),
        ((3, 1, 1), (3, 1, 1), None),  # the ratio must exceed 3
        ((1, 1, 1), (1, 1, 3.5), 2),
        ((1, 4, 4), (1, 1, 9), None),  # a tie in the present spacing settles it
        ((1, 1, 1), (1, 1, 1), None),
    ],
)
def test_thick_axis_follows_the_present_spacing_first(spacing, new_spacing, axis):
    assert thick_axis(spacing, new_spacing) == axis


def test_equal_shape_returns_the_input():
    image, label = np.zeros((1, 2, 3, 4), np.float32), np.zeros((2, 3, 4), np.uint8)
    assert resample_image(image, (2, 3, 4), axis=0) is image
    assert resample_label(label, (2, 3, 4), axis=None) is label


def test_nearest_slice_worked_out_by_hand():
    assert nearest_indices(2, 6).tolist() == [0, 0, 0, 1, 1, 1]
    assert nearest_indices(4, 2).tolist() == [1, 3]  # centers at 0.5 and 2.5: ties go up
    assert nearest_indices(1, 3).tolist() == [0, 0, 0]


def test_thick_slices_are_repeated_not_blended():
    image = np.zeros((1, 2, 4, 4), np.float32)
    image[0, 1] = 10
    result = resample_image(image, (4, 8, 8), axis=0)
    np.testing.assert_allclose(result[0, :, 0, 0], [0, 0, 10, 10])
    np.testing.assert_allclose(np.ptp(result, axis=(2, 3)), 0, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(SHAPES, SHAPES, AXES, st.integers(0, 2**32 - 1))
def test_resampled_image_stays_within_its_range(shape, new_shape, axis, seed):
    image = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    before = image.copy()
    result = resample_image(image, new_shape, axis=axis)
    assert (result.shape, result.dtype) == ((2, *new_shape), np.float32)
    for old, new in zip(image, result, strict=True):
        assert old.min() - 1e-5 <= new.min()
        assert new.max() <= old.max() + 1e-5
    np.testing.assert_array_equal(image, before)


@settings(deadline=None, max_examples=40)
@given(SHAPES, SHAPES, AXES, st.integers(0, 2**32 - 1))
def test_resampled_label_invents_no_value(shape, new_shape, axis, seed):
    label = np.random.default_rng(seed).choice(np.array([-1, 0, 2, 7], np.int16), shape)
    before = label.copy()
    result = resample_label(label, new_shape, axis=axis)
    assert (result.shape, result.dtype) == (new_shape, label.dtype)
    assert set(np.unique(result)) <= set(np.unique(label))
    np.testing.assert_array_equal(label, before)


@settings(deadline=None, max_examples=20)
@given(SHAPES, st.integers(0, 2**32 - 1))
def test_label_survives_doubling_and_halving_by_threes(shape, seed):
    label = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)
    triple = tuple(3 * size for size in shape)
    np.testing.assert_array_equal(resample_label(label, triple, axis=None)[1::3, 1::3, 1::3], label)


def test_wrong_number_of_axes_is_refused():
    with pytest.raises(ShapeError, match="An image is"):
        resample_image(np.zeros((2, 2, 2), np.float32), (1, 1, 1), axis=None)
    with pytest.raises(ShapeError, match="A label is"):
        resample_label(np.zeros((1, 2, 2, 2), np.uint8), (1, 1, 1), axis=None)


def test_tile_starts_worked_out_in_the_reference():
    assert tile_starts(110, 64, 0.5) == (0, 23, 46)
    assert tile_starts(300, 128, 0.5) == (0, 57, 115, 172)
    assert tile_starts(64, 64, 0.5) == (0,)


@given(st.integers(1, 400), st.integers(1, 200), st.floats(0.05, 1))
def test_tiles_cover_an_axis_with_steps_no_longer_than_asked(size, tile, step):
    size = max(size, tile)
    starts = tile_starts(size, tile, step)
    assert starts[0] == 0
    assert starts[-1] == size - tile
    assert all(
        b - a <= tile * step + 1 for a, b in itertools.pairwise(starts)
    )  # rounding moves a start by half a voxel
    covered = {voxel for start in starts for voxel in range(start, start + tile)}
    assert covered == set(range(size))


@given(SHAPES, SHAPES, st.floats(0.1, 1))
def test_every_voxel_is_covered(shape, tile, step):
    tile = tuple(min(pair) for pair in zip(shape, tile, strict=True))
    covered = np.zeros(shape, bool)
    origins = tile_origins(shape, tile, (step, step, step))
    for d, h, w in origins:
        covered[d : d + tile[0], h : h + tile[1], w : w + tile[2]] = True
    assert covered.all()
    assert len(set(origins)) == len(origins)


def test_tiles_that_do_not_fit_and_bad_steps_are_refused():
    with pytest.raises(ShapeError, match="does not fit an axis of 10"):
        tile_starts(10, 11, 0.5)
    for step in (0, 1.5, -1, float("nan")):
        with pytest.raises(ShapeError, match="tile step"):
            tile_starts(10, 5, step)


@pytest.mark.parametrize("tile", [(1, 8, 8), (5, 64, 48), (1, 1, 1), (2, 7, 512)])
def test_importance_is_1_in_the_middle_and_positive_everywhere(tile):
    weights = gaussian_importance(tile)
    assert (weights.shape, weights.dtype) == (tile, np.float32)
    assert weights.min() > 0
    assert weights.max() == weights[tuple(size // 2 for size in tile)] == 1


def test_importance_over_one_slice_is_that_of_the_plane():
    np.testing.assert_allclose(gaussian_importance((1, 32, 32))[0], gaussian_importance((3, 32, 32))[1], rtol=1e-6)


def test_a_narrow_gaussian_leaves_no_zero():
    assert gaussian_importance((1, 64, 64), sigma_scale=1 / 100).min() > 0


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(
    ("shape", "new_shape"), [((3, 150, 130), (3, 201, 97)), ((300, 2, 1), (431, 3, 2)), ((70, 65, 64), (64, 65, 300))]
)
def test_lines_of_several_blocks_are_skimages(shape, new_shape, order):
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    image[:, :, : shape[1] // 2] = 7.0  # a flat part must stay flat
    result = resample_image(image, new_shape, axis=None, order=order)
    expected = resize(image[0].astype(np.float64), new_shape, order, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(result[0], expected, rtol=0, atol=2e-6 * np.ptp(image))


def test_images_are_resampled_by_cubic_splines_where_no_order_is_given():
    image = np.random.default_rng(2).normal(size=(1, 6, 9, 7)).astype(np.float32)
    for axis in (None, 0):
        cubic, linear = (resample_image(image, (9, 13, 11), axis=axis, order=order) for order in (3, 1))
        np.testing.assert_array_equal(resample_image(image, (9, 13, 11), axis=axis), cubic)
        assert np.abs(cubic - linear).max() > 0.1
