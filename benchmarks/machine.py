"""What the benchmarks say about the machine they ran on."""

from __future__ import annotations

from pathlib import Path

import torch


def processor_name(device: str = "cpu") -> str:
    """Return the name of the GPU or the CPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
