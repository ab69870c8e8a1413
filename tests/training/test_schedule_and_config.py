"""The learning rate and the settings."""

from __future__ import annotations

import pytest

from samunet.errors import ConfigError
from samunet.training.config import TrainingConfig
from samunet.training.pace import validation_steps
from samunet.training.schedule import rate_factor


def test_the_rate_rises_linearly_then_falls_to_zero():
    rates = [rate_factor(step, 100, warmup=0.1, power=0.9) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1 and rates[10] == 1
    assert rates[55] == pytest.approx(0.5**0.9)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert 0 < rates[-1] < 0.02


def test_no_warm_up_starts_at_the_peak():
    assert rate_factor(0, 10, warmup=0, power=0.9) == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs must be 1 or more; got 0"),
        ("iterations", -3, "iterations must be 1 or more; got -3"),
        ("learning_rate", 0.0, "learning_rate must be above 0"),
        ("precision", "fp8", "precision must be one of auto, bf16, fp16, fp32; got 'fp8'"),
        ("warmup", 1.0, r"warmup must be in \[0, 1\)"),
    ],
)
def test_impossible_settings_are_refused_by_name(field, value, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**{field: value})


def test_validation_takes_at_most_a_fifth_of_the_iterations():
    assert validation_steps(250) == 50
    assert validation_steps(20) == 4
    assert validation_steps(2) == 1
