"""Surface distances against brute force, and cases worked out by hand."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from samunet.errors import ShapeError
from samunet.ops.components import detection_f1
from samunet.ops.surface import surface, surface_scores

NAMES = ("hd", "hd95", "assd", "nsd")


def brute_force(one, other, spacing, tolerance):
    """Every distance between surface voxels, the surface by scipy's erosion."""
    places = []
    for mask in (one, other):
        cross = ndimage.generate_binary_structure(3, 1)
        for axis in range(3):
            if mask.shape[axis] == 1:
                cross[tuple(np.s_[[0, 2]] if other_axis == axis else slice(None) for other_axis in range(3))] = False
        places.append(np.argwhere(mask & ~ndimage.binary_erosion(mask, cross)) * spacing)
    table = cdist(*places)
    there, back = table.min(1), table.min(0)
    both = np.concatenate([there, back])
    return both.max(), max(np.percentile(there, 95), np.percentile(back, 95)), both.mean(), np.mean(both <= tolerance)


def test_300_random_anisotropic_masks_have_the_distances_of_brute_force():
    random = np.random.default_rng(0)
    for number in range(300):
        shape = random.integers(1, 14, 3)
        spacing = tuple(random.uniform(0.3, 5, 3))
        masks = [ndimage.uniform_filter(random.random(shape), 3) > random.uniform(0.4, 0.6) for _ in range(2)]
        if not all(mask.any() for mask in masks):
            continue
        tolerance = float(random.uniform(0.5, 6))
        found = surface_scores(*masks, spacing, tolerance)
        expected = brute_force(*masks, spacing, tolerance)
        for name, value in zip(NAMES, expected, strict=True):
            assert getattr(found, name) == pytest.approx(value, rel=1e-6, abs=1e-6), (number, name)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), move=st.tuples(*[st.integers(0, 3)] * 3))
def test_swapping_the_masks_and_moving_both_changes_nothing(seed, move):
    random = np.random.default_rng(seed)
    masks = [np.pad(random.random((5, 6, 7)) > 0.5, 4) for _ in range(2)]
    first = surface_scores(*masks, (1.0, 2.0, 0.5), 1.0)
    assert surface_scores(*masks[::-1], (1.0, 2.0, 0.5), 1.0) == first
    assert surface_scores(*(np.roll(mask, move, (0, 1, 2)) for mask in masks), (1.0, 2.0, 0.5), 1.0) == first


def test_a_shift_by_two_slices_is_two_thicknesses():
    mask = np.zeros((12, 9, 9), bool)
    mask[3:6, 2:7, 2:7] = True
    found = surface_scores(mask, np.roll(mask, 2, 0), (3.0, 1.0, 1.0), 2.9)
    assert found.hd == pytest.approx(6) and found.hd95 == pytest.approx(6)
    assert 0 < found.assd < 6 and 0 < found.nsd < 1
    same = surface_scores(mask, mask, (3.0, 1.0, 1.0), 0.0)
    assert (same.hd, same.hd95, same.assd, same.nsd) == (0, 0, 0, 1)


@pytest.mark.parametrize("width,steps", [(0.2, 10), (0.1, 20), (0.6, 3)])
def test_a_distance_that_equals_the_tolerance_is_within_it(width, steps):
    mask = np.zeros((5, 5, 60), bool)
    mask[1:4, 1:4, 5:30] = True
    other = mask.copy()
    other[1:4, 1:4, 30 : 30 + steps] = True
    assert surface_scores(mask, other, (width, width, width), steps * width).nsd == 1


def test_a_slice_has_an_outline():
    mask = np.zeros((1, 7, 7), bool)
    mask[0, 1:6, 1:6] = True
    assert surface(mask).sum() == 16
    assert surface(np.repeat(mask, 3, 0)).sum() == 2 * 25 + 16


def test_slices_between_ignored_ones_score_as_the_slice_alone():
    slices, at = np.zeros((2, 1, 9, 20), bool), [5, 10, 15]
    slices[0, 0, 2:7, 2:7] = slices[1, 0, 2:7, 12:17] = True  # ten to the right: no voxel nearer than six
    sparse, ignored = np.zeros((2, 21, 9, 20), bool), np.ones((21, 9, 20), bool)
    sparse[:, at], ignored[at] = slices, False
    for prediction in (1, 0):
        alone = surface_scores(slices[0], slices[prediction], (100.0, 1.0, 1.0), 2.0)
        among = surface_scores(sparse[0], sparse[prediction], (100.0, 1.0, 1.0), 2.0, ignored)
        assert [getattr(among, name) for name in NAMES] == pytest.approx([getattr(alone, name) for name in NAMES])
        assert among.nsd == 1 - prediction


def test_where_all_around_is_ignored_equal_masks_have_no_scores_and_others_are_as_far_as_can_be():
    whole, ignored = np.zeros((3, 5, 5), bool), np.ones((3, 5, 5), bool)
    whole[1, 1:4, 1:4], ignored[1, 1:4, 1:4] = True, False
    assert all(math.isnan(getattr(surface_scores(whole, whole, (1.0, 1.0, 1.0), 1.0, ignored), name)) for name in NAMES)
    part = whole.copy()
    part[1, 1] = False  # has a surface, where the reference has none
    for other in (part, whole & False):
        found = surface_scores(whole, other, (1.0, 1.0, 1.0), 1.0, ignored)
        assert found.nsd == 0 and found.hd == found.hd95 == found.assd == pytest.approx(6)  # of 2, 4 and 4


def test_empty_masks_follow_the_table():
    nothing, something = np.zeros((3, 4, 5), bool), np.zeros((3, 4, 5), bool)
    something[1, 1, 1] = True
    assert all(math.isnan(getattr(surface_scores(nothing, nothing, (1.0, 1.0, 1.0), 1.0), name)) for name in NAMES)
    diagonal = math.sqrt(2**2 * 4 + 3**2 + 4**2)
    for pair in ((nothing, something), (something, nothing)):
        found = surface_scores(*pair, (2.0, 1.0, 1.0), 1.0)
        assert found.nsd == 0 and found.hd == found.hd95 == found.assd == pytest.approx(diagonal)
    with pytest.raises(ShapeError, match="must be on one grid"):
        surface_scores(nothing, something[:2], (1.0, 1.0, 1.0), 1.0)


def test_a_large_pair_takes_less_than_three_seconds():
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 256)] * 3, indexing="ij"))
    one, other = (grid**2).sum(0) < 0.8, ((grid - 0.02) ** 2).sum(0) < 0.75
    began = time.process_time()
    assert surface_scores(one, other, (1.0, 1.0, 1.0), 2.0).hd95 > 0
    assert time.process_time() - began < 3


def test_lesions_are_found_or_not():
    reference, prediction = np.zeros((2, 5, 9), bool), np.zeros((2, 5, 9), bool)
    assert math.isnan(detection_f1(reference, prediction))
    reference[0, 0, 0] = reference[0, 4, 4:6] = reference[1, 0, 8] = True  # three lesions
    prediction[0, 4, 5:7] = prediction[1, 4, 0] = True  # one found, one false alarm
    assert detection_f1(reference, prediction) == pytest.approx(2 / (2 + 1 + 2))
    assert detection_f1(reference, reference) == 1 and detection_f1(reference, ~reference & False) == 0
