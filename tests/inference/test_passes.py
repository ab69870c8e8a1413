"""Several networks and flips on the same tiles."""

from __future__ import annotations

import math

import pytest
import torch

from samunet.inference.passes import combine, flips_of, logits_from, passes, probabilities_of


def test_flips_are_all_combinations():
    assert flips_of(()) == ((),)
    assert flips_of((0, 2)) == ((), (0,), (2,), (0, 2))
    assert len(flips_of((0, 1, 2))) == 8


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_flips_are_undone_whatever_the_batch(batch):
    sizes = []

    def place_dependent(tiles):
        sizes.append(len(tiles))
        return tiles + torch.arange(4.0)  # along W, so flips matter

    tiles = torch.randn(2, 1, 2, 3, 4)
    found = list(passes([place_dependent, lambda tiles: 2 * tiles], tiles, flips_of((0, 2)), batch))
    assert len(found) == 8 and sum(sizes) == 8 and max(sizes) == max(2, batch - batch % 2)
    torch.testing.assert_close(
        combine(found[:4], regions=False), tiles + 1.5
    )  # half of the copies see the ramp reversed
    torch.testing.assert_close(combine(found[4:], regions=False), 2 * tiles)
    torch.testing.assert_close(found[1], tiles + torch.arange(4.0))  # flipped along D
    torch.testing.assert_close(found[2], tiles + torch.arange(4.0).flip(0))


def test_probabilities_and_logits_are_inverse():
    logits = torch.randn(1, 4, 2, 3, 3)
    for regions in (False, True):
        chances = probabilities_of(logits, regions=regions)
        again = probabilities_of(logits_from(chances[0].clone(), regions=regions)[None], regions=regions)
        torch.testing.assert_close(again, chances, atol=1e-5, rtol=1e-4)


def certain(*winners, classes=3):
    """Passes, each certain of one class at its single voxel."""
    return [torch.full((1, classes, 1, 1, 1), -50.0).index_fill(1, torch.tensor([winner]), 50.0) for winner in winners]


def disagreement(found, *, regions):
    both = combine(iter(found), regions=regions, uncertainty=True)
    torch.testing.assert_close(both[:, :-1], combine(found, regions=regions))
    return both[:, -1:]


def test_votes_are_the_mean_of_probabilities():
    logits = [
        torch.tensor([0.0, 2.0, 5.0]).reshape(1, 3, 1, 1, 1),
        torch.tensor([4.0, -1.0, 0.0]).reshape(1, 3, 1, 1, 1),
    ]
    expected = (logits[0].softmax(1) + logits[1].softmax(1)) / 2
    torch.testing.assert_close(combine(logits, regions=False, votes=True), expected)
    expected = (logits[0].sigmoid() + logits[1].sigmoid()) / 2
    torch.testing.assert_close(combine(logits, regions=True, votes=True), expected)


def test_disagreement_is_0_where_passes_agree_and_1_where_they_differ_most():
    assert disagreement(certain(1, 1), regions=False).item() == 0
    assert disagreement(certain(0, 2), regions=False).item() == pytest.approx(1)
    assert disagreement(certain(0, 1, 2), regions=False).item() == pytest.approx(1)
    assert disagreement([torch.zeros(1, 3, 1, 1, 1)] * 2, regions=False).item() == pytest.approx(
        0, abs=1e-6
    )  # unsure, but of one mind
    # by hand: two passes say class 0, two say class 1: one bit, of at most log2(3)
    assert disagreement(certain(0, 0, 1, 1), regions=False).item() == pytest.approx(math.log(2) / math.log(3))


def test_disagreement_of_regions_is_computed_under_autocast_and_with_nan():
    found = [torch.tensor([0.0, float("nan")]).reshape(1, 2, 1, 1, 1)] * 2
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isnan(combine(found, regions=True, uncertainty=True)).any()


def test_disagreement_of_regions_is_their_mean():
    agree, differ = torch.full((1, 1, 1, 1, 1), 60.0), torch.tensor([60.0, -60.0])
    found = [torch.cat([agree, sign.reshape(1, 1, 1, 1, 1)], 1) for sign in differ]
    assert disagreement(found, regions=True).item() == pytest.approx(0.5)
