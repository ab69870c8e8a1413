"""The loss at undecided points: which they are, and that it is the plain loss where all points are taken."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from samunet.core.labels import parse_labels
from samunet.models import point_loss
from samunet.models.losses import slab_sums
from samunet.models.point_loss import at_points, mask_loss, undecided


def test_three_quarters_of_the_points_are_undecided_ones():
    torch.manual_seed(0)
    margin = torch.ones(2, 4000)
    margin[:, ::3] = 0  # a third: of 1200 that are drawn more than the 300 that are wanted
    places = undecided(margin, margin > -1, 400)
    assert places.shape == (2, 400)
    assert not margin.gather(1, places)[:, :300].any()
    assert 0.5 < margin.gather(1, places)[:, 300:].mean() < 0.85  # the rest knows nothing of it
    assert torch.equal(undecided(margin, margin > -1, 4000)[1], torch.arange(4000))


def test_points_are_drawn_among_the_voxels_that_count():
    torch.manual_seed(0)
    margin, known = torch.rand(3, 4000), torch.zeros(3, 4000, dtype=torch.bool)
    known[0, ::50], known[1, 7] = True, True
    places = undecided(margin, known, 400)
    assert known[0][places[0]].all() and len(places[0].unique()) > 50 and (places[1] == 7).all()
    assert places.max() < 4000  # the last row has none
    logits, targets = torch.randn(3, 4000), torch.ones(3, 4000)
    losses = mask_loss(logits, targets, known.float(), 400)
    alone = torch.ones(1, 400)
    assert torch.isclose(losses[1], mask_loss(logits[1, 7] * alone, alone, alone, 400)[0])
    assert losses[2] == 0


def test_with_all_points_the_loss_of_masks_is_cross_entropy_and_dice():
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 50), torch.randint(0, 2, (3, 50)).float()
    known = torch.ones(3, 50)
    known[:, 40:] = 0
    seen, wanted = logits[:, :40], targets[:, :40]
    chances = seen.sigmoid()
    dice = 1 - (2 * (chances * wanted).sum(1) + 1) / (chances.sum(1) + wanted.sum(1) + 1)
    expected = F.binary_cross_entropy_with_logits(seen, wanted, reduction="none").mean(1) + dice
    assert torch.allclose(mask_loss(logits, targets, known, 50), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_with_few_voxels_a_loss_at_points_is_the_plain_one(kind):
    names = {"background": 0, "a": 1, "b": 2} if kind == "classes" else {"background": 0, "whole": [1, 2], "core": 2}
    labels = parse_labels(names, None if kind == "classes" else [1, 2])
    torch.manual_seed(0)
    logits, label = torch.randn(2, labels.outputs, 2, 5, 6), torch.randint(0, 3, (2, 2, 5, 6)).short()
    plain, pointed = slab_sums(logits, label, labels), slab_sums(*at_points(logits, label, labels), labels)
    assert all(torch.allclose(plain[name], pointed[name], rtol=1e-5) for name in plain)


def test_points_lie_where_the_two_best_classes_are_close_and_not_where_the_label_is_ignored(monkeypatch):
    monkeypatch.setattr(point_loss, "OF_A_SLICE", 40)
    labels = parse_labels({"background": 0, "a": 1, "b": 2, "ignore": 3})
    logits = torch.zeros(1, 3, 1, 20, 40)
    logits[:, 0, ..., 20:] = 9  # decided, but for twenty columns
    label = torch.zeros(1, 1, 20, 40, dtype=torch.int16)
    label[..., :10] = 3
    torch.manual_seed(0)
    chosen, values = at_points(logits, label, labels)
    assert chosen.shape == (1, 3, 40, 1, 1) and values.shape == (1, 40, 1, 1)
    assert not chosen[0, 0, :30].any()  # of the 120 that are drawn a third lies in the other ten columns
    assert not (values == 3).any()
