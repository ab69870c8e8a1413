"""What the machine offers: devices and number formats."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import AbstractContextManager, nullcontext

import torch

from samunet.errors import ConfigError


def choose_device(wanted: str | None) -> torch.device:
    """Return the device asked for, or the best one present: cuda, then mps, then cpu.

    Raises:
        ConfigError: the device is unknown or absent.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted is None:
        return torch.device(next(name for name, is_there in present.items() if is_there))
    kind = wanted.split(":")[0]
    if kind not in present:
        raise ConfigError(f"Device '{wanted}' is unknown; use cuda, cuda:0, mps or cpu.")
    if not present[kind]:
        there = ", ".join(name for name, is_there in present.items() if is_there)
        raise ConfigError(f"Device '{wanted}' is not on this machine; present: {there}.")
    return torch.device(wanted)


def choose_precision(wanted: str, device: torch.device) -> torch.dtype | None:
    """Return the autocast type: bf16 where the hardware multiplies in it, else fp16 on CUDA, else None (fp32)."""
    if wanted != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu" and cpu_has_bf16():
        return torch.bfloat16
    return None


def cpu_has_bf16() -> bool:
    """Tell whether this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX); elsewhere bf16 is emulated and slow."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast(device: torch.device, precision: torch.dtype | None) -> AbstractContextManager[object]:
    """Return a context in which matrix products and convolutions run in `precision`; None leaves fp32."""
    return nullcontext() if precision is None else torch.autocast(device.type, dtype=precision)


def choose_workers(wanted: int, device: torch.device) -> int:
    """Return how many processes make samples: those asked for, else one less than the cores, at most 12.

    On a CPU the training itself needs the cores, so one process prepares samples when there is more than one.
    """
    cores = os.cpu_count() or 1
    if wanted >= 0:
        return wanted
    return min(1, cores - 1) if device.type == "cpu" else min(12, max(1, cores - 1))


def keep_freed_memory() -> None:
    """Tell glibc's allocator to reuse freed memory instead of giving it back to the system; elsewhere do nothing.

    Large tensors are otherwise mapped and zeroed anew at every step; benchmarks/cpu_settings.py measures what that costs.
    A setting of the whole process, so only commands call it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no separate mappings
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep up to 2 GiB of freed memory at the top of the heap
