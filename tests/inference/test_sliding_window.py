"""The sliding window with networks whose answer is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from samunet.errors import ShapeError
from samunet.inference.accumulators import accumulators
from samunet.inference.sliding_window import sliding_window

CPU = torch.device("cpu")


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(3, 9), st.integers(5, 17), st.integers(4, 13)),
    steps=st.tuples(*[st.sampled_from([0.3, 0.5, 1.0])] * 3),
    tile_batch=st.integers(1, 5),
    uniform=st.booleans(),
)
def test_a_network_that_copies_the_image_gives_the_image(shape, steps, tile_batch, uniform):
    image = torch.randn(2, *shape)
    scores = sliding_window(
        lambda tiles: tiles,
        image,
        torch.zeros(2, *shape),
        tile=(3, 5, 4),
        steps=steps,
        tile_batch=tile_batch,
        device=CPU,
        uniform=uniform,
    )
    assert torch.allclose(scores, image, atol=1e-5)


@pytest.mark.parametrize("uniform", [False, True], ids=["gaussian", "uniform"])
def test_it_is_the_naive_weighted_mean_of_all_tiles_one_by_one(uniform):
    shape, tile, starts = (
        (5, 9, 11),
        (3, 4, 5),
        [(0, 1, 2), (0, 2, 3, 5), (0, 2, 4, 6)],
    )  # steps of a third, a half, a half
    image = torch.randn(1, *shape)
    ramp = torch.arange(60.0).reshape(tile) / 7  # the answer depends on the place in the tile
    weight = np.ones(tile)
    if not uniform:
        impulse = np.zeros(tile)
        impulse[1, 2, 2] = 1
        weight = gaussian_filter(impulse, [size / 8 for size in tile], mode="constant")
        weight /= weight.max()
        weight[weight == 0] = weight[weight > 0].min()
    total, count = np.zeros((2, *shape)), np.zeros(shape)
    for d, h, w in itertools.product(*starts):
        place = (slice(d, d + 3), slice(h, h + 4), slice(w, w + 5))
        part = image[0][place].numpy()
        total[(slice(None), *place)] += np.stack([part * ramp.numpy(), part**2]) * weight
        count[place] += weight
    found = sliding_window(
        lambda tiles: torch.cat([tiles * ramp, tiles**2], 1),
        image,
        torch.zeros(2, *shape),
        tile=tile,
        steps=(1 / 3, 0.5, 0.5),
        tile_batch=4,
        device=CPU,
        uniform=uniform,
    )
    np.testing.assert_allclose(found, total / count, rtol=1e-4, atol=1e-5)


def test_sums_in_a_file_are_those_in_memory_and_leave_nothing_behind(tmp_path):
    image = torch.randn(2, 6, 20, 20)
    options = {"tile": (3, 8, 8), "steps": (0.5, 0.5, 0.5), "tile_batch": 2, "device": CPU}
    in_memory = sliding_window(torch.sin, image, accumulators((2, 6, 20, 20), CPU), **options)
    folder = tmp_path / "scores"
    in_file = sliding_window(torch.sin, image, accumulators((2, 6, 20, 20), folder), **options)
    assert torch.equal(in_memory, in_file) and not list(folder.iterdir())


def test_an_image_smaller_than_the_tile_is_refused():
    with pytest.raises(ShapeError, match="tile"):
        sliding_window(
            lambda t: t,
            torch.zeros(1, 2, 8, 8),
            torch.zeros(1, 2, 8, 8),
            tile=(3, 8, 8),
            steps=(0.5, 0.5, 0.5),
            tile_batch=1,
            device=CPU,
        )
