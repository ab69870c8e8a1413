"""How long a training will take, told from its first steps, with a clock of our own."""

from __future__ import annotations

import pytest

from samunet.machine.progress import readable_seconds
from samunet.training.config import TrainingConfig
from samunet.training.forecast import Forecast, seconds_left


class Clock:
    """A clock that moves when it is told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def steps_of(forecast: Forecast, clock: Clock, seconds: list[float], config: TrainingConfig) -> list[str | None]:
    """What is said after each step of the first epoch; `seconds` has what each takes."""
    said = []
    for number, taken in enumerate(seconds, 1):
        clock.now += taken
        said.append(forecast.after_step(config, config.iterations - number, config.epochs, "cpu"))
    return said


def test_a_slow_step_is_told_after_the_second_with_days_and_ways_out():
    forecast = Forecast(clock := Clock(), "Plan smaller.")
    said = steps_of(forecast, clock, [90.0, 47.0, 47.0], TrainingConfig(epochs=250, iterations=250))
    assert said[0] is None and said[2] is None
    # 250 epochs of 250 steps but two, and of 50 validation batches at a third of a step: 36 days
    assert said[1].startswith("About 47 s per step on cpu: 36 days, until ")
    assert said[1].endswith("for 250 epochs of 250 steps. Plan smaller.")


def test_fast_steps_are_measured_together_and_short_trainings_get_no_advice():
    said = steps_of(Forecast(clock := Clock()), clock, [5.0] + 30 * [0.1], TrainingConfig(epochs=10, iterations=100))
    assert [index for index, text in enumerate(said) if text] == [20]
    assert said[20].startswith("About 0.1 s per step on cpu: ") and said[20].endswith("for 10 epochs of 100 steps.")
    # (79 + 9 x 100 + 10 x 20 / 3) x 0.1 s
    assert ": 105 s, until" in said[20]


def test_the_time_left_goes_by_the_last_epochs_of_this_run():
    assert seconds_left([100.0, 10, 10, 20, 20, 20], 30) == pytest.approx(30 * 16)
    assert seconds_left([], 30) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0621, "0.062 s"),
        (4.71, "4.7 s"),
        (47, "47 s"),
        (119, "119 s"),
        (125, "2.1 min"),
        (3700, "62 min"),
        (18720, "5.2 hours"),
        (34 * 86400, "34 days"),
    ],
)
def test_times_have_sensible_units_and_digits(seconds, text):
    assert readable_seconds(seconds) == text
