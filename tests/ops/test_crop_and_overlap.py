"""Cropping, and counting overlap."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from samunet.errors import ShapeError
from samunet.ops.crop import bounding_box, crop, nonzero_mask
from samunet.ops.overlap import Overlap, overlap

SHAPES = st.tuples(*[st.integers(1, 6)] * 3)
MASKS = SHAPES.flatmap(lambda shape: arrays.arrays(bool, shape))


def labels(shape):
    return arrays.arrays(np.int16, shape, elements=st.integers(0, 3))


def test_mask_joins_channels_and_fills_holes():
    image = np.zeros((2, 5, 5, 5), np.float32)
    image[0, 1:4, 1:4, 1:4] = -1
    image[0, 2, 2, 2] = 0
    image[1, 0, 0, 0] = 3
    mask = nonzero_mask(image)
    assert mask[2, 2, 2]
    assert mask.sum() == 28


def test_hole_in_a_single_slice_stays_open():
    image = np.ones((1, 1, 5, 5), np.float32)
    image[0, 0, 2, 2] = 0
    assert not nonzero_mask(image)[0, 2, 2]


def test_empty_mask_gives_the_whole_grid():
    assert bounding_box(np.zeros((2, 3, 4), bool)) == ((0, 2), (0, 3), (0, 4))


@given(MASKS)
def test_box_holds_every_voxel_and_touches_it_on_each_side(mask):
    box = bounding_box(mask)
    inside = crop(mask, box)
    assert inside.sum() == mask.sum()
    if mask.any():
        for axis in range(3):
            assert inside.take(0, axis).any()
            assert inside.take(-1, axis).any()


def test_crop_is_a_view():
    array = np.zeros((1, 2, 2, 2))
    assert np.shares_memory(crop(array, ((0, 1), (0, 2), (1, 2))), array)


def test_boxes_outside_the_grid_are_refused():
    with pytest.raises(ShapeError, match="must lie inside"):
        crop(np.zeros((2, 2, 2)), ((0, 3), (0, 2), (0, 2)))


def test_counts_worked_out_by_hand():
    reference = np.array([[[1, 1, 2, 0, 3]]])
    prediction = np.array([[[1, 2, 1, 0, 1]]])
    assert overlap(reference, prediction, (1,)) == Overlap(tp=1, fp=2, fn=1, tn=1)
    region = overlap(reference, prediction, (1, 2), ignore=3)
    assert region == Overlap(tp=3, fp=0, fn=0, tn=1)
    assert (region.n_pred, region.n_ref, region.dice, region.iou) == (3, 3, 1.0, 1.0)
    assert overlap(reference, prediction, (1,)).dice == pytest.approx(2 / 5)
    assert overlap(reference, prediction, (1,)).iou == pytest.approx(1 / 4)


def test_class_absent_from_both_is_not_a_number():
    empty = overlap(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), (1,))
    assert math.isnan(empty.dice)
    assert math.isnan(empty.iou)
    assert empty.tn == 4


def test_shapes_must_agree():
    with pytest.raises(ShapeError, match=r"\(1, 2, 2\).*\(1, 2, 3\)"):
        overlap(np.zeros((1, 2, 2)), np.zeros((1, 2, 3)), (1,))


@given(SHAPES.flatmap(lambda shape: st.tuples(labels(shape), labels(shape))))
def test_counts_add_up_and_swap(pair):
    reference, prediction = pair
    there, back = overlap(reference, prediction, (1, 2)), overlap(prediction, reference, (1, 2))
    assert there.tp + there.fp + there.fn + there.tn == reference.size
    assert (there.tp, there.fp, there.fn, there.tn) == (back.tp, back.fn, back.fp, back.tn)
    assert overlap(reference, prediction, (1, 2), ignore=3).tp <= there.tp
