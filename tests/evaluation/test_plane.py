"""Slices hang as radiologists hang them, however a file stores its voxels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from samunet.core.geometry import Geometry, turn_between
from samunet.evaluation.plane import plane_of
from samunet.phantom.abdomen import TOWARD, centered_geometry

SHAPE, SPACING = (4, 6, 5), (3.0, 1.0, 1.5)  # of a patient stored from I to S, A to P, R to L: LPS as nibabel names it
STORED = [
    "".join(letters) for sides in itertools.permutations(("SI", "PA", "LR")) for letters in itertools.product(*sides)
]


def geometry(shape, spacing, orientation: str, tilt=(0.0, 0.0, 0.0)) -> Geometry:
    """Return a grid whose axes D, H, W grow toward the given sides."""
    return centered_geometry(shape, spacing, orientation[::-1], tilt, (0.0, 0.0, 0.0))


def patient() -> np.ndarray:
    """Return (S, P, L): bright at the feet, brighter in front, brightest at the right; every voxel differs."""
    return np.arange(np.prod(SHAPE)).reshape(SHAPE)


def stored(orientation: str, shape=SHAPE, spacing=SPACING, tilt=(0.0, 0.0, 0.0)) -> tuple[np.ndarray, Geometry]:
    """Return the patient as a file of that orientation holds it."""
    order, flips = turn_between("SPL", orientation)
    array = np.arange(np.prod(shape)).reshape(shape).transpose(order)
    array = array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return array, geometry(array.shape, tuple(spacing[axis] for axis in order), orientation, tilt)


@pytest.mark.parametrize("orientation", STORED)
def test_every_way_to_store_a_patient_gives_the_same_axial_slices(orientation):
    array, grid = stored(orientation)
    assert grid.orientation == orientation
    plane = plane_of(grid)
    np.testing.assert_array_equal(plane.stack(array), patient())
    assert (plane.name, plane.letters) == ("axial", ("R", "L", "A", "P"))


def test_the_sides_are_those_of_the_world():
    """One voxel, placed in LPS millimeters by hand, lands where the letters say."""
    for orientation in ("SPL", "SAR", "RSA", "LIP"):
        grid = geometry((5, 5, 5), (1.0, 1.0, 1.0), orientation)
        array = np.zeros(grid.shape)
        right_and_front = np.array([-2.0, -2.0, 0.0])  # x grows to L, y to P
        index = np.linalg.solve(np.array(grid.direction).T, right_and_front - np.array(grid.origin)).round().astype(int)
        array[tuple(index)] = 1
        shown = plane_of(grid).stack(array)[2]
        assert shown[0, 0] == 1 and shown.sum() == 1  # top left: A and R


@pytest.mark.parametrize(
    ("thick", "name", "letters"),
    [(1, "coronal", ("R", "L", "S", "I")), (2, "sagittal", ("A", "P", "S", "I"))],
)
@pytest.mark.parametrize("orientation", ["SPL", "SAR", "ARS"])
def test_thick_slices_choose_the_plane_and_the_head_is_up(thick, name, letters, orientation):
    spacing = [1.0, 1.0, 1.0]
    spacing[thick] = 4.0
    array, grid = stored(orientation, spacing=tuple(spacing))
    plane = plane_of(grid)
    assert (plane.name, plane.letters) == (name, letters)
    up = patient()[::-1]  # from S to I
    np.testing.assert_array_equal(plane.stack(array), np.moveaxis(up, thick, 0))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.05, 1.02)])
def test_cubic_voxels_are_shown_axial(spacing):
    assert {plane_of(stored(orientation, spacing=spacing)[1]).name for orientation in STORED} == {"axial"}


def test_a_single_slice_is_shown_whatever_its_thickness():
    _, grid = stored("LSP", shape=(6, 5, 1), spacing=(1.0, 2.0, 0.5))
    assert plane_of(grid).name == "sagittal" and plane_of(grid).order[0] == 0


def test_oblique_grids_have_the_nearest_letters_and_say_so():
    array, grid = stored("SAR", tilt=(25.0, 0.0, 0.0))
    straight, tilted = plane_of(stored("SAR")[1]), plane_of(grid)
    np.testing.assert_array_equal(tilted.stack(array), patient())
    assert tilted.letters == straight.letters and tilted.oblique and not straight.oblique
    assert tilted.describe(0, 4).endswith("oblique, so that letters name the nearest sides")
    assert not plane_of(stored("SAR", tilt=(9.0, 0.0, 0.0))[1]).oblique


def test_what_has_no_direction_is_shown_as_it_is_stored():
    array = patient()
    for grid in (
        Geometry(shape=SHAPE, spacing=SPACING, directed=False),
        Geometry(shape=SHAPE, spacing=(1.0, 1.0, 1.0), directed=False, measured=False),
    ):
        plane = plane_of(grid)
        np.testing.assert_array_equal(plane.stack(array), array)
        assert plane.letters is None and plane.describe(2, 4) == "Slice 3 of 4 across the D axis"
    flat = plane_of(Geometry(shape=(1, 6, 5), spacing=(1.0, 2.0, 2.0), planar=True))
    assert flat.letters is None and flat.order == (0, 1, 2) and flat.describe(0, 1) == ""


def test_slices_are_counted_from_the_feet_the_front_and_the_right():
    words = []
    for thick in range(3):
        spacing = [1.0, 1.0, 1.0]
        spacing[thick] = 4.0
        words.append(plane_of(stored("SPL", spacing=tuple(spacing))[1]).describe(0, SHAPE[thick]))
    assert words == [
        "Axial slice 1 of 4 from I to S, R on the left and A at the top",
        "Coronal slice 1 of 6 from A to P, R on the left and S at the top",
        "Sagittal slice 1 of 5 from R to L, A on the left and S at the top",
    ]
    assert set(TOWARD) == set("RLAPIS")
