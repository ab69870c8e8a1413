"""Trainings of fixed minutes: the pace by itself with a clock of our own, and a real training."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samunet.checkpoints.file import load_checkpoint
from samunet.errors import ConfigError
from samunet.training.pace import FIRST_STEPS, Pace


class Clock:
    """A clock that moves when it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def train(pace: Pace, clock: Clock, seconds, epochs: int) -> list[int]:
    """Run all epochs; `seconds` gives what a step of an epoch takes. Returns the steps of each."""
    steps = []
    pace.start()
    for epoch in range(epochs):
        steps.append(pace.steps)
        clock.now += pace.steps * seconds(epoch)
        pace.begin_epoch(epoch + 1)
    return steps


@given(st.floats(0.05, 10), st.integers(30, 60), st.floats(1, 3))
def test_the_last_epoch_ends_with_the_minutes_whatever_a_step_takes(seconds, epochs, slower_at_first):
    clock = Clock()
    pace = Pace(25, epochs, clock)
    steps = train(pace, clock, lambda epoch: seconds * (slower_at_first if epoch == 0 else 1), epochs)
    assert steps[0] == FIRST_STEPS and min(steps) >= 1
    assert pace.seconds == pytest.approx(25 * 60, abs=max(seconds, 0.001 * 25 * 60))


def test_a_machine_that_becomes_slower_gets_fewer_steps():
    clock = Clock()
    pace = Pace(10, 30, clock)
    steps = train(pace, clock, lambda epoch: 0.1 if epoch < 15 else 0.3, 30)
    assert steps[2] == pytest.approx(200, rel=0.05)
    assert steps[-1] < steps[2] / 2
    assert pace.seconds == pytest.approx(600, rel=0.005)


def test_minutes_that_hold_no_step_an_epoch_are_refused_after_the_first_epochs():
    clock = Clock()
    with pytest.raises(ConfigError, match=r"30 epochs of one step would take about 15\.\d minutes, and 1 were given"):
        train(Pace(1, 30, clock), clock, lambda epoch: 30.0, 30)


@pytest.mark.parametrize(("seconds", "fits"), [(19.0, True), (25.0, False), (35.0, False)])
def test_ten_minutes_of_thirty_epochs_hold_steps_of_at_most_twenty_seconds(seconds, fits):
    clock = Clock()
    pace = Pace(10, 30, clock)
    if not fits:
        with pytest.raises(ConfigError, match="give more minutes, fewer epochs or a smaller batch"):
            train(pace, clock, lambda epoch: seconds, 30)
        return
    train(pace, clock, lambda epoch: seconds, 30)
    assert pace.seconds == pytest.approx(600, rel=0.03)


@pytest.mark.parametrize(
    ("first", "second", "ends_after"), [(130.0, 130.0, 1), (50.0, 47.0, 2), (100.0, 1.0, None), (3.0, 1.2, None)]
)
def test_minutes_that_are_far_too_few_end_the_training_after_its_first_steps(first, second, ends_after):
    pace = Pace(4, 200, clock := Clock())
    pace.start()
    for step, seconds in enumerate((first, second), 1):
        clock.now += seconds
        if step == ends_after:
            taken = {1: "2.2 min", 2: "47 s"}[step]
            # the steps taken, one a later epoch, and 200 validation batches at a third of a step
            least = {1: (130 + 200 * 130 + 200 / 3 * 130), 2: (97 + 199 * 47 + 200 / 3 * 47)}[step]
            message = (
                rf"A step takes about {taken} here: 200 epochs .* need about {-int(-least // 60)} minutes, and 4 "
                r"were.*-gpu_memory_target 1"
            )
            with pytest.raises(ConfigError, match=message):
                pace.after_step(step)
            return
        pace.after_step(step)
    assert ends_after is None


def test_a_first_step_that_compiles_the_network_tells_nothing():
    pace = Pace(4, 200, clock := Clock(), compiled=True)
    pace.start()
    clock.now += 150
    pace.after_step(1)
    clock.now += 0.1
    pace.after_step(2)


def test_a_pace_goes_on_where_it_was_saved():
    clock = Clock()
    pace = Pace(10, 30, clock)
    pace.start()
    clock.now += 2.0
    pace.begin_epoch(1)
    clock.now += 5.0
    known = json.loads(json.dumps(pace.state()))
    again = Pace(10, 30, clock, known)
    clock.now += 1e6  # nobody trained
    again.start()
    assert (again.seconds, again.first_step, again.steps) == (7.0, FIRST_STEPS, pace.steps)


def test_a_training_of_minutes_takes_them(project, tmp_path):
    fold = project.train(results=tmp_path, config={"minutes": 0.1, "epochs": 5}, validate=False)
    cost = json.loads((fold / "cost.json").read_text())
    state = load_checkpoint(fold / "checkpoint_final.safetensors").state
    assert cost["minutes"] == pytest.approx(0.1, rel=0.15) and cost["epochs"] == 5 and cost["steps"] == state.step > 5
    assert len(state.history["train_loss"]) == 5 and 0 < cost["last_learning_rate"] < 5e-4
    assert cost["threads"] == 1 and cost["device"] and cost["device_memory_mib"] is None


def test_the_cost_of_a_finished_training_stays(project, tmp_path):
    fold = project.train(results=tmp_path, validate=False)
    before = (fold / "cost.json").read_text()
    project.train(results=tmp_path, validate=False, resume=True)
    assert (fold / "cost.json").read_text() == before


def test_minutes_cannot_be_extended_or_shared_among_processes(project, tmp_path):
    fold = project.train(results=tmp_path, config={"minutes": 0.02, "epochs": 2}, validate=False)
    with pytest.raises(ConfigError, match="minutes, which are over"):
        project.train(results=tmp_path, config={"minutes": 0.02, "epochs": 2}, validate=False, resume=True, extend=2)
    with pytest.raises(ConfigError, match="runs in one process"):
        project.train(results=tmp_path / "b", config={"minutes": 0.02, "epochs": 2}, validate=False, processes=2)
    assert fold.is_dir()
