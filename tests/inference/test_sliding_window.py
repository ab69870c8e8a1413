"""The sliding window with networks whose answer is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samunet.errors import ShapeError
from samunet.inference.sliding_window import mean_over_flips, sliding_window

CPU = torch.device("cpu")


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(3, 9), st.integers(5, 17), st.integers(4, 13)),
    step=st.sampled_from([0.3, 0.5, 1.0]),
    tile_batch=st.integers(1, 5),
)
def test_a_network_that_copies_the_image_gives_the_image(shape, step, tile_batch):
    image = torch.randn(2, *shape)
    logits = sliding_window(
        lambda tiles: tiles, image, outputs=2, tile=(3, 5, 4), step=step, mirror_axes=(0, 1, 2), tile_batch=tile_batch, device=CPU
    )
    assert torch.allclose(logits, image, atol=1e-5)


def test_flips_are_undone_and_all_combinations_are_averaged():
    seen = []

    def place_dependent(tiles):
        seen.append(tiles)
        ramp = torch.arange(4.0).reshape(1, 1, 1, 1, 4)  # depends on the place in the tile, so flips matter
        return tiles + ramp

    tiles = torch.randn(1, 1, 2, 3, 4)
    result = mean_over_flips(place_dependent, tiles, (0, 2))
    assert len(seen) == 4
    assert torch.allclose(result, tiles + 1.5, atol=1e-6)  # half of the calls see the ramp reversed


def test_no_mirror_axes_means_one_call():
    calls = []
    mean_over_flips(lambda tiles: calls.append(1) or tiles, torch.zeros(1, 1, 2, 2, 2), ())
    assert len(calls) == 1


def test_an_image_smaller_than_the_tile_is_refused():
    with pytest.raises(ShapeError, match="tile"):
        sliding_window(lambda t: t, torch.zeros(1, 2, 8, 8), outputs=1, tile=(3, 8, 8), step=0.5, mirror_axes=(), tile_batch=1, device=CPU)
