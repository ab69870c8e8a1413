"""A training that must take so many minutes: how many steps each of its epochs gets."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from samunet.errors import ConfigError
from samunet.machine.progress import readable_seconds

FIRST_STEPS = 2  # of the first epoch, which measures the pace
LARGEST_ERROR = 0.03  # of the minutes: what counts as equally long
VALIDATION_SHARE = 1 / 3  # of a training step's time that a validation batch takes: it has no gradient
HOPELESS = 2  # times the minutes: what the second step may be trusted to show
PLAN_SMALLER = (
    "plan smaller (samunet_plan_and_preprocess -d DATASET -gpu_memory_target 1 -overwrite_plans_name "
    "samunetPlans_small, then samunet_train with -p samunetPlans_small)"
)
MEASURING_EPOCHS = 2  # after which the pace is known; the first has what is done once in it
UNLIMITED = 2**40  # steps to prepare patches for, where their number is not known


class Pace:
    """Hand out steps epoch by epoch so that the last one ends with the minutes.

    The first epoch has two steps. Every later one gets as many as its share of the time left holds at the pace of the
    epoch before, validation included, so that a schedule of fixed length in epochs ends on time whatever the machine
    does.

    Args:
        minutes: from the first step to the end of the last epoch.
        epochs: among which they are divided.
        clock: seconds, see `training_clock`.
        saved: `state` of a training that goes on.
        epoch: in which it goes on.
        compiled: the first step compiles the network and tells nothing.
    """

    total: int | None = None

    def __init__(
        self,
        minutes: float,
        epochs: int,
        clock: Callable[[], float],
        saved: dict[str, Any] | None = None,
        *,
        epoch: int = 0,
        compiled: bool = False,
    ) -> None:
        self.budget, self.epochs, self.clock, self.compiled = 60 * minutes, epochs, clock, compiled
        self.epoch = epoch
        saved = saved or {"seconds": 0.0, "first_step": 0, "steps": FIRST_STEPS, "began": 0.0}
        self.before: float = saved["seconds"]
        self.began: float = saved["began"]
        self.first_step: int = saved["first_step"]
        self.steps: int = saved["steps"]
        self.started: float | None = None
        self._first = self.before

    @property
    def seconds(self) -> float:
        """Seconds since the first step, of earlier runs too."""
        return self.before + (0.0 if self.started is None else self.clock() - self.started)

    @property
    def minutes(self) -> float:
        """Minutes since the first step, of earlier runs too."""
        return self.seconds / 60

    def start(self) -> None:
        """Begin to count."""
        self.started = self.clock()

    def ahead(self, step: int) -> int:
        """Return more steps than any training takes."""
        return UNLIMITED

    def after_step(self, step: int) -> None:
        """See after the first two steps whether the minutes hold the epochs at all; raises ConfigError where they do
        not, by far.

        Args:
            step: done so far, from 1.
        """
        now = self.seconds
        if step == 1:
            each = self._first = now
            hopeless = FIRST_STEPS * now > self.budget and not self.compiled
        else:
            each = now - self._first
            hopeless = now + (self.epochs - 1) * each > HOPELESS * self.budget
        if step <= FIRST_STEPS and hopeless:
            need = (now + (FIRST_STEPS - step + self.epochs - 1 + self.epochs * VALIDATION_SHARE) * each) / 60
            raise ConfigError(
                f"A step takes about {readable_seconds(each)} here: {self.epochs} epochs of one step at least need "
                f"about {math.ceil(need)} minutes, and {self.budget / 60:g} were given. Give --minutes "
                f"{math.ceil(need)} or more, fewer --epochs, or {PLAN_SMALLER}."
            )

    def begin_epoch(self, epoch: int) -> None:
        """Fix the number of steps of the epoch that follows on the one before; nothing is left to do after the last.
        Raises ConfigError where the first epochs show that the minutes do not hold a step per epoch.

        Args:
            epoch: from 0; 1 for the first call.
        """
        now = self.seconds
        share = max(0.0, self.budget - now) / max(1, self.epochs - epoch)
        each = (now - self.began) / self.steps
        need = (now + (self.epochs - epoch) * each) / 60
        if epoch == MEASURING_EPOCHS < self.epochs and 60 * need > (1 + LARGEST_ERROR) * self.budget:
            raise ConfigError(
                f"{self.epochs} epochs of one step would take about {need:.1f} minutes, and {self.budget / 60:g} were "
                "given; give more minutes, fewer epochs or a smaller batch."
            )
        self.first_step += self.steps
        self.steps, self.began, self.epoch = max(1, round(share / each)), now, epoch

    @property
    def seconds_left(self) -> float:
        """Seconds of the minutes that are left."""
        return max(0.0, self.budget - self.seconds)

    def state(self) -> dict[str, Any]:
        """Return what goes on from here."""
        return {"seconds": self.seconds, "first_step": self.first_step, "steps": self.steps, "began": self.began}


def validation_steps(steps: int, most: int = 50) -> int:
    """Return an epoch's validation batches: a fifth of its steps, at most 50, as in nnU-Net's epoch of 250 and 50."""
    return max(1, min(most, steps // 5))


def training_clock(device: torch.device) -> Callable[[], float]:
    """Return the clock that a training's minutes go by, in seconds.

    With one thread of a CPU it is the processor time of this process, so that other programs take nothing from the
    training; otherwise the time of day, since not everything runs in all threads.
    """
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.monotonic
