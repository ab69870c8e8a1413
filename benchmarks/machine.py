"""What the benchmarks say about the machine they ran on."""

from __future__ import annotations

import re
from pathlib import Path

import torch


def processor_name(device: str = "cpu") -> str:
    """Return the name of the GPU or the CPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def start_peak() -> float:
    """Begin a new measurement of this process's peak memory (Linux); returns what it holds now in MiB."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    return _memory_mib("VmRSS")


def peak_mib() -> float:
    """Return the peak since `start_peak`, in MiB."""
    return _memory_mib("VmHWM")


def _memory_mib(name: str) -> float:
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) / 1024 if match else float("nan")
