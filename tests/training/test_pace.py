"""Trainings of fixed minutes: the pace by itself with a clock of our own, and a real training."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samunet import pipeline
from samunet.checkpoints.file import load_checkpoint
from samunet.core.dataset import read_dataset_json
from samunet.errors import ConfigError
from samunet.planning.splits import Split
from samunet.training.config import RunConfig, TrainingConfig
from samunet.training.pace import FIRST_STEPS, Pace
from samunet.training.run import Run
from samunet.training.schedule import NOT_WITH_MINUTES, factor_at


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
    with pytest.raises(
        ConfigError, match=r"30 epochs of one step would take about 15\.\d minutes, more than the 1 given"
    ):
        train(Pace(1, 30, clock), clock, lambda epoch: 30.0, 30)


@pytest.mark.parametrize(("seconds", "fits"), [(19.0, True), (25.0, False), (35.0, False)])
def test_ten_minutes_of_thirty_epochs_hold_steps_of_at_most_twenty_seconds(seconds, fits):
    clock = Clock()
    pace = Pace(10, 30, clock)
    if not fits:
        with pytest.raises(ConfigError, match="Give fewer epochs or more minutes: --epochs 2; or --minutes 1"):
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
            need = -int(-least // 60)
            message = rf"about {taken} here: 200 epochs .* take about {need} minutes, more than the 4 given.*s {need}\."
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


@pytest.mark.parametrize(
    ("minutes", "seconds", "epochs", "steps"),
    [
        (3, 0.1, 18, 99),  # 180 s in epochs of 10 s, but the two steps that measure
        (3, 2.0, 9, 10),  # epochs of 10 steps of 2 s and a validation batch for each 15 of them
        (3, 47.0, 2, 1),  # no more than an epoch
        (600, 1.0, 200, 170),  # as many as there are without minutes
    ],
)
def test_minutes_alone_choose_how_many_epochs_suit_them_and_take_all_of_them(minutes, seconds, epochs, steps):
    clock = Clock()
    pace = Pace(minutes, 0, clock)
    pace.start()
    clock.now += 1.5 * seconds  # the first step has what is done once
    assert pace.after_step(1) is None and pace.last_epoch == 200
    clock.now += seconds
    said = pace.after_step(2)
    assert f"in {minutes} min there is time for {epochs} epochs of about {steps} step" in said
    pace.begin_epoch(1)
    while pace.epoch < pace.last_epoch:
        assert pace.after_step(pace.first_step + 1) is None
        clock.now += pace.steps * seconds
        pace.begin_epoch(pace.epoch + 1)
    assert pace.epoch == epochs and pace.seconds == pytest.approx(60 * minutes, abs=seconds)


def test_a_choice_that_later_steps_belie_is_cut_rather_than_refused():
    pace = Pace(3, 0, clock := Clock())
    pace.start()
    for step in (1, 2):
        clock.now += 0.1
        pace.after_step(step)
    pace.begin_epoch(1)
    clock.now += 8 * 20.0  # 160 s, of 180
    pace.steps = 8
    pace.begin_epoch(2)
    assert pace.last_epoch == 2 and pace.seconds < 180


def test_the_rate_of_chosen_epochs_rises_after_the_steps_that_measure_and_goes_on_as_it_was():
    """By hand: 11 epochs of 20 steps, of which the first two steps only measure, warm up over 10 of 200 steps."""
    config = TrainingConfig(minutes=3, epochs=0, warmup=0.05, decay_power=1.0)
    pace = Pace(3, 0, Clock(), {"seconds": 9.0, "first_step": 0, "steps": 2, "began": 0.0, "epochs": 11})
    before = [factor_at(step, pace, config) for step in (0, 1)]
    assert before == [1 / 20, 2 / 20]
    assert [factor_at(step, Pace(3, 0, Clock()), config) for step in (0, 1)] == before  # whatever is chosen then
    pace.begin_epoch(1)
    pace.steps = 20
    assert [round(factor_at(2 + step, pace, config), 6) for step in (0, 9, 10)] == [0.1, 1.0, 1.0]
    pace.epoch, pace.first_step = 10, 182
    assert factor_at(201, pace, config) == pytest.approx(1 / 190)


def test_a_refusal_names_commands_that_fit(project):
    words = ["901", "3d_adapter", "0", "--epochs", "200", "--set", "minutes=4", "--c"]
    run = Run(
        plan=pipeline.open_plan(project.workspace, project.dataset, "samunetPlans"),
        name="3d_adapter",
        spec=read_dataset_json(project.workspace.raw / project.dataset / "dataset.json"),
        fold="0",
        split=Split(train=(), val=()),
        data=Path(),
        folder=Path(),
        config=TrainingConfig(),
        control=RunConfig(),
        device=torch.device("cpu"),
        precision=None,
        command=("samunet_train", *words),
    )
    pace = Pace(4, 200, clock := Clock(), run=run)
    pace.start()
    clock.now += 10
    pace.after_step(1)
    clock.now += 10
    with pytest.raises(ConfigError) as refused:
        pace.after_step(2)
    fewer, more, smaller = re.findall(r"samunet_train [^;,)]+(?=[;,)])", str(refused.value))
    assert fewer == "samunet_train 901 3d_adapter 0 --set minutes=4 --epochs 3"
    assert more == "samunet_train 901 3d_adapter 0 --epochs 200 --minutes 45"
    assert "samunet_plan_and_preprocess -d 901 -c 3d_adapter -gpu_memory_target 1 " in str(refused.value)
    assert smaller.endswith("-p samunetPlans_small")
    scenes = replace(run, plan=replace(run.plan, dataset="Dataset000_Scenes"))
    assert scenes.smaller == "", "a pretraining has no plan of its own to make smaller"
    typed = replace(run, command=("samunet_train", "901", "3d_adapter", "0", "--epochs", "200", "-num_gpus", "2"))
    assert typed.again({"--minutes": 120}, NOT_WITH_MINUTES) == "samunet_train 901 3d_adapter 0 --minutes 120"


def test_minutes_alone_that_do_not_hold_two_epochs_of_slow_steps_are_refused():
    pace = Pace(1, 0, clock := Clock())
    pace.start()
    clock.now += 29
    pace.after_step(1)
    clock.now += 29
    with pytest.raises(
        ConfigError, match="2 epochs of one step at least would take about 2 minutes, more than the 1 given"
    ):
        pace.after_step(2)


def test_a_training_of_minutes_takes_them(project, tmp_path):
    fold = project.train(results=tmp_path, config={"minutes": 0.15, "epochs": 5}, validate=False)
    cost = json.loads((fold / "cost.json").read_text())
    state = load_checkpoint(fold / "checkpoint_final.safetensors").state
    assert cost["minutes"] == pytest.approx(0.15, abs=0.04) and cost["epochs"] == 5 and cost["steps"] == state.step > 5
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
