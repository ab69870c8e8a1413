"""Hypernetworks over features that others made: against torch's own layer norm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from samunet.variants.sam_unet.hypernetwork import Hypernetwork, read_normalized


@pytest.mark.parametrize(
    ("equation", "weights", "features"),
    [("bdkf,bfdhw->bkdhw", (2, 3, 5, 8), (2, 8, 3, 4, 6)), ("pkf,pfhw->pkhw", (7, 1, 8), (7, 8, 4, 6))],
)
def test_masks_are_those_of_layer_normalized_features(equation, weights, features):
    torch.manual_seed(0)
    weights, features = torch.randn(weights, dtype=torch.float64), 3 + 2 * torch.randn(features, dtype=torch.float64)
    normalized = F.layer_norm(features.movedim(1, -1), (8,)).movedim(-1, 1)
    expected = torch.einsum(equation, weights, normalized)
    assert torch.allclose(read_normalized(equation, weights, features), expected, atol=1e-12)


def test_features_of_one_value_in_a_place_give_finite_gradients():
    features = torch.ones(1, 4, 1, 2, 2, requires_grad=True)
    read_normalized("bdkf,bfdhw->bkdhw", torch.randn(1, 1, 2, 4), features).sum().backward()
    assert features.grad.isfinite().all()


def test_weights_begin_at_zero_and_move_by_the_root_of_what_one_layer_would_move_them():
    """One step of sign descent moves each last weight by the rate; the sum over C hidden values of one is C rates."""
    torch.manual_seed(0)
    network = Hypernetwork(16, 3, hidden=0)
    tokens = torch.ones(1, 16)
    assert not network(tokens).any()
    network(tokens).sum().backward()
    with torch.no_grad():
        network[-1].weight += 1e-3 * network[-1].weight.grad.sign()
    assert torch.allclose(network(tokens), torch.full((1, 3), 1e-3 * 16 / 16**0.5))
