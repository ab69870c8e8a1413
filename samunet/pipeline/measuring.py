"""How much memory a process needs: its own peak, and that of one training step."""

from __future__ import annotations

import math
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from samunet.core.batch import Batch
from samunet.core.labels import Labels
from samunet.core.memory import peak_mib, start_peak
from samunet.core.plan import Configuration, Plan
from samunet.core.process import end_with_parent
from samunet.errors import ConfigError
from samunet.machine.hardware import autocast, choose_precision, keep_freed_memory
from samunet.training.accumulate import backward
from samunet.training.config import TrainingConfig
from samunet.training.optimizer import make_optimizer
from samunet.variants.network import build_network

MEASURED_STEPS = 2  # the optimizer's state exists from the second on


@dataclass(frozen=True, kw_only=True)
class MeasuredStep:
    """What one training step takes."""

    gib: float
    """Peak memory, of the network with its weights, gradients and optimizer state."""
    seconds: float


def measure_step(
    plan: Plan,
    name: str,
    labels: Labels,
    device: torch.device,
    weights_folders: Sequence[Path] = (),
    precision: str = "auto",
) -> MeasuredStep:
    """Run a configuration's training step on random data in a process of its own; one that runs out of memory needs
    infinitely much.

    Args:
        precision: as of a training.

    Raises:
        ConfigError: this system does not tell the peak of a process (only Linux does), or the device is neither cpu nor
            cuda.
    """
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and sys.platform != "linux"):
        raise ConfigError(
            f"A training step cannot be measured on {device.type} of {sys.platform}; plan without --measure."
        )
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
        asked = (plan, plan.configuration(name), labels, device, tuple(weights_folders), precision)
        try:
            return pool.submit(_run_step, *asked).result()
        except (BrokenProcessPool, torch.OutOfMemoryError, MemoryError):  # a killed process breaks the pool
            return MeasuredStep(gib=math.inf, seconds=math.inf)


def _run_step(
    plan: Plan,
    configuration: Configuration,
    labels: Labels,
    device: torch.device,
    weights_folders: tuple[Path, ...],
    wanted: str,
) -> MeasuredStep:
    keep_freed_memory()
    config = TrainingConfig()
    precision = choose_precision(wanted, device)
    before = start_peak() if device.type == "cpu" else 0.0
    network = build_network(plan, configuration, labels, weights_folders).to(device).train()
    optimizer = make_optimizer(network, config)
    shape = (configuration.batch_size, *configuration.patch_size)
    image = torch.randn(shape[0], len(plan.channels), *shape[1:], device=device)
    label = torch.randint(0, len(labels.all_values), shape, device=device).to(torch.int16)
    for _ in range(MEASURED_STEPS):
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        batch = [Batch(image=image, label=label)]
        backward(network, batch, autocast=lambda: autocast(device, precision), scale=lambda loss: loss)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    seconds = time.perf_counter() - began
    mib = peak_mib() - before if device.type == "cpu" else torch.cuda.max_memory_reserved(device) / 2**20
    return MeasuredStep(gib=mib / 1024, seconds=seconds)
