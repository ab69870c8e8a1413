"""The learning rate and the settings."""

from __future__ import annotations

import pytest
import torch

from samunet.checkpoints.file import CHECKPOINT_FORMAT, CheckpointState
from samunet.errors import ConfigError
from samunet.training.config import TrainingConfig, settings_from
from samunet.training.pace import validation_steps
from samunet.training.schedule import factor_at, rate_factor, schedule_of


def test_the_rate_rises_linearly_then_falls_to_zero():
    rates = [rate_factor(step, 100, warmup=0.1, power=0.9) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1 and rates[10] == 1
    assert rates[55] == pytest.approx(0.5**0.9)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert 0 < rates[-1] < 0.02


def test_no_warm_up_starts_at_the_peak():
    assert rate_factor(0, 10, warmup=0, power=0.9) == 1


@pytest.mark.parametrize("minutes", [0.0, 5.0])
def test_a_training_goes_on_at_the_rate_of_its_place_whatever_steps_its_epochs_have(minutes):
    """By hand: half of the fourth of ten epochs is over, so 35 % of the training; no warm-up, power 1."""
    config = TrainingConfig(epochs=10, iterations=20, minutes=minutes, warmup=0.0, decay_power=1.0)
    first_step, steps = (70, 40) if minutes else (60, 20)
    saved = CheckpointState(
        format=CHECKPOINT_FORMAT,
        configuration="3d_adapter",
        trainer="SAMTrainer",
        step=first_step + steps // 2,
        epoch=3,
        epoch_loss=1.0,
        best_dice=0.5,
        weights_sha256=None,
        scaler={},
        training={},
        precision="fp32",
        history={},
        pace={"seconds": 90.0, "first_step": first_step, "steps": steps, "began": 80.0},
    )
    schedule = schedule_of(config, torch.device("cpu"), saved)
    assert factor_at(saved.step, schedule, config) == pytest.approx(0.65)
    schedule.begin_epoch(4)
    assert factor_at(first_step + steps, schedule, config) == pytest.approx(0.6)  # the first step of the fifth


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


def test_minutes_alone_leave_the_number_of_epochs_open():
    assert settings_from({"minutes": 3.0}) == TrainingConfig(minutes=3.0, epochs=0)
    for given in ({"minutes": 3.0, "epochs": 30}, {"minutes": 3.0, "stop_epoch": 5}, {"seed": 1}, {"minutes": 0.0}):
        assert settings_from(given) == TrainingConfig(**given)
    with pytest.raises(ConfigError, match="goes with minutes and without stop_epoch"):
        TrainingConfig(minutes=3.0, epochs=0, stop_epoch=5)


def test_validation_takes_at_most_a_fifth_of_the_iterations():
    assert validation_steps(250) == 50
    assert validation_steps(20) == 4
    assert validation_steps(2) == 1
