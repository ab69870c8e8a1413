"""Grids: positions worked out by hand, and the checks of their constructors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from nibabel.orientations import aff2axcodes

from samunet.core.geometry import Geometry, shape3, triple
from samunet.core.history import SpatialHistory
from samunet.core.volume import Volume
from samunet.errors import ShapeError


def grid(**changes) -> Geometry:
    return Geometry(**{"shape": (3, 4, 5), "spacing": (2.0, 1.0, 0.5), **changes})


def test_a_grid_is_the_same_as_itself_and_not_as_another_shape():
    assert grid().same_grid(grid())
    assert not grid().same_grid(grid(shape=(3, 4, 6)))
    assert not grid(shape=(1, 4, 5)).same_grid(grid(shape=(1, 4, 5), planar=True))


def test_a_shifted_origin_moves_every_corner_by_as_much():
    assert grid().corner_distance_mm(grid(origin=(3.0, 4.0, 0.0))) == pytest.approx(5.0)


def test_a_wrong_spacing_shows_at_the_far_corner():
    # (5 - 1) steps of 0.5 instead of 0.75 mm along W
    assert grid().corner_distance_mm(grid(spacing=(2.0, 1.0, 0.75))) == pytest.approx(4 * 0.25)


def test_a_flipped_axis_moves_corners_by_twice_its_length():
    # D runs along z by default: 2 steps of 2 mm each way
    flipped = grid(direction=((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)))
    assert grid().corner_distance_mm(flipped) == pytest.approx(8.0)


def test_the_tolerance_is_in_mm():
    moved = grid(origin=(0.0, 0.0, 0.05))
    assert grid().same_grid(moved, tolerance_mm=0.051) and not grid().same_grid(moved, tolerance_mm=0.049)


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0)])
def test_a_spacing_that_is_not_positive_is_refused(spacing):
    with pytest.raises(ShapeError, match="Spacing must be positive"):
        grid(spacing=spacing)


def test_a_grid_needs_three_axes():
    with pytest.raises(ShapeError, match="three axes"):
        Geometry(shape=(4, 5), spacing=(1.0, 1.0))


def test_three_values_become_plain_tuples():
    assert triple(np.array([1, 2, 3])) == (1.0, 2.0, 3.0) and type(triple(np.float32([1, 2, 3]))[0]) is float
    assert shape3(np.array([1, 2, 3])) == (1, 2, 3) and type(shape3(np.int64([1, 2, 3]))[0]) is int
    for function in (triple, shape3):
        with pytest.raises(ShapeError, match=r"three values \(D, H, W\); got \[1, 2\]"):
            function([1, 2])


def test_a_volume_must_fill_its_grid():
    with pytest.raises(ShapeError, match=r"grid \(3, 4, 5\); got an array of shape \(1, 3, 4, 6\)"):
        Volume(array=np.zeros((1, 3, 4, 6), np.float32), geometry=grid())
    with pytest.raises(ShapeError):
        Volume(array=np.zeros((3, 4, 5), np.float32), geometry=grid())


def test_a_history_knows_its_transposed_shape_and_the_way_back():
    history = SpatialHistory(
        geometry=grid(),
        transpose=(2, 0, 1),
        crop=((0, 5), (0, 3), (0, 4)),
        shape_after_crop=(5, 3, 4),
        spacing_after_transpose=(0.5, 2.0, 1.0),
        shape_after_resample=(5, 3, 4),
        spacing_after_resample=(0.5, 2.0, 1.0),
    )
    array = np.zeros(grid().shape)
    assert history.transposed_shape == (5, 3, 4) == array.transpose(history.transpose).shape
    assert array.transpose(history.transpose).transpose(history.transpose_back).shape == (3, 4, 5)
    assert history.transpose_back == (1, 2, 0)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_an_orientation_is_that_of_nibabel_also_when_oblique(order, signs):
    angle = np.radians(20)
    tilt = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    for turn in (np.eye(3), tilt):
        axes = (turn @ (np.eye(3)[list(order)] * np.array(signs)[:, None]).T).T  # LPS unit vector of each array axis
        affine = np.eye(4)
        affine[:3, :3] = np.diag([-1, -1, 1]) @ axes.T  # nibabel's world is RAS
        assert grid(direction=tuple(map(tuple, axes))).orientation == "".join(aff2axcodes(affine))
