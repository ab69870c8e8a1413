"""What the benchmarks say about the machine they ran on."""

from __future__ import annotations

import torch

from samunet.machine.hardware import device_name


def processor_name(device: str = "cpu") -> str:
    """Return the name of the GPU or the CPU."""
    return device_name(torch.device(device))
