"""Distinct values against numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samunet.core.values import distinct


@given(hnp.arrays(st.sampled_from([np.int16, np.int32, np.uint8]), hnp.array_shapes(max_dims=3, min_side=0)))
def test_values_are_numpys(array):
    assert distinct(array) == tuple(np.unique(array).tolist())


@pytest.mark.parametrize("values", [[-1, 0, 3], [-5, -2], [7], [0, 1 << 21], [-(1 << 15), (1 << 15) - 1]])
def test_spans_of_all_kinds(values):
    array = np.random.default_rng(0).permutation(np.repeat(values, 5)).reshape(-1, 5).astype(np.int32)
    assert distinct(array) == tuple(values)
