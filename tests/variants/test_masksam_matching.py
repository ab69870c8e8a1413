"""The set criterion against brute force and numbers worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from samunet.variants.masksam.matching import (
    Said,
    SetWeights,
    _assign,
    generalized_iou,
    set_sums,
    set_terms,
    tight_boxes,
)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_tight_boxes_are_those_of_a_search(seed):
    masks = np.random.default_rng(seed).random((3, 5, 7)) < 0.15
    for mask, box in zip(masks, tight_boxes(torch.from_numpy(masks)).tolist(), strict=True):
        rows, columns = np.nonzero(mask)
        expected = (
            [columns.min() / 7, rows.min() / 5, (columns.max() + 1) / 7, (rows.max() + 1) / 5]
            if len(rows)
            else [0, 0, 0, 0]
        )
        assert box == pytest.approx(expected)


def test_generalized_iou_of_boxes_by_hand():
    box = torch.tensor([0.0, 0.0, 0.5, 0.5])
    assert generalized_iou(box, box).item() == pytest.approx(1)
    assert generalized_iou(box, torch.tensor([0.25, 0.0, 0.75, 0.5])).item() == pytest.approx(
        1 / 3
    )  # the hull is the union
    assert generalized_iou(box, torch.tensor([0.5, 0.5, 1.0, 1.0])).item() == pytest.approx(
        -0.5
    )  # no overlap; half of the hull is empty


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_the_assignment_is_the_cheapest_of_all(seed, slices):
    random = np.random.default_rng(seed)
    costs = torch.from_numpy(random.normal(size=(slices, 4, 3)))
    present = torch.from_numpy(random.random((slices, 3)) < 0.6)
    where, query, target = _assign(costs, present, 1)
    for place in range(slices):
        wanted = present[place].nonzero().flatten().tolist()
        cheapest = min(
            (
                sum(costs[place, q, t].item() for q, t in zip(chosen, wanted, strict=True))
                for chosen in itertools.permutations(range(4), len(wanted))
            ),
            default=0.0,
        )
        here = where == place
        assert sorted(target[here].tolist()) == wanted and len(set(query[here].tolist())) == len(wanted)
        assert costs[place, query[here], target[here]].sum().item() == pytest.approx(cheapest)


def test_a_volume_has_one_assignment_and_a_slice_its_own():
    costs = torch.tensor(
        [[[0.0, 9.0], [5.0, 0.0]], [[4.0, 0.0], [0.0, 5.0]]], dtype=torch.float64
    )  # the second slice prefers the other way round
    present = torch.ones(2, 2, dtype=torch.bool)
    assert list(zip(*(part.tolist() for part in _assign(costs, present, 1)), strict=True)) == [
        (0, 0, 0),
        (0, 1, 1),
        (1, 0, 1),
        (1, 1, 0),
    ]
    assert list(zip(*(part.tolist() for part in _assign(costs, present, 2)), strict=True)) == [
        (0, 0, 0),
        (0, 1, 1),
        (1, 0, 0),
        (1, 1, 1),
    ]


def random_found(queries=4, classes=3, shape=(1, 2, 6, 8), seed=0) -> tuple[Said, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size, depth, height, width = shape
    masks, auxiliary = (torch.randn(size, queries, depth, height, width, generator=generator) for _ in range(2))
    corners = torch.rand(size, depth, queries, 2, 2, generator=generator).sort(dim=3).values
    label = torch.randint(0, classes, shape, generator=generator)
    targets = F.one_hot(label, classes).movedim(-1, 1).float()
    logits = torch.randn(size, depth, queries, classes + 1, generator=generator)
    return Said(masks=masks, auxiliary=auxiliary, boxes=corners.flatten(3), classes=logits), targets


def test_the_loss_is_the_sum_over_matches_written_out():
    found, targets = random_found()
    weights = SetWeights()
    terms = set_terms(set_sums(found, targets, torch.ones(1, 2, 6, 8, dtype=torch.bool), weights), weights)
    expected = dict.fromkeys(terms, 0.0)
    share = 0.0
    for d in range(2):

        def pair(logits, target):
            chance = logits.sigmoid()
            dice = 1 - (2 * (chance * target).sum() + 1) / (chance.sum() + target.sum() + 1)
            return F.binary_cross_entropy_with_logits(logits, target) + dice

        table = torch.zeros(4, 3)
        parts = {}
        for q, k in itertools.product(range(4), range(3)):
            target = targets[0, k, d]
            box, wanted = found.boxes[0, d, q], tight_boxes(target > 0)
            parts[q, k] = {
                "mask": pair(found.masks[0, q, d], target),
                "auxiliary": pair(found.auxiliary[0, q, d], target),
                "box": (box - wanted).abs().sum(),
                "giou": 1 - generalized_iou(box, wanted),
            }
            chance = found.classes[0, d, q].softmax(-1)[k]
            table[q, k] = (
                1.5 * parts[q, k]["mask"]
                + 0.5 * parts[q, k]["auxiliary"]
                + 0.5 * parts[q, k]["box"]
                + 0.2 * parts[q, k]["giou"]
                - 0.2 * chance
            )
        best = min(
            itertools.permutations(range(4), 3),
            key=lambda chosen: sum(table[q, k].item() for k, q in enumerate(chosen)),
        )
        classes = [3] * 4
        for k, q in enumerate(best):
            classes[q] = k
            for name, value in parts[q, k].items():
                expected[name] += value.item()
        for q, k in enumerate(classes):
            weight = 0.1 if k == 3 else 1.0  # no object: DETR's and the paper's
            expected["class"] += weight * F.cross_entropy(found.classes[0, d, q : q + 1], torch.tensor([k])).item()
            share += weight
    factors = {"mask": 1.5 / 6, "auxiliary": 0.5 / 6, "box": 0.5 / 6, "giou": 0.2 / 6, "class": 0.2 / share}
    for name, value in terms.items():
        assert value.item() == pytest.approx(factors[name] * expected[name], rel=1e-5), name


def test_voxels_that_are_not_known_change_nothing():
    found, targets = random_found(seed=3)
    known = torch.ones(1, 2, 6, 8, dtype=torch.bool)
    known[0, 0, :, :4] = False
    moved = Said(*(part.clone() for part in found))
    moved.masks[0, :, 0, :, :4] += 5
    other = targets.clone()
    other[0, :, 0, :, :4] = other[0, :, 0, :, :4].flip(0)
    one, two = (set_sums(a, b, known, SetWeights()) for a, b in ((found, targets), (moved, other)))
    assert all(torch.allclose(one[name], two[name]) for name in one)


def test_sampled_points_estimate_the_whole():
    """The matching's points are drawn uniformly; the loss looks where the logits are least decided."""
    found, targets = random_found(shape=(1, 1, 64, 64), seed=5)
    known = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    torch.manual_seed(0)
    whole, sampled = (set_sums(found, targets, known, SetWeights(points=points)) for points in (4096, 2000))
    assert sampled["mask"].item() == pytest.approx(whole["mask"].item(), rel=0.25) and sampled["mask"] != whole["mask"]
    assert sampled["class"].item() == pytest.approx(whole["class"].item(), rel=0.5)


def test_sums_over_many_points_do_not_overflow_under_16_bits():
    generator = torch.Generator().manual_seed(0)
    targets = torch.zeros(1, 2, 1, 192, 192)
    targets[:, 0], targets[:, 1, :, :40, :40] = 1, 1
    targets[:, 0, :, :40, :40] = 0
    masks = torch.where(targets[:, [0, 1, 1]] > 0, 6.0, -6.0)
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 3, 4)
    found = Said(
        masks=masks.half(),
        auxiliary=masks.half(),
        boxes=boxes,
        classes=torch.randn(1, 1, 3, 3, generator=generator).half(),
    )
    with torch.autocast("cpu", torch.float16):
        sums = set_sums(found, targets, torch.ones(1, 1, 192, 192, dtype=torch.bool), SetWeights())
    assert all(value.dtype == torch.float32 and value.isfinite() for value in sums.values())
    assert sums["mask"].item() < 0.1  # the right queries were found


def test_costs_that_are_no_numbers_do_not_stop_the_assignment():
    costs = torch.tensor([[[float("nan"), float("inf")], [0.0, -float("inf")]]])
    _, query, target = _assign(costs, torch.ones(1, 2, dtype=torch.bool), 1)
    assert sorted(target.tolist()) == [0, 1] and len(set(query.tolist())) == 2
