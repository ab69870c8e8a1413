"""A training that must take so many minutes: how many steps each of its epochs gets."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from samunet.core.units import counted
from samunet.errors import ConfigError
from samunet.machine.progress import readable_seconds
from samunet.training.config import TrainingConfig
from samunet.training.run import Run

FIRST_STEPS = 2  # of the first epoch, which measures the pace
LARGEST_ERROR = 0.03  # of the minutes: what counts as equally long
VALIDATION_SHARE = 1 / 3  # of a training step's time that a validation batch takes: it has no gradient
HOPELESS = 2  # times the minutes: what the second step may be trusted to show
WITH_VALIDATION = 1 + VALIDATION_SHARE / 5  # times a step's seconds, where an epoch is long
TINY = 1e-9  # seconds that a step takes at least
LEAST_STEPS, LEAST_SECONDS = 10, 10.0  # of an epoch where their number is chosen, lest validation takes much of it
MOST_EPOCHS = TrainingConfig.epochs
MEASURING_EPOCHS = 2  # after which the pace is known; the first has what is done once in it
UNLIMITED = 2**40  # steps to prepare patches for, where their number is not known


class Pace:
    """Hand out steps epoch by epoch so that the last one ends with the minutes.

    The first epoch has two steps. Every later one gets as many as its share of the time left holds at the pace of the
    epoch before, validation included, so that a schedule of fixed length in epochs ends on time whatever the machine
    does.

    Where nobody says how many epochs there are, their number is chosen after the first, whose steps then only measure.

    Args:
        minutes: from the first step to the end of the last epoch.
        epochs: among which they are divided; 0 chooses.
        clock: seconds, see `training_clock`.
        saved: `state` of a training that goes on.
        epoch: in which it goes on.
        compiled: the first step compiles the network and tells nothing.
        run: what was typed, for ways out.
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
        run: Run | None = None,
    ) -> None:
        self.budget, self.clock, self.compiled, self.epoch, self.run = 60 * minutes, clock, compiled, epoch, run
        self.measuring_epochs = 0 if epochs else 1
        saved = saved or {"seconds": 0.0, "first_step": 0, "steps": FIRST_STEPS, "began": 0.0}
        self.epochs: int = epochs or saved.get("epochs", MOST_EPOCHS)
        self.before: float = saved["seconds"]
        self.began: float = saved["began"]
        self.first_step: int = saved["first_step"]
        self.steps: int = saved["steps"]
        self.started: float | None = None
        self._first = self.before

    @property
    def last_epoch(self) -> int:
        """The epoch after which training ends; as many as there may be until they are chosen."""
        return MOST_EPOCHS if self.epoch < self.measuring_epochs else self.epochs

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

    def after_step(self, step: int) -> str | None:
        """See after the first two steps whether the minutes hold the epochs at all, and choose how many where nobody
        said; returns that as a sentence. Raises ConfigError where the minutes are by far too few.

        Args:
            step: done so far, from 1.
        """
        if step > FIRST_STEPS:
            return None
        now = self.seconds
        if step == 1:
            each = self._first = now
            hopeless = FIRST_STEPS * now > self.budget and not self.compiled
        else:
            each = now - self._first
            self.epochs = self._fitting(each, now) if self.measuring_epochs else self.epochs
            most = 1 + LARGEST_ERROR if self.measuring_epochs else HOPELESS  # nobody asked for more epochs than fit
            hopeless = now + (self.epochs - 1) * each > most * self.budget
        if hopeless:
            epochs = self.epochs if step > 1 or not self.measuring_epochs else 1 + MEASURING_EPOCHS
            more = FIRST_STEPS - step + epochs - 1 + epochs * VALIDATION_SHARE
            need = math.ceil((now + more * each) / 60)
            raise ConfigError(
                f"A step takes about {readable_seconds(each)} here: {counted(epochs, 'epoch')} of one step at least "
                f"would take about {counted(need, 'minute')}, more than the {self.budget / 60:g} given. "
                f"{self._ways_out(each, now, need)}"
            )
        if step == 1 or not self.measuring_epochs:
            return None
        steps = max(1, round((self.budget - now) / max(each * WITH_VALIDATION * (self.epochs - 1), TINY)))
        return (
            f"A step takes about {readable_seconds(each)} here: in {self.budget / 60:g} min there is time for "
            f"{counted(self.epochs, 'epoch')} of about {counted(steps, 'step')}; --epochs N sets their number."
        )

    def _fitting(self, each: float, now: float) -> int:
        """Return how many epochs suit the minutes, the first among them, at so many seconds a step."""
        seconds = max(LEAST_SECONDS, LEAST_STEPS * each * WITH_VALIDATION)
        return 1 + max(1, min(MOST_EPOCHS - 1, int((self.budget - now) / seconds)))

    def _ways_out(self, each: float, now: float, need: int) -> str:
        """Say which epochs or minutes fit, as commands to copy where one was typed."""
        fitting, flags = self._fitting(each, now), [{"--minutes": need}]
        if fitting < self.epochs and now + fitting * each <= self.budget:
            flags.insert(0, {"--epochs": fitting})
        ways = [self.run.again(one) if self.run else f"{name} {value}" for one in flags for name, value in one.items()]
        smaller = [self.run.smaller] if self.run and self.run.smaller else []
        return f"Give fewer epochs or more minutes: {'; or '.join([*ways, *smaller])}."

    def begin_epoch(self, epoch: int) -> None:
        """Fix the number of steps of the epoch that follows on the one before; nothing is left to do after the last.
        Raises ConfigError where the first epochs show that the minutes do not hold a step per epoch.

        Args:
            epoch: from 0; 1 for the first call.
        """
        now = self.seconds
        each = max((now - self.began) / self.steps, TINY)
        if epoch == MEASURING_EPOCHS and self.measuring_epochs:
            self.epochs = min(self.epochs, epoch + int(max(0.0, self.budget - now) / each))
        share = max(0.0, self.budget - now) / max(1, self.epochs - epoch)
        need = (now + (self.epochs - epoch) * each) / 60
        if epoch == MEASURING_EPOCHS < self.epochs and 60 * need > (1 + LARGEST_ERROR) * self.budget:
            raise ConfigError(
                f"{self.epochs} epochs of one step would take about {need:.1f} minutes, more than the "
                f"{self.budget / 60:g} given. {self._ways_out(each, now, math.ceil(need))}"
            )
        self.first_step += self.steps
        self.steps, self.began, self.epoch = max(1, round(share / each)), now, epoch

    @property
    def seconds_left(self) -> float:
        """Seconds of the minutes that are left."""
        return max(0.0, self.budget - self.seconds)

    def state(self) -> dict[str, Any]:
        """Return what goes on from here."""
        return {
            "seconds": self.seconds,
            "first_step": self.first_step,
            "steps": self.steps,
            "began": self.began,
            "epochs": self.epochs,
        }


def validation_steps(steps: int, most: int = 50) -> int:
    """Return an epoch's validation batches: a fifth of its steps, at most 50, as in nnU-Net's epoch of 250 and 50."""
    return max(1, min(most, steps // 5))


def training_clock(device: torch.device) -> Callable[[], float]:
    """Return the clock that a training's minutes go by, in seconds.

    With one thread of a CPU it is the processor time of this process, so that other programs take nothing from the
    training; otherwise the time of day, since not everything runs in all threads.
    """
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.monotonic
