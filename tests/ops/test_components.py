"""Largest components, by hand and against nnU-Net."""

from __future__ import annotations

import numpy as np
import pytest

from samunet.ops.components import keep_largest, largest_component


def test_voxels_that_share_a_corner_are_one_component():
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True
    assert largest_component(mask).sum() == 3


def test_components_of_one_size_are_all_kept_and_smaller_ones_not():
    mask = np.zeros((1, 1, 9), bool)
    mask[0, 0, [0, 1, 3, 4, 6]] = True
    assert np.flatnonzero(largest_component(mask)).tolist() == [0, 1, 3, 4]


def test_labels_of_a_region_hold_together():
    segmentation = np.array([[[1, 2, 0, 2, 0, 3]]], np.uint8)
    assert keep_largest(segmentation, (1, 2)).tolist() == [[[1, 2, 0, 0, 0, 3]]]
    assert keep_largest(segmentation, (2,)) is segmentation  # of one size
    assert keep_largest(segmentation, (7,)) is segmentation


@pytest.mark.parametrize("values", [(1,), (2,), (1, 2)])
def test_it_is_nnunets(values):
    module = pytest.importorskip("nnunetv2.postprocessing.remove_connected_components")
    random = np.random.default_rng(0)
    for _ in range(20):
        segmentation = random.choice(3, p=(0.7, 0.2, 0.1), size=(6, 9, 10)).astype(np.uint8)
        theirs = module.remove_all_but_largest_component_from_segmentation(
            segmentation, [values if len(values) > 1 else values[0]]
        )
        np.testing.assert_array_equal(keep_largest(segmentation, values), theirs)
