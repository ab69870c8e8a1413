"""Cases that are unlike those of the training are named with what was measured; other units are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from samples import small_plan

from samunet.core.geometry import Geometry
from samunet.core.plan import Seen
from samunet.errors import PredictionError
from samunet.inference.unlike import refuse_absurd_spacing, remarks_on_grid, remarks_on_intensities

SEEN = Seen(
    orientations={"SPL": 4},
    spacing=((3.0, 0.5, 0.5), (5.0, 1.0, 1.0)),
    extent=((60.0, 200.0, 200.0), (120.0, 400.0, 400.0)),
    intensities=((-1000.0, 1000.0),),
    narrowest=(1500.0,),
)
PLAN = replace(small_plan(), orientation="SPL", seen=SEEN)


def grid(spacing=(4.0, 0.8, 0.8), shape=(20, 300, 300), **changes) -> Geometry:
    return Geometry(shape=shape, spacing=spacing, **changes)


def test_a_case_like_the_others_gets_no_remark():
    refuse_absurd_spacing(grid(), PLAN)
    assert remarks_on_grid(grid(), PLAN) == []
    assert remarks_on_intensities(np.linspace(-900, 900, 1000, dtype=np.float32).reshape(1, 10, 10, 10), PLAN) == []


@pytest.mark.parametrize(("factor", "words"), [(1000.0, "1000 times the largest"), (1e-3, "1/750 of the smallest")])
def test_another_unit_is_refused_with_both_spacings(factor, words):
    spacing = tuple(factor * value for value in ((5.0, 1.0, 1.0) if factor > 1 else (4.0, 2 / 3, 2 / 3)))
    with pytest.raises(PredictionError, match=rf"spacing of .* is {words} of the training cases, .* mm.*another unit"):
        refuse_absurd_spacing(grid(spacing), PLAN)


def test_spacing_and_size_far_outside_are_said_with_numbers():
    (spacing, size) = remarks_on_grid(grid((4.0, 4.0, 0.8)), PLAN)
    assert spacing == "its spacing of 4 x 4 x 0.8 mm (D, H, W) lies far from that of the training cases, 0.5 to 1 mm"
    assert size == "its size of 80 x 1200 x 240 mm (D, H, W) lies far from that of the training cases, 200 to 400 mm"


def test_another_orientation_is_said_and_its_axes_are_compared_where_they_lie():
    turned = grid((0.8, 4.0, 0.8), (300, 20, 300), direction=((-1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, -1.0, 0.0)))
    assert remarks_on_grid(turned, PLAN) == [
        "its axes x, y, z run toward AIR, those of the training cases toward LPS; it is turned for the network, and "
        "its segmentation back"
    ]
    assert "it is left as it is" in remarks_on_grid(turned, replace(PLAN, orientation=None))[0]
    assert remarks_on_grid(replace(turned, spacing=(4.0, 0.8, 0.8), shape=(20, 300, 300), directed=False), PLAN) == []


@pytest.mark.parametrize(
    ("low", "high", "unlike"), [(0, 1, True), (2000, 3000, True), (-1e5, 1e5, True), (-500, 2000, False)]
)
def test_intensities_of_another_range_are_said(low, high, unlike):
    image = np.linspace(low, high, 1000, dtype=np.float32).reshape(1, 10, 10, 10)
    remarks = remarks_on_intensities(image, PLAN)
    assert bool(remarks) == unlike
    if unlike:
        assert "intensities of channel 'channel0'" in remarks[0] and "from -1000 to 1000" in remarks[0]


def test_training_cases_that_differ_make_none_of_them_unlike():
    """One case of 500,000 beside others of 1,000, as raw MR has them, is no reason to name every case of 1,000."""
    seen = replace(SEEN, intensities=((5.0, 5e5),), narrowest=(80.0,))
    image = np.linspace(50, 1250, 1000, dtype=np.float32).reshape(1, 10, 10, 10)
    assert remarks_on_intensities(image, replace(PLAN, seen=seen)) == []
    (remark,) = remarks_on_intensities(10 + image / 250, replace(PLAN, seen=seen))
    assert remark.endswith("those of the training cases from 5 to 5e+05, none over less than 80")
    assert remarks_on_intensities(10 + image / 250, replace(PLAN, seen=replace(seen, narrowest=()))) == []


def test_plans_that_measured_nothing_compare_nothing():
    old = replace(PLAN, seen=None)
    refuse_absurd_spacing(grid((4000.0, 800.0, 800.0)), old)
    assert (
        remarks_on_grid(grid((40.0, 0.1, 0.1)), old)
        == []
        == remarks_on_intensities(np.zeros((1, 2, 2, 2), np.float32), old)
    )


def test_the_thickness_of_a_2d_image_is_not_compared():
    flat = grid((1.0, 0.8, 0.8), (1, 300, 300), planar=True)
    assert remarks_on_grid(flat, replace(PLAN, orientation=None)) == []


def test_a_file_without_a_size_is_said_to_be_taken_as_the_plans_and_not_refused():
    unsized = grid((1.0, 1.0, 1.0), measured=False)
    refuse_absurd_spacing(unsized, replace(PLAN, seen=replace(SEEN, spacing=((1e-3,) * 3, (1e-3,) * 3))))
    assert remarks_on_grid(unsized, PLAN) == [
        "it tells no size of its voxels, which are taken to be as large as those the model was trained on"
    ]


def test_a_plan_in_voxels_compares_voxels():
    plan = replace(PLAN, measured=False, seen=replace(SEEN, spacing=((1.0,) * 3, (1.0,) * 3)))
    refuse_absurd_spacing(grid((1e-3, 5e-4, 5e-4)), plan)
    (size,) = remarks_on_grid(grid((1e-3, 5e-4, 5e-4), (100, 3000, 300)), plan)
    assert (
        size
        == "its size of 100 x 3000 x 300 voxels (D, H, W) lies far from that of the training cases, 200 to 400 voxels"
    )
