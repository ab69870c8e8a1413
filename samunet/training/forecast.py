"""When a training will end, told from its first steps and after every epoch.

For people only: no checkpoint holds any of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from samunet.core.units import counted
from samunet.machine.progress import LONG_SECONDS, readable_seconds
from samunet.training.config import TrainingConfig
from samunet.training.pace import VALIDATION_SHARE, validation_steps

ENOUGH_SECONDS, ENOUGH_STEPS = 10.0, 20  # whichever is over first tells the pace
RECENT_EPOCHS = 5  # whose mean the time left goes by: a machine may become slower


class Forecast:
    """Measures the first steps of a run, but for the very first, which sets things up.

    Args:
        clock: in seconds.
        way_out: what a training that takes very long may do instead, a sentence.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, way_out: str = "") -> None:
        self.clock, self.steps, self.began, self.over, self.way_out = clock, 0, 0.0, False, way_out

    def after_step(self, config: TrainingConfig, steps_left: int, epochs_left: int, device: str) -> str | None:
        """Return once, when enough steps are measured, a sentence on how long the training will take.

        Args:
            steps_left: of the epoch that runs.
            epochs_left: the one that runs among them.
        """
        self.steps += 1
        now = self.clock()
        if self.steps == 1:
            self.began = now
        measured = self.steps - 1
        if self.over or not measured or (now - self.began < ENOUGH_SECONDS and measured < ENOUGH_STEPS):
            return None
        self.over = True
        each = (now - self.began) / measured
        validation = VALIDATION_SHARE * validation_steps(config.iterations, config.validation_iterations)
        seconds = each * (steps_left + (epochs_left - 1) * config.iterations + epochs_left * validation)
        end = (datetime.now().astimezone() + timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M")
        text = (
            f"About {readable_seconds(each)} per step on {device}: {readable_seconds(seconds)}, until {end}, for "
            f"{counted(epochs_left, 'epoch')} of {counted(config.iterations, 'step')}."
        )
        return f"{text} {self.way_out}".rstrip() if seconds > LONG_SECONDS else text


def seconds_left(seconds_of_epochs: Sequence[float], epochs_left: int) -> float | None:
    """Return the seconds until the end by what whole epochs of this run took; None where there was none."""
    recent = seconds_of_epochs[-RECENT_EPOCHS:]
    return epochs_left * sum(recent) / len(recent) if recent else None
