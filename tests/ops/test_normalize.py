"""Intensity schemes."""

import dataclasses

import numpy as np
import pytest

from samunet.core.fingerprint import IntensityStatistics
from samunet.core.plan import ChannelPlan
from samunet.errors import ConfigError, DatasetError, ShapeError
from samunet.ops.normalize import SCHEMES, normalize, scheme_for

STATISTICS = IntensityStatistics(
    mean=40, median=41, std=20, minimum=-90, maximum=300, percentile_00_5=-60, percentile_99_5=200
)
SHAPE = (1, 3, 4, 5)
EVERYWHERE = np.ones(SHAPE[1:], bool)


def channel(scheme, within_mask=False):
    return ChannelPlan(name="t", scheme=scheme, within_mask=within_mask, intensities=STATISTICS)


def image():
    return np.random.default_rng(0).normal(100, 50, SHAPE).astype(np.float32)


@pytest.mark.parametrize(
    "name,scheme",
    [("CT", "ct"), ("noNorm", "none"), ("zscore", "zscore"), ("rescale_to_0_1", "rescale_to_0_1"),
     ("RGB_to_0_1", "rgb_to_0_1"), ("T2w", "zscore"), ("none", "zscore"), ("", "zscore")],
)  # fmt: skip
def test_channel_name_chooses_the_scheme(name, scheme):
    assert scheme_for(name) == scheme
    assert scheme in SCHEMES


def test_ct_clips_to_percentiles_and_scales_by_the_dataset():
    given = np.array([-1000, -60, 40, 60, 3000], np.float32).reshape(1, 1, 1, 5)
    np.testing.assert_allclose(normalize(given, [channel("ct")], np.ones((1, 1, 5), bool)).ravel(), [-5, -5, 0, 1, 8])


def test_zscore_has_mean_0_and_std_1():
    result = normalize(image(), [channel("zscore")], EVERYWHERE)
    assert result.dtype == np.float32
    assert abs(result.mean()) < 1e-6
    assert abs(result.std() - 1) < 1e-6


def test_masked_zscore_changes_only_the_mask():
    mask = EVERYWHERE.copy()
    mask[0] = False
    given = image()
    result = normalize(given, [channel("zscore", within_mask=True)], mask)
    np.testing.assert_array_equal(result[0, 0], given[0, 0])
    assert abs(result[0][mask].mean()) < 1e-6
    assert abs(result[0][mask].std() - 1) < 1e-6


@pytest.mark.parametrize("mask", [EVERYWHERE, ~EVERYWHERE])
@pytest.mark.parametrize("scheme", ["zscore", "rescale_to_0_1", "rgb_to_0_1", "none", "ct"])
@pytest.mark.parametrize("within_mask", [True, False])
def test_all_zero_image_stays_finite(scheme, mask, within_mask):
    assert np.isfinite(normalize(np.zeros(SHAPE, np.float32), [channel(scheme, within_mask)], mask)).all()


def test_constant_image_becomes_zero():
    assert not normalize(np.full(SHAPE, 0.1, np.float32), [channel("zscore")], EVERYWHERE).any()


def test_rescale_spans_0_to_1():
    result = normalize(image(), [channel("rescale_to_0_1")], EVERYWHERE)
    assert (result.min(), result.max()) == (0, 1)


def test_rgb_outside_a_byte_is_refused():
    given = np.full(SHAPE, 255, np.float32)
    assert normalize(given, [channel("rgb_to_0_1")], EVERYWHERE).max() == 1
    with pytest.raises(DatasetError, match="0 to 255; got 256 to 256"):
        normalize(given + 1, [channel("rgb_to_0_1")], EVERYWHERE)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("within_mask", [True, False])
def test_input_is_not_modified(scheme, within_mask):
    given = np.clip(image(), 0, 255)
    before = given.copy()
    result = normalize(given, [channel(scheme, within_mask)], EVERYWHERE)
    np.testing.assert_array_equal(given, before)
    assert not np.shares_memory(result, given)


def test_each_channel_follows_its_own_plan():
    result = normalize(np.concatenate([image(), image()]), [channel("none"), channel("zscore")], EVERYWHERE)
    np.testing.assert_array_equal(result[0], image()[0])
    assert abs(result[1].mean()) < 1e-6


def test_unknown_scheme_and_missing_channel_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'zscore'"):
        normalize(image(), [dataclasses.replace(channel("ct"), scheme="zscor")], EVERYWHERE)
    with pytest.raises(ShapeError, match="2 planned channels"):
        normalize(image(), [channel("ct")] * 2, EVERYWHERE)


@pytest.mark.parametrize("scheme", ["zscore", "rescale_to_0_1"])
@pytest.mark.parametrize("unit", [1e30, 1e36, 1e-11, 1e-25])
def test_an_image_in_other_units_is_normalized_alike(scheme, unit):
    exact = image().astype(np.float64)
    scaled = normalize((exact * unit).astype(np.float32), [channel(scheme)], EVERYWHERE)
    shifted = exact - (exact.mean() if scheme == "zscore" else exact.min())
    np.testing.assert_allclose(scaled, shifted / (exact.std() if scheme == "zscore" else np.ptp(exact)), atol=1e-5)


def test_values_at_both_ends_of_float32_do_not_overflow():
    given = image()
    given.flat[:2] = np.finfo(np.float32).max, np.finfo(np.float32).min
    exact = given.astype(np.float64)
    np.testing.assert_allclose(
        normalize(given, [channel("zscore")], EVERYWHERE), (exact - exact.mean()) / exact.std(), rtol=1e-5
    )


@pytest.mark.parametrize("value", [0.0, 1e-12, 0.1, 1e35])
@pytest.mark.parametrize("scheme", ["zscore", "rescale_to_0_1"])
def test_a_constant_channel_becomes_zero_whatever_its_value(scheme, value):
    assert not normalize(np.full(SHAPE, value, np.float32), [channel(scheme)], EVERYWHERE).any()
