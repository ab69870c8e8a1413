"""How long a training is: the steps of its epochs, and the learning rate over them."""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch

from samunet.checkpoints.file import CheckpointState
from samunet.machine.progress import MINUTES_INSTEAD
from samunet.training.config import TrainingConfig
from samunet.training.forecast import Forecast, seconds_left
from samunet.training.pace import Pace, training_clock
from samunet.training.run import Run

NOT_WITH_MINUTES = ("--epochs", "--stop_epoch", "-num_gpus")  # options of a training of so many epochs


class Schedule(Protocol):
    """Divides a training into epochs of steps, and says when it will end."""

    @property
    def epoch(self) -> int:
        """The epoch that runs, from 0."""

    @property
    def first_step(self) -> int:
        """The first step of the epoch that runs."""

    @property
    def steps(self) -> int:
        """The steps of the epoch that runs."""

    @property
    def last_epoch(self) -> int:
        """The epoch after which training ends."""

    @property
    def measuring_epochs(self) -> int:
        """First epochs that count for nothing in the learning rate, as they only measure."""

    @property
    def total(self) -> int | None:
        """The steps of the whole training; None where they are not known before its end."""

    @property
    def minutes(self) -> float | None:
        """What the training took of the minutes that it was told; None where it was told none."""

    @property
    def seconds_left(self) -> float | None:
        """The seconds until the end; None where they are not known."""

    def start(self) -> None:
        """Begin to count time."""

    def ahead(self, step: int) -> int:
        """Return for how many steps from this one on patches are to be prepared."""

    def after_step(self, step: int) -> str | None:
        """Look ahead after so many steps; returns a sentence on how long the training will take, once, or None."""

    def begin_epoch(self, epoch: int) -> None:
        """Go to an epoch, from 0, that follows on the one before."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold for the schedule to go on."""


class FixedEpochs:
    """Epochs of a fixed number of steps.

    Args:
        device: for what is said of it.
        step: steps done so far.
        epoch: epochs done so far.
        way_out: see `Forecast`.
    """

    minutes: float | None = None
    measuring_epochs = 0

    def __init__(
        self, config: TrainingConfig, device: str, *, step: int = 0, epoch: int = 0, way_out: str = ""
    ) -> None:
        self.config, self.device, self.epoch = config, device, epoch
        self.steps, self.total, self.last_epoch = config.iterations, config.steps, config.last_epoch
        self._forecast = Forecast(way_out=way_out)
        self._epoch_seconds: list[float] = []  # of epochs that this run trained from their first step to their end
        self._whole = step <= self.first_step
        self._began = time.monotonic()

    @property
    def first_step(self) -> int:
        """The first step of the epoch that runs."""
        return self.epoch * self.steps

    @property
    def seconds_left(self) -> float | None:
        """The seconds until the end, by the latest epochs; None before there was one."""
        return seconds_left(self._epoch_seconds, self.last_epoch - self.epoch)

    def start(self) -> None:
        """Begin to count time."""
        self._began = time.monotonic()

    def ahead(self, step: int) -> int:
        """Return the steps that are left."""
        return self.last_epoch * self.steps - step

    def after_step(self, step: int) -> str | None:
        """Return once, when enough steps are measured, a sentence on how long the training will take."""
        left = self.first_step + self.steps - step
        return self._forecast.after_step(self.config, left, self.last_epoch - self.epoch, self.device)

    def begin_epoch(self, epoch: int) -> None:
        """Go to an epoch; what the one before took tells more than its steps."""
        now = time.monotonic()
        self._epoch_seconds += [now - self._began] if self._whole else []
        self._began, self._whole, self._forecast.over, self.epoch = now, True, True, epoch

    def state(self) -> dict[str, Any]:
        """Return nothing: the number of steps tells all."""
        return {}


def schedule_of(
    config: TrainingConfig, device: torch.device, saved: CheckpointState | None, run: Run | None = None
) -> Schedule:
    """Return the schedule of a training, which goes on where `saved` was; `run` tells what was typed."""
    step, epoch = (saved.step, saved.epoch) if saved is not None else (0, 0)
    if config.minutes:
        clock, pace = training_clock(device), saved.pace if saved is not None else None
        return Pace(config.minutes, config.last_epoch, clock, pace, epoch=epoch, compiled=config.compile, run=run)
    way_out = ""
    if run is not None and run.resume is None:  # what goes on has its settings
        smaller = f", or {run.smaller}" if run.smaller else ""
        minutes = run.again({"--minutes": MINUTES_INSTEAD}, without=NOT_WITH_MINUTES)
        way_out = f"To be done earlier on this machine, give it minutes ({minutes}){smaller}."
    return FixedEpochs(config, device.type, step=step, epoch=epoch, way_out=way_out)


def epochs_of(schedule: Schedule, config: TrainingConfig) -> int:
    """Return the epochs over which the learning rate falls to zero."""
    return config.epochs or schedule.last_epoch


def factor_at(step: int, schedule: Schedule, config: TrainingConfig) -> float:
    """Return the factor on the peak learning rates for a step of the epoch that runs.

    All epochs are taken to have as many steps as this one: only the share of the training that is over matters.
    """
    position = max(0, schedule.epoch - schedule.measuring_epochs) * schedule.steps + step - schedule.first_step
    steps = (epochs_of(schedule, config) - schedule.measuring_epochs) * schedule.steps
    return rate_factor(position, steps, warmup=config.warmup, power=config.decay_power)


def rate_factor(step: int, steps: int, *, warmup: float, power: float) -> float:
    """Return the factor on the peak learning rate for a step.

    Args:
        step: 0 for the first step.
        steps: steps of the whole training.
        warmup: share of steps with a linear rise from near zero.
        power: exponent of the polynomial decay, which reaches zero after the last step.

    Returns:
        A number in (0, 1] for 0 <= step < steps.
    """
    rising = round(steps * warmup)
    if step < rising:
        return (step + 1) / rising
    return float((1 - (step - rising) / max(1, steps - rising)) ** power)
