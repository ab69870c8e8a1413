"""What the trainer costs beyond its steps, and where a step's time goes.

    python benchmarks/trainer.py --dataset 4                      # nnUNet_raw holds the dataset
    python benchmarks/trainer.py --dataset 35 --spacing 3 1.25 1.25 --gpu_memory_target 2.2

One process, the planned configuration with vit_tiny and a batch of two. In turns, a few steps each: a plain loop of
forward, backward, clipping and optimizer, and the trainer's own steps, both on the same batches from memory, with equal
numbers of threads. Then a training through the loader, one worker as the command would choose: the share of time that
it waits for data, the first epoch apart, in which the worker starts. Writes benchmarks/results/trainer_<dataset>.json.
Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import torch
from machine import processor_name
from torch import nn

from samunet import pipeline
from samunet.core.batch import Batch
from samunet.core.codec import write_json
from samunet.core.dataset import read_dataset_json
from samunet.core.results import model_folder
from samunet.core.workspace import Workspace, workspace_from_environment
from samunet.machine.hardware import autocast, choose_precision, keep_freed_memory
from samunet.pipeline.run import build_trainer
from samunet.preprocessing.storage import stored_cases
from samunet.training.config import RunConfig, TrainingConfig
from samunet.training.processes import Processes
from samunet.training.run import Run
from samunet.training.schedule import FixedEpochs
from samunet.training.stopping import StopRequest
from samunet.training.trainer import SAMTrainer

RESULTS = Path(__file__).parent / "results"
ROUNDS, STEPS = 8, 5
KEPT_BATCHES = 4
EPOCHS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="4")
    parser.add_argument("--configuration", default="3d_adapter")
    parser.add_argument("--spacing", type=float, nargs=3)
    parser.add_argument("--gpu_memory_target", type=float, default=8.0)
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    keep_freed_memory()
    raw = workspace_from_environment().raw
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(
            raw_folder=raw, preprocessed_folder=Path(folder, "preprocessed"), results_folder=Path(folder, "results")
        )
        trainer, dataset, patch = prepared(workspace, arguments)
        split = steps_apart(trainer)
        loaded = through_the_loader(trainer)
        result = {
            "machine": {"cpu": processor_name(), "cpus": os.cpu_count(), "threads": torch.get_num_threads()},
            "dataset": dataset,
            "configuration": arguments.configuration,
            "precision": "fp32" if trainer.run.precision is None else "bf16",
            "batch_size": 2,
            "patch": list(patch),
            **split,
            "seconds_a_step": {"data": loaded["waiting_seconds_a_step"], **split["seconds_a_step"]},
            "loader": loaded,
        }
    write_json(RESULTS / f"trainer_{result['dataset']}.json", result)
    print(json.dumps(result, indent=2))


def prepared(workspace: Workspace, arguments: argparse.Namespace) -> tuple[SAMTrainer, str, tuple[int, int, int]]:
    """Build the trainer of fold 0 as the command does; returns the dataset's name and the patch too."""
    dataset = pipeline.open_dataset(workspace, arguments.dataset)
    fingerprint = pipeline.extract(workspace, dataset, threads=2, clean=False, quiet=True)
    spacing = tuple(arguments.spacing) if arguments.spacing else None
    options = pipeline.PlanOptions(backbone="vit_tiny", spacing=spacing, memory_gib=arguments.gpu_memory_target)
    plan = pipeline.plan(workspace, dataset, fingerprint, options)
    name = arguments.configuration
    data = pipeline.preprocess(workspace, dataset, plan, name, threads=2, quiet=True)
    spec = replace(read_dataset_json(data / "dataset.json"), name=dataset.spec.name)
    split = pipeline.fold_split(workspace, spec, stored_cases(data), "0")
    folder = model_folder(workspace, dataset.spec.name, plan.plans_name, name) / "fold_0"
    config = TrainingConfig(epochs=1000, iterations=STEPS, batch_size=2, precision=arguments.precision)
    run = Run(
        plan=plan,
        name=name,
        spec=spec,
        fold="0",
        split=split,
        data=data,
        folder=folder,
        config=config,
        control=RunConfig(),
        device=torch.device("cpu"),
        precision=choose_precision(config.precision, torch.device("cpu")),
        saves=False,
    )
    trainer = build_trainer(workspace, run, Processes(), StopRequest(folder))
    return trainer, dataset.spec.name, plan.configuration(name).patch_size


def steps_apart(trainer: SAMTrainer) -> dict:
    """Time a plain loop, part by part, and the trainer's steps, in turns on the same batches."""
    loader = trainer.sources.training(0, KEPT_BATCHES)
    batches = cycle(list(loader))
    parts = {"forward": 0.0, "backward": 0.0, "optimizer": 0.0}
    totals = {"plain": [], "trainer": []}
    for number in range(ROUNDS + 1):
        began = time.perf_counter()
        found = plain_steps(trainer, batches)
        totals["plain"].append(time.perf_counter() - began)
        began = time.perf_counter()
        trainer._train_epoch(batches)
        totals["trainer"].append(time.perf_counter() - began)
        next_epoch(trainer)
        if number:  # the first round warms up
            parts = {name: parts[name] + found[name] for name in parts}
    plain, ours = (sorted(values[1:]) for values in totals.values())
    count = ROUNDS * STEPS
    return {
        "seconds_a_step": {name: round(value / count, 4) for name, value in parts.items()},
        "plain_loop_seconds_a_step": round(sum(plain) / count, 4),
        "trainer_seconds_a_step": round(sum(ours) / count, 4),
        "trainer_adds_percent": round(100 * (sum(ours) / sum(plain) - 1), 2),
        "trainer_adds_percent_by_median": round(100 * (ours[len(ours) // 2] / plain[len(plain) // 2] - 1), 2),
    }


def plain_steps(trainer: SAMTrainer, batches) -> dict[str, float]:
    parameters = [parameter for group in trainer.state.optimizer.param_groups for parameter in group["params"]]
    parts = {"forward": 0.0, "backward": 0.0, "optimizer": 0.0}
    trainer.model.train()
    for _ in range(STEPS):
        batch: Batch = next(batches)
        times = [time.perf_counter()]
        trainer.state.optimizer.zero_grad(set_to_none=True)
        with autocast(trainer.run.device, trainer.run.precision):
            loss = torch.stack(list(trainer.model.loss(batch).values())).sum()
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        nn.utils.clip_grad_norm_(parameters, 1.0)
        trainer.state.optimizer.step()
        times.append(time.perf_counter())
        parts = {
            name: value + later - before
            for (name, value), before, later in zip(parts.items(), times, times[1:], strict=False)
        }
    return parts


def next_epoch(trainer: SAMTrainer) -> None:
    """Go to the next epoch without validation."""
    trainer.state.epoch, trainer.state.epoch_loss = trainer.state.epoch + 1, 0.0
    trainer.schedule.begin_epoch(trainer.state.epoch)


def through_the_loader(trainer: SAMTrainer) -> dict:
    """Train epochs through one loader and its worker; returns the share of time spent waiting for data."""
    steps = 4 * STEPS
    state = trainer.state
    state.step, state.epoch, state.epoch_loss = 0, 0, 0.0
    trainer.schedule = FixedEpochs(replace(trainer.run.config, iterations=steps), "cpu")
    batches = trainer.sources.training(0, EPOCHS * steps)
    waits, seconds = [], []
    for _ in range(EPOCHS):
        began = time.perf_counter()
        waits.append(trainer._train_epoch(batches))
        seconds.append(time.perf_counter() - began)
        next_epoch(trainer)
    batches.close()
    return {
        "waiting_seconds_a_step": round(sum(waits[1:]) / (steps * (EPOCHS - 1)), 4),
        "waiting_percent": round(100 * sum(waits[1:]) / sum(seconds[1:]), 2),
        "seconds_a_step": round(sum(seconds[1:]) / (steps * (EPOCHS - 1)), 4),
        "first_epoch_waiting_seconds": round(waits[0], 2),
    }


if __name__ == "__main__":
    main()
