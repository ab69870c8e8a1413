"""Losses against hand-computed values and against nnU-Net's conventions."""

from __future__ import annotations

import math

import pytest
import torch

from samunet.core.labels import parse_labels
from samunet.models.losses import (
    deep_supervision_sums,
    deep_supervision_terms,
    nearest,
    region_targets,
    segmentation_terms,
)

LABELS = parse_labels({"background": 0, "a": 1, "b": 2})


def certain(label: torch.Tensor, classes: int) -> torch.Tensor:
    """Logits that are right everywhere with probability 1."""
    return 100.0 * torch.nn.functional.one_hot(label.long(), classes).movedim(-1, 1).float()


def supervised(outputs, label):
    return deep_supervision_terms(deep_supervision_sums(outputs, label, LABELS, batch_dice=False), LABELS)


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_costs_dice_one():
    label = torch.zeros(2, 1, 4, 4, dtype=torch.int16)
    label[:, :, :2], label[:, :, 2:, :2] = 1, 2
    perfect = segmentation_terms(certain(label, 3), label, LABELS, batch_dice=False)
    assert perfect["ce"].item() == pytest.approx(0, abs=1e-6) and perfect["dice"].item() == pytest.approx(0, abs=1e-5)
    swapped = segmentation_terms(certain((label + 1) % 3, 3), label, LABELS, batch_dice=False)
    assert swapped["dice"].item() == pytest.approx(1, abs=1e-4)


def test_undecided_logits_give_the_logarithm_of_the_classes():
    label = torch.zeros(1, 2, 2, 2, dtype=torch.int16)
    terms = segmentation_terms(torch.zeros(1, 3, 2, 2, 2), label, LABELS, batch_dice=False)
    assert terms["ce"].item() == pytest.approx(math.log(3))


def test_dice_by_hand():
    # One class on four voxels, probabilities 0.5 everywhere, reference on one voxel: (2 * 0.5 + s) / (2 + 1 + s).
    labels = parse_labels({"background": 0, "a": 1})
    label = torch.tensor([1, 0, 0, 0], dtype=torch.int16).reshape(1, 1, 2, 2)
    terms = segmentation_terms(torch.zeros(1, 2, 1, 2, 2), label, labels, batch_dice=False)
    assert terms["dice"].item() == pytest.approx(1 - (1 + 1e-5) / (3 + 1e-5))


def test_batch_dice_pools_the_sums_over_samples():
    labels = parse_labels({"background": 0, "a": 1})
    label = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.int16).reshape(2, 1, 2, 2)
    logits = certain(label, 2)
    logits[1] = certain(torch.tensor([1, 0, 0, 0]).reshape(1, 1, 2, 2), 2)[0]  # one false positive voxel
    each = segmentation_terms(logits, label, labels, batch_dice=False)["dice"].item()
    pooled = segmentation_terms(logits, label, labels, batch_dice=True)["dice"].item()
    assert each == pytest.approx(0.5, abs=1e-4)  # samples 1 and 0
    assert pooled == pytest.approx(1 - 8 / 9, abs=1e-4)


def test_ignored_voxels_have_no_gradient():
    labels = parse_labels({"background": 0, "a": 1, "ignore": 2})
    label = torch.tensor([1, 0, 2, 2], dtype=torch.int16).reshape(1, 1, 2, 2)
    logits = torch.randn(1, 2, 1, 2, 2, requires_grad=True)
    sum(segmentation_terms(logits, label, labels, batch_dice=False).values()).backward()
    assert logits.grad[..., 1, :].abs().max() == 0 and logits.grad[..., 0, :].abs().min() > 0


def test_a_batch_without_annotated_voxels_gives_finite_terms():
    labels = parse_labels({"background": 0, "a": 1, "ignore": 2})
    terms = segmentation_terms(torch.randn(1, 2, 1, 2, 2), torch.full((1, 1, 2, 2), 2), labels, batch_dice=False)
    assert all(term.isfinite() for term in terms.values()) and terms["ce"] == 0


def test_regions_are_binary_problems_of_their_own():
    labels = parse_labels({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    label = torch.tensor([0, 1, 2, 0], dtype=torch.int16).reshape(1, 1, 2, 2)
    assert region_targets(label, labels).flatten(2).tolist() == [[[0, 1, 1, 0], [0, 0, 1, 0]]]
    terms = segmentation_terms(torch.zeros(1, 2, 1, 2, 2), label, labels, batch_dice=False)
    assert terms["bce"].item() == pytest.approx(math.log(2))


def test_deep_supervision_weights_halve_and_add_up_to_one():
    label = torch.zeros(1, 4, 4, 4, dtype=torch.int16)
    outputs = [torch.zeros(1, 3, 4, 4, 4), torch.zeros(1, 3, 2, 2, 2)]
    terms = supervised(outputs, label)
    assert terms["ce"].item() == pytest.approx(
        math.log(3)
    )  # every level has ln 3, so weights that add up to one give ln 3
    wrong_below = [certain(label, 3), certain((label[:, ::2, ::2, ::2] + 1) % 3, 3)]
    single = segmentation_terms(wrong_below[1], label[:, ::2, ::2, ::2], LABELS, batch_dice=False)["ce"].item()
    assert supervised(wrong_below, label)["ce"].item() == pytest.approx(single / 3)


def test_labels_shrink_by_nearest_neighbour():
    label = torch.arange(8, dtype=torch.int16).reshape(1, 1, 1, 8).repeat(1, 1, 2, 1)
    assert nearest(label, (1, 1, 4))[0, 0, 0].tolist() == [1, 3, 5, 7]
