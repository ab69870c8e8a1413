"""Grids: positions worked out by hand, and the checks of their constructors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from nibabel.orientations import aff2axcodes

from samunet.core.geometry import Geometry, shape3, triple, turn_between
from samunet.core.history import SpatialHistory, turned
from samunet.core.volume import Volume
from samunet.errors import ShapeError


def grid(**changes) -> Geometry:
    return Geometry(**{"shape": (3, 4, 5), "spacing": (2.0, 1.0, 0.5), **changes})


def test_a_shifted_origin_moves_every_corner_by_as_much():
    assert grid().corner_distance_mm(grid(origin=(3.0, 4.0, 0.0))) == pytest.approx(5.0)


def test_a_wrong_spacing_shows_at_the_far_corner():
    # (5 - 1) steps of 0.5 instead of 0.75 mm along W
    assert grid().corner_distance_mm(grid(spacing=(2.0, 1.0, 0.75))) == pytest.approx(4 * 0.25)


def test_a_flipped_axis_moves_corners_by_twice_its_length():
    # D runs along z by default: 2 steps of 2 mm each way
    flipped = grid(direction=((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)))
    assert grid().corner_distance_mm(flipped) == pytest.approx(8.0)


def test_grids_are_compared_in_voxels_of_the_smallest_spacing():
    moved = grid(origin=(0.0, 0.0, 0.05))  # the smallest spacing is 0.5 mm
    assert grid().voxels_apart(moved) == pytest.approx(0.1)
    assert grid().apart(moved) == "0.05 mm (0.1 voxels)"
    flat = [Geometry(shape=(1, 4, 5), spacing=(1.0, 20.0, 10.0), origin=(x, 0.0, 0.0), planar=True) for x in (0.0, 1.0)]
    assert flat[0].voxels_apart(flat[1]) == pytest.approx(0.1)  # a 2D image has no thickness


@pytest.mark.parametrize("there", ["".join(letters) for letters in itertools.product("LR", "AP", "IS")])
def test_a_turn_brings_every_orientation_to_another(there):
    # An array of the world's coordinates, LPS, knows where each of its axes leads.
    world = np.stack(np.meshgrid(*[np.arange(2.0)] * 3, indexing="ij"), axis=-1)
    signs = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    for here in itertools.permutations("SPL"):
        array = world.transpose(*("LPS".index(letter) for letter in here), 3)
        for wanted in itertools.permutations(there):
            axes, flips = turn_between("".join(here), "".join(wanted))
            turned = array.transpose(*axes, 3)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
            for axis, letter in enumerate(wanted):
                component, sign = signs[letter]
                assert (np.diff(turned[..., component], axis=axis) == sign).all()


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


def test_a_history_knows_its_turned_shape():
    history = SpatialHistory(
        geometry=grid(),
        transpose=(2, 0, 1),
        crop=((0, 5), (0, 3), (0, 4)),
        shape_after_crop=(5, 3, 4),
        spacing_after_transpose=(0.5, 2.0, 1.0),
        shape_after_resample=(5, 3, 4),
        spacing_after_resample=(0.5, 2.0, 1.0),
    )
    array = np.arange(60).reshape(grid().shape)
    assert history.transposed_shape == (5, 3, 4) == turned(array, history.transpose, history.flips).shape
    backward = turned(array[None], history.transpose, (True, False, False))
    assert backward.shape == (1, 5, 3, 4) and backward[0, 0, 1, 2] == array[1, 2, 4]


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


@pytest.mark.parametrize("there", ["SPL", "IAR", "RSA", "PIL"])
def test_a_turned_grid_has_every_voxel_where_it_was(there):
    here = grid(origin=(5.0, -3.0, 2.0), direction=((0.0, 0.6, 0.8), (0.0, 0.8, -0.6), (-1.0, 0.0, 0.0)))

    def places(of):
        steps = np.array(of.direction) * np.array(of.spacing)[:, None]
        return np.array(of.origin)[:, None, None, None] + np.einsum("ax,adhw->xdhw", steps, np.indices(of.shape))

    axes, flips = turn_between(here.orientation, there)
    new = here.turned(axes, flips)
    assert new.orientation == there
    np.testing.assert_allclose(places(new), turned(places(here), axes, flips), atol=1e-12)
