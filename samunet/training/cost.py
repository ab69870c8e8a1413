"""What a training took, written beside its checkpoints."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from samunet.core.codec import write_json
from samunet.core.cost import COST, Cost
from samunet.core.memory import peak_mib
from samunet.machine.hardware import device_name


def write_cost(
    folder: Path,
    device: torch.device,
    *,
    minutes: float | None,
    wall_seconds: float,
    epochs: int,
    steps: int,
    last_learning_rate: float,
) -> None:
    """Write what a training took into its fold's folder.

    Args:
        minutes: what it took of the minutes that it was told; None where it was told none.
        wall_seconds: of all epochs.
    """
    memory = peak_mib()
    cost = Cost(
        minutes=minutes,
        wall_minutes=wall_seconds / 60,
        epochs=epochs,
        steps=steps,
        last_learning_rate=last_learning_rate,
        memory_mib=None if math.isnan(memory) else memory,
        device_memory_mib=torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
        device=device_name(device),
        threads=torch.get_num_threads(),
    )
    write_json(folder / COST, cost)
