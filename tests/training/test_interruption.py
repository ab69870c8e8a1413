"""A training may be killed, stopped or cut off at any moment: nothing is lost but the steps since the last save, and
the end is the same.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from samples import START

import samunet.checkpoints.file
from samunet import pipeline
from samunet.checkpoints.file import load_checkpoint
from samunet.errors import CheckpointError, DatasetError
from samunet.training.config import RunConfig, TrainingConfig

SETTINGS = {"epochs": 2, "iterations": 8, "batch_size": 1, "workers": 0, "precision": "fp32", "ema": 0.9}
EVERY_STEP = RunConfig(save_every_steps=1)
FINAL, LATEST = "checkpoint_final.safetensors", "checkpoint_latest.safetensors"


def train(workspace, *, slow_save: float = 0.0, file_limit: int | None = None, **options) -> str:
    """Train in a process of its own; a slow save leaves time to be killed in it."""
    torch.set_num_threads(1)
    if slow_save:
        whole = samunet.checkpoints.file.save_file

        def slowly(tensors, path, **rest):
            whole(dict(list(tensors.items())[:5]), path, **rest)  # half a file
            time.sleep(slow_save)
            whole(tensors, path, **rest)

        samunet.checkpoints.file.save_file = slowly
    if file_limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    settings = options.pop("settings", SETTINGS)
    chosen = {
        "configuration": "3d_adapter",
        "fold": "0",
        "device": "cpu",
        "validate": False,
        "resume": True,
        "run": EVERY_STEP,
        **options,
    }
    pipeline.train(workspace, "Dataset901_Tiny", settings, pipeline.TrainOptions(**chosen))


def in_background(workspace, **options) -> multiprocessing.Process:
    process = START.Process(target=train, args=(workspace,), kwargs=options)
    process.start()
    return process


@pytest.fixture(scope="module")
def uninterrupted(project, tmp_path_factory) -> bytes:
    results = tmp_path_factory.mktemp("uninterrupted")
    fold = project.train(results=results, config=SETTINGS, validate=False)
    return (fold / FINAL).read_bytes()


@pytest.fixture
def workspace(project, tmp_path):
    return type(project.workspace)(**{**vars(project.workspace), "results_folder": tmp_path})


def fold_of(workspace):
    return workspace.results / "Dataset901_Tiny" / "SAMTrainer__samunetPlans__3d_adapter" / "fold_0"


def wait_for(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def step_of(fold) -> int:
    return load_checkpoint(fold / LATEST).state.step if (fold / LATEST).is_file() else -1


def kill_and_resume(workspace, uninterrupted, kills: int, seed: int) -> None:
    choose, fold, done = random.Random(seed), fold_of(workspace), 0
    while not (fold / FINAL).is_file():
        in_save = done < kills and done % 2 == 0
        process = in_background(workspace, slow_save=0.4 if in_save else 0.0)
        if done < kills:
            if in_save:  # half a file lies there
                wait_for(lambda run=process: not run.is_alive() or any(fold.glob(".part-*.safetensors")))
            else:
                first = step_of(fold)
                wait_for(lambda run=process, first=first: not run.is_alive() or step_of(fold) > first)
                time.sleep(choose.uniform(0, 0.1))
            os.kill(process.pid, signal.SIGKILL)
            done += 1
        process.join()
        if (fold / LATEST).is_file():
            load_checkpoint(fold / LATEST)  # whole, whatever happened
    assert done == kills
    assert (fold / FINAL).read_bytes() == uninterrupted
    assert not any(fold.glob(".part-*"))
    assert [line.count("epoch") for line in (fold / "log.jsonl").read_text().splitlines()] == [1, 1]


def test_killed_five_times_the_weights_are_those_of_the_uninterrupted_training(workspace, uninterrupted):
    kill_and_resume(workspace, uninterrupted, 5, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_ten_times_again(workspace, uninterrupted, seed):
    kill_and_resume(workspace, uninterrupted, 10, seed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_after_the_step_with_everything_saved(workspace, uninterrupted, number):
    fold = fold_of(workspace)
    process = in_background(workspace)
    wait_for((fold / LATEST).is_file)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 0 and not (fold / FINAL).exists()
    assert f"by {signal.Signals(number).name}; --c continues" in (fold / "training_log.txt").read_text()
    train(workspace)
    assert (fold / FINAL).read_bytes() == uninterrupted


def test_a_signal_to_the_whole_group_reaches_workers_too_and_nothing_is_lost(workspace, project):
    environment = os.environ | project.environment | {"nnUNet_results": str(workspace.results)}
    settings = [
        "--epochs",
        "50",
        "--batch_size",
        "2",
        "--iterations",
        "20",
        "--precision",
        "fp32",
        "--workers",
        "1",
        "--save_every_steps",
        "1",
    ]
    for processes in ("1", "2"):
        words = [project.dataset, "3d_adapter", processes, "-device", "cpu", "-num_gpus", processes, *settings]
        running = subprocess.Popen(
            [sys.executable, "-m", "samunet.cli.train", *words],
            env=environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        fold = fold_of(workspace).with_name(f"fold_{processes}")
        wait_for(lambda fold=fold: (fold / LATEST).is_file(), 120)
        os.killpg(running.pid, signal.SIGTERM)
        said = running.communicate(timeout=60)[0].decode()
        assert running.returncode == 0, said
        assert said.count("Stopped, nothing is lost.") == 1 and "Traceback" not in said
        load_checkpoint(fold / LATEST)


def test_a_stop_file_and_the_time_limit_end_after_the_step(workspace, uninterrupted):
    fold = fold_of(workspace)
    train(workspace, run=RunConfig(max_hours=1e-6))
    assert load_checkpoint(fold / LATEST).state.step == 1 and "--max_hours" in (fold / "training_log.txt").read_text()
    process = in_background(workspace)
    wait_for(lambda: load_checkpoint(fold / LATEST).state.step > 1)
    (fold / "stop").touch()
    process.join()
    assert process.exitcode == 0 and not (fold / "stop").exists() and not (fold / FINAL).exists()
    train(workspace)
    assert (fold / FINAL).read_bytes() == uninterrupted


def test_a_full_disk_is_one_clear_error_and_leaves_the_last_checkpoint(workspace, uninterrupted):
    fold = fold_of(workspace)
    train(workspace, run=RunConfig(max_hours=1e-6))
    before = (fold / LATEST).read_bytes()
    process = START.Process(target=full_disk, args=(workspace, len(before) // 2))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert (fold / LATEST).read_bytes() == before and not any(fold.glob(".part-*"))
    train(workspace)
    assert (fold / FINAL).read_bytes() == uninterrupted


def full_disk(workspace, limit: int) -> None:
    """Runs in a process that may write no large file, which looks like a full disk."""
    with pytest.raises(
        CheckpointError, match=r"checkpoint_latest.safetensors cannot be written \(.*earlier checkpoints are whole.*--c"
    ):
        train(workspace, file_limit=limit)


def test_a_dead_worker_is_one_clear_error_without_orphans(workspace):
    process = START.Process(target=dead_worker, args=(workspace,))
    process.start()
    process.join(120)
    assert process.exitcode == 0


def dead_worker(workspace) -> None:
    from samunet.training.trainer import SAMTrainer

    step, count = SAMTrainer._step, []

    def kill_at_third(self, batch):
        count.append(1)
        if len(count) == 3:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
        return step(self, batch)

    SAMTrainer._step = kill_at_third
    with pytest.raises(
        DatasetError, match=r"A process that prepares patches died \(DataLoader worker \(pid.*Lower --workers"
    ):
        train(workspace, settings={**SETTINGS, "workers": 2, "iterations": 40})
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_case_is_named(project, workspace, tmp_path, workers):
    data = project.workspace.preprocessed / project.dataset / "samunetPlans_3d"
    broken = next(iter(sorted(data.glob("*_seg.b2nd"))))
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 3])
    try:
        with pytest.raises(DatasetError, match=f"{broken.name} is not as it was written") as error:
            train(workspace, settings={**SETTINGS, "workers": workers, "iterations": 40}, fold="all")
        assert "Traceback" not in str(error.value)
    finally:
        broken.write_bytes(whole)


def test_a_killed_training_leaves_no_worker_behind(workspace):
    fold = fold_of(workspace)
    process = in_background(workspace, settings={**SETTINGS, "workers": 2, "epochs": 50})
    wait_for((fold / LATEST).is_file)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert children
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    wait_for(lambda: not any(alive(pid) for pid in children), 30)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_settings_are_those_of_the_training_that_continues(workspace):
    fold = fold_of(workspace)
    train(workspace, run=RunConfig(max_hours=1e-6), settings={**SETTINGS, "learning_rate": 2e-3})
    train(workspace, settings={}, run=RunConfig())
    state = load_checkpoint(fold / FINAL).state
    assert state.training["learning_rate"] == 2e-3 and state.epoch == 2
    with pytest.raises(
        CheckpointError, match=r"other settings: epochs 2 \(now 3\)\. To train 1 epoch more, give --c --extend 1"
    ):
        train(workspace, settings={"epochs": 3})
    train(workspace, settings={}, extend=1, run=RunConfig())
    assert (
        load_checkpoint(fold / FINAL).state.epoch == 3
        and TrainingConfig(**load_checkpoint(fold / FINAL).state.training).epochs == 3
    )
    assert not (fold / LATEST).exists() and len((fold / "log.jsonl").read_text().splitlines()) == 3
