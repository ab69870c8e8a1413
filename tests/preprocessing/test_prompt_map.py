"""Prompts on the network's grid lie where they lie in the file."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from samunet.core.geometry import Geometry
from samunet.core.history import SpatialHistory
from samunet.core.labels import parse_labels
from samunet.core.prompts import BOX, INSIDE, OUTSIDE, CasePrompts, StructurePrompts
from samunet.preprocessing.prompt_map import prompt_map

LABELS = parse_labels({"background": 0, "second": 2, "first": 1})  # channels follow the values


@st.composite
def histories(draw):
    shape = draw(st.tuples(*[st.integers(1, 12)] * 3))
    transpose = tuple(draw(st.permutations(range(3))))
    crop = []
    for axis in transpose:
        start = draw(st.integers(0, shape[axis] - 1))
        crop.append((start, draw(st.integers(start + 1, shape[axis]))))
    after = tuple(b - a for a, b in crop)
    resampled = draw(st.tuples(*[st.integers(1, 25)] * 3))
    return SpatialHistory(
        geometry=Geometry(shape=shape, spacing=(1.0, 1.0, 1.0)),
        transpose=transpose,
        crop=tuple(crop),
        shape_after_crop=after,
        spacing_after_transpose=(1.0, 1.0, 1.0),
        shape_after_resample=resampled,
        spacing_after_resample=(1.0, 1.0, 1.0),
        flips=draw(st.tuples(*[st.booleans()] * 3)),
    )


def on_network_axes(index, history) -> list[float]:
    """A place of the file on the network's axes, before the crop."""
    return [
        history.geometry.shape[axis] - 1 - index[axis] if flip else index[axis]
        for axis, flip in zip(history.transpose, history.flips, strict=True)
    ]


def prompts_for(**first) -> CasePrompts:
    return CasePrompts(structures={"first": StructurePrompts(**first)})


@given(history=histories(), place=st.tuples(*[st.floats(0, 0.999)] * 3))
@settings(max_examples=300, deadline=None)
def test_a_click_marks_the_voxel_that_holds_it_in_every_slice_of_its_own(history, place):
    index = [share * size - 0.5 for share, size in zip(place, history.geometry.shape, strict=True)]
    drawn = prompt_map(prompts_for(points=(tuple(index[::-1]),)), LABELS, history)
    assert (
        drawn.shape == (2, *history.shape_after_resample)
        and not drawn[1].any()
        and set(np.unique(drawn)) <= {0, INSIDE}
    )
    marked = np.argwhere(drawn[0])
    assert len({tuple(voxel[1:]) for voxel in marked}) == 1  # one place of the plane
    for axis in range(3):
        start, stop = history.crop[axis]
        inside = min(
            max(on_network_axes(index, history)[axis] - start, 0.0), stop - start - 1.0
        )  # the rim, where it lies outside the crop
        size = history.shape_after_resample[axis] / (stop - start)  # new voxels an old one
        if axis > 0:
            assert marked[0][axis] <= (inside + 0.5) * size <= marked[0][axis] + 1 + 1e-9
            continue
        slices = sorted({voxel[0] for voxel in marked})
        assert slices == list(range(slices[0], slices[-1] + 1))
        own = np.floor(inside + 0.5)
        centers = [z for z in range(history.shape_after_resample[0]) if own <= (z + 0.5) / size < own + 1]
        assert slices == centers or (not centers and slices[0] <= (inside + 0.5) * size <= slices[0] + 1 + 1e-9)


@given(history=histories(), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_box_marks_the_voxels_whose_centers_lie_in_it(history, data):
    corners = [[data.draw(st.integers(0, size - 1)) for size in history.geometry.shape] for _ in range(2)]
    drawn = prompt_map(prompts_for(box=tuple(tuple(map(float, corner[::-1])) for corner in corners)), LABELS, history)[
        0
    ]
    expected = []
    for axis in range(3):
        start, stop = history.crop[axis]
        ends = [min(max(on_network_axes(corner, history)[axis] - start, 0), stop - start - 1) for corner in corners]
        size = history.shape_after_resample[axis] / (stop - start)
        centers = (np.arange(history.shape_after_resample[axis]) + 0.5) / size
        expected.append((centers >= min(ends)) & (centers < max(ends) + 1))
    whole = expected[0][:, None, None] & expected[1][None, :, None] & expected[2][None, None, :]
    if whole.any():
        assert np.array_equal(drawn > 0, whole) and set(np.unique(drawn)) <= {0, BOX}
    assert drawn.any()  # one voxel at least


def test_several_prompts_share_a_map_and_the_planes_follow_the_label_values():
    shape = (4, 8, 8)
    history = SpatialHistory(
        geometry=Geometry(shape=shape, spacing=(3.0, 1.0, 1.0)),
        transpose=(0, 1, 2),
        crop=((0, 4), (0, 8), (0, 8)),
        shape_after_crop=shape,
        spacing_after_transpose=(3.0, 1.0, 1.0),
        shape_after_resample=shape,
        spacing_after_resample=(3.0, 1.0, 1.0),
    )
    second = StructurePrompts(
        points=((2.0, 3.0, 1.0),), background_points=((5.0, 6.0, 1.0),), box=((1.0, 2.0, 1.0), (3.0, 4.0, 2.0))
    )
    drawn = prompt_map(CasePrompts(structures={"second": second}), LABELS, history)
    assert not drawn[0].any()
    assert drawn[1, 1, 3, 2] == INSIDE | BOX and drawn[1, 1, 6, 5] == OUTSIDE
    assert (drawn[1] & BOX > 0).sum() == 2 * 3 * 3 and (drawn[1] > 0).sum() == 18 + 1
