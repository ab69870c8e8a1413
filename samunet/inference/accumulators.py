"""Where the scores of a whole volume are summed up: on the device, in RAM, or in a file."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from samunet.core.parts import naming

ROOM = 2.0  # times the accumulators must be free on a device, so that tiles fit beside them

Place = torch.device | Path
"""A device, or the folder for a file."""


def best_place(shape: tuple[int, ...], device: torch.device) -> torch.device:
    """Return the device when float32 accumulators of this shape leave room on it, else the CPU."""
    if device.type == "cuda":
        free = (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
        if free >= ROOM * math.prod(shape) * torch.float32.itemsize:
            return device
    return torch.device("cpu")


def accumulators(shape: tuple[int, ...], place: Place) -> Tensor:
    """Return float32 zeros; in a folder they are a file without a name, which goes when the tensor does."""
    if isinstance(place, torch.device):
        return torch.zeros(shape, device=place)
    place.mkdir(parents=True, exist_ok=True)
    with naming(place / "scores"), tempfile.TemporaryFile(dir=place) as file:
        if hasattr(
            os, "posix_fallocate"
        ):  # a full disk is an error here, and a killed process at the first write otherwise
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * torch.float32.itemsize)
        return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=shape))
