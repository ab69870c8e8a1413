"""A simulated annotator shows what is there, and corrects what is wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samunet.core.prompts import BOX, INSIDE, MASK, OUTSIDE
from samunet.variants.sam_unet_prompted import annotator


def structures(depth=3):
    target = torch.zeros(3, depth, 32, 40, dtype=torch.bool)
    target[0, :, 8:24, 6:30] = True
    target[1, -1, 10, 11] = True
    target[2, 0, 2:5, 1:39] = True
    return target


@pytest.mark.parametrize("depth", [1, 3])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_first_prompts_lie_in_the_structure_and_none_is_missing(depth, seed):
    torch.manual_seed(seed)
    target = structures(depth)
    drawn = annotator.first_prompts(target)
    assert drawn.dtype == torch.uint8 and (drawn > 0).flatten(1).any(1).all()
    assert not ((drawn & (INSIDE | MASK) > 0) & ~target).any() and not (drawn & OUTSIDE).any()


def test_a_click_is_one_voxel_and_a_scribble_lies_in_one_slice():
    torch.manual_seed(0)
    target = structures()
    assert (annotator.clicks(target) == INSIDE).flatten(1).sum(1).tolist() == [1, 1, 1]
    drawn = annotator.scribbles(target) == INSIDE
    assert drawn.flatten(2).any(2).sum(1).tolist() == [1, 1, 1]
    assert drawn[0].sum() > 3


def test_a_box_covers_most_of_the_structure_or_of_one_of_its_slices():
    torch.manual_seed(0)
    target = structures()[:1].expand(40, -1, -1, -1)
    drawn = annotator.boxes(target) == BOX
    slices = drawn.flatten(2).any(2).sum(1)
    assert set(slices.tolist()) <= {1, 2, 3} and 1 in slices.tolist()
    whole = drawn[slices == 3]
    both, either = (whole & target[0]).flatten(1).sum(1), (whole | target[0]).flatten(1).sum(1)
    assert len(whole) and (both / either).min() > 0.5


def test_a_part_ends_at_a_plane():
    torch.manual_seed(0)
    target = structures()[:1].expand(30, -1, -1, -1)
    for drawn in annotator.parts(target):
        shown = drawn == MASK
        assert shown.any() and not (shown & ~target[0]).any()
        filled = [shown.movedim(axis, 0).flatten(1).any(1) for axis in range(3)]
        box = torch.zeros_like(shown)
        box[filled[0].nonzero().min() : filled[0].nonzero().max() + 1] = True
        rows, columns = filled[1].nonzero(), filled[2].nonzero()
        expected = target[0].clone()
        expected[:, : rows.min()] = expected[:, rows.max() + 1 :] = False
        expected[..., : columns.min()] = expected[..., columns.max() + 1 :] = False
        assert torch.equal(shown, expected & box)


def test_a_correction_is_in_the_thickest_error_and_holds_the_answer():
    torch.manual_seed(0)
    target, known = structures()[:1], torch.ones(1, 3, 32, 40, dtype=torch.bool)
    answer = target.clone()
    answer[0, 1, 9:20, 8:20] = False  # thick: missed
    answer[0, 0, 0, :] = True  # thin: wrong
    for _ in range(20):
        drawn = annotator.corrected(torch.zeros_like(target, dtype=torch.uint8), answer, target, known)
        assert torch.equal(drawn & MASK > 0, answer) and not (drawn & OUTSIDE).any()
        places = (drawn & INSIDE).nonzero()
        assert len(places) and (places[:, 1] == 1).all()
        assert ((places[:, 2] >= 9) & (places[:, 2] < 20) & (places[:, 3] >= 8) & (places[:, 3] < 20)).all()


def test_a_correction_says_outside_where_too_much_was_found_and_nothing_where_all_is_right():
    torch.manual_seed(0)
    target, known = structures()[:1], torch.ones(1, 3, 32, 40, dtype=torch.bool)
    answer = target.clone()
    answer[0, 2, 26:31, 30:38] = True
    drawn = annotator.corrected(torch.zeros_like(target, dtype=torch.uint8), answer, target, known)
    assert (drawn & OUTSIDE).any() and not (drawn & INSIDE).any()
    right = annotator.corrected(torch.zeros_like(target, dtype=torch.uint8), target, target, known)
    assert torch.equal(right, target * torch.tensor(MASK, dtype=torch.uint8))


def test_nobody_clicks_where_nothing_is_annotated():
    torch.manual_seed(0)
    target = structures()[:1]
    known = torch.zeros_like(target)
    drawn = annotator.corrected(torch.zeros_like(target, dtype=torch.uint8), ~target, target, known)
    assert not (drawn & (INSIDE | OUTSIDE)).any()
