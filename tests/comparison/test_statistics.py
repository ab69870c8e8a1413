"""Paired statistics against scipy, hand-worked values and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from samunet.comparison.statistics import holm, is_shown, paired_difference, rank_shares


def names(count):
    return [f"p{index}" for index in range(count)]


def test_identical_scores_differ_by_nothing():
    scores = np.random.default_rng(0).random(20)
    found = paired_difference(scores, scores, names(20))
    assert (found.mean, found.low, found.high, found.p, found.cases) == (0, 0, 0, 1, 20)
    assert not is_shown(found)


def test_the_interval_and_the_test_are_scipys():
    random = np.random.default_rng(1)
    first = random.random(25)
    second = first + random.normal(0.05, 0.1, 25)
    found = paired_difference(first, second, names(25))
    assert found.mean == pytest.approx((second - first).mean())
    assert found.p == pytest.approx(stats.wilcoxon(second - first, zero_method="pratt").pvalue)
    expected = stats.bootstrap(
        (second - first,), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(5)
    ).confidence_interval
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=0.005), pytest.approx(expected.high, abs=0.005))


def test_cases_without_a_number_do_not_count():
    first, second = np.array([0.5, np.nan, 0.6, 0.7, 0.8]), np.array([0.6, 0.9, np.nan, 0.8, 0.9])
    found = paired_difference(first, second, names(5))
    assert found.cases == 3 and found.mean == pytest.approx(0.1)
    nothing = paired_difference(np.array([np.nan]), np.array([1.0]), ["a"])
    assert nothing.cases == 0 and math.isnan(nothing.mean) and not is_shown(nothing)


def test_cases_of_one_patient_are_one_draw():
    random = np.random.default_rng(2)
    differences = np.repeat(random.normal(0.02, 0.05, 12), 10)  # ten equal cases per patient
    apart = paired_difference(np.zeros(120), differences, names(120))
    together = paired_difference(np.zeros(120), differences, np.repeat(names(12), 10).tolist())
    assert together.mean == pytest.approx(apart.mean)
    assert together.high - together.low > 2.5 * (apart.high - apart.low)
    assert together.p > apart.p


def test_a_planted_difference_is_shown_on_60_cases_and_not_on_5():
    random = np.random.default_rng(3)
    for count, shown in ((60, True), (5, False)):
        first = random.uniform(0.7, 0.9, count)
        found = paired_difference(first, first + 0.02 + random.normal(0, 0.03, count), names(count))
        assert is_shown(found) == shown


def test_without_a_difference_few_simulations_show_one():
    """Both criteria together must hold, so that slightly fewer than 5 % do."""
    random = np.random.default_rng(4)
    shown = 0
    for _ in range(1000):
        first = random.uniform(0.6, 0.9, 40)
        shown += is_shown(paired_difference(first, first + random.normal(0, 0.04, 40), names(40)))
    assert 30 <= shown <= 70


def test_many_equal_cases_do_not_make_a_few_better_ones_significant():
    """The normal approximation gives p = 0.046 and 0.026 here."""
    for equal, better in ((30, 4), (9, 5)):
        second = np.concatenate([np.zeros(equal), np.linspace(0.1, 0.2, better)])
        found = paired_difference(np.zeros(len(second)), second, names(len(second)))
        assert found.p == pytest.approx(2 * 0.5**better, abs=0.02) and not is_shown(found)


def test_a_mean_and_ranks_that_point_to_different_sides_show_nothing():
    random = np.random.default_rng(6)
    second = np.concatenate([random.uniform(0.01, 0.02, 50), random.uniform(-0.6, -0.5, 10)])
    found = paired_difference(np.zeros(60), second, names(60))
    assert found.high < 0 and found.p < 0.05 and found.rank_sign == 1 and not is_shown(found)


def test_holm_is_worked_out_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    adjusted = holm([0.6, math.nan, 0.9])
    assert adjusted[0] == adjusted[2] == 1 and math.isnan(adjusted[1])


def test_rank_shares_follow_the_means():
    random = np.random.default_rng(5)
    base = random.random(30)
    scores = np.stack([base, base + 0.5, base], axis=1)
    assert rank_shares(scores, names(30)) == (0, 1, 0)
    even = rank_shares(np.stack([base, base], axis=1), names(30))
    assert even == pytest.approx((0.5, 0.5))
    assert sum(rank_shares(random.random((20, 3)), names(20))) == pytest.approx(1)
