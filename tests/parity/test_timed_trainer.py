"""nnU-Net's trainer with another length: the schedule hands out the steps, nnU-Net's own loop takes them."""

from __future__ import annotations

import pytest
import torch

from samunet.core.cost import read_cost

nnunet_trainer = pytest.importorskip("nnunetv2.training.nnUNetTrainer.nnUNetTrainer").nnUNetTrainer
from samunet.comparison.timed import Timed  # noqa: E402  # needs nnU-Net
from samunet.training import schedule  # noqa: E402


class Clock:
    """Seconds that pass where the loop says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """Leave of nnU-Net's trainer what counts epochs; everything that trains is gone."""

    def begin(trainer, *_):
        trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 250, 50
        trainer.current_epoch, trainer.device = 0, torch.device("cpu")
        trainer.optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.01)
        trainer.logger = type("Log", (), {"get_value": lambda _, name, __: [3.0] if "end" in name else [1.0]})()

    def count(trainer):
        trainer.current_epoch += 1

    clock = Clock()
    monkeypatch.setattr(schedule, "training_clock", lambda device: clock)
    for name, does in {"__init__": begin, "on_epoch_end": count}.items():
        monkeypatch.setattr(nnunet_trainer, name, does)
    for name in ("on_train_start", "on_epoch_start"):
        monkeypatch.setattr(nnunet_trainer, name, lambda trainer: None)
    return clock


def trained(clock: Clock, folder, **length) -> tuple[list[tuple[int, int]], Timed]:
    """Go through all epochs, 0.1 s a step; returns the training and validation steps of each."""
    trainer = type("Base_length", (Timed,), length)({}, "3d_fullres", 0, {}, torch.device("cpu"))
    trainer.output_folder, steps = str(folder), []
    clock.now = 1000.0  # what comes before the first step does not count
    trainer.on_train_start()
    for _ in range(trainer.num_epochs):
        trainer.on_epoch_start()
        steps.append((trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch))
        clock.now += 0.1 * trainer.num_iterations_per_epoch
        trainer.on_epoch_end()
    return steps, trainer


def test_epochs_without_minutes_are_nnunets_own(clock, tmp_path):
    steps, _ = trained(clock, tmp_path, epochs=3)
    cost = read_cost(tmp_path)
    assert steps == 3 * [(250, 50)]
    assert cost.minutes is None and (cost.epochs, cost.steps) == (3, 750) and cost.wall_minutes == 2 / 60


def test_minutes_are_divided_into_epochs_that_end_on_time(clock, tmp_path):
    """By hand: 60 s of 0.1 s a step are 600 steps, 2 of them in the first epoch and 299 in each of the others."""
    steps, _ = trained(clock, tmp_path, epochs=3, minutes=1.0)
    cost = read_cost(tmp_path)
    assert steps == [(2, 1), (299, 50), (299, 50)]
    assert cost.minutes == pytest.approx(1.0) and (cost.epochs, cost.steps) == (3, 600)
