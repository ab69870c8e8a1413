"""What the machine offers: devices and number formats."""

from __future__ import annotations

import ctypes
import math
import os
import re
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path

import torch

from samunet.core.units import counted
from samunet.errors import ConfigError

PRECISION_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}
BF16_FLAGS = ("avx512_bf16", "amx_bf16")  # as Linux and torch name them
# 8 GiB of the default model take half a minute per step on two cores, see benchmarks/variant_step.py.
CPU_PLAN_GIB = 1.0
GPU_PLAN_SHARE = 0.9  # of a GPU's memory; the driver and the screen take some
LOST_DIGITS = 4  # times the error of the default is fp32 all the same; bf16 would lose some hundred times more


def choose_device(asked: str | None) -> torch.device:
    """Return the device asked for, or the best one present: cuda, then mps, then cpu; raises ConfigError where the
    device is unknown or absent.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked is None:
        return torch.device(next(name for name, is_there in present.items() if is_there))
    kind = asked.split(":")[0]
    if kind not in present:
        raise ConfigError(f"Device '{asked}' is unknown; use cuda, cuda:0, mps or cpu.")
    if not present[kind]:
        there = ", ".join(name for name, is_there in present.items() if is_there)
        raise ConfigError(f"Device '{asked}' is not on this machine; present: {there}.")
    _, colon, number = asked.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if colon and not (number.isdecimal() and int(number) < count):
        raise ConfigError(
            f"Device '{asked}' is not on this machine; it has {counted(count, kind + ' device')}, from 0."
        )
    return torch.device(asked)


def choose_precision(asked: str, device: torch.device) -> torch.dtype | None:
    """Return the autocast type: bf16 where the hardware says it multiplies in it, else fp16 on CUDA, else None (fp32).

    Nothing is timed, so that a busy machine chooses as an idle one does and equal trainings stay equal.
    """
    if asked != "auto":
        return next(kind for kind, name in PRECISION_NAMES.items() if name == asked)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu" and cpu_has_bf16():
        return torch.bfloat16
    return None


@lru_cache(maxsize=1)
def fast_fp32_products_are_exact() -> bool:
    """Tell whether oneDNN multiplies fp32 matrices on this CPU with the digits of fp32; see `use_fast_fp32_products`.

    The switch allows bf16 arithmetic in name; where oneDNN makes use of that, results lose digits, which is measured
    here.
    """
    if not hasattr(_matmul_switch(), "fp32_precision"):  # before torch 2.9
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()

    def error(fast: bool) -> float:
        use_fast_fp32_products(fast)
        return float((a @ b - exact).abs().max())

    try:
        return error(True) <= LOST_DIGITS * error(False)
    finally:
        use_fast_fp32_products(False)


def use_fast_fp32_products(fast: bool) -> None:
    """Let oneDNN multiply fp32 matrices fast, in the whole process, or not; does nothing before torch 2.9."""
    switch = _matmul_switch()
    if hasattr(switch, "fp32_precision"):
        switch.fp32_precision = "bf16" if fast else "none"


def _matmul_switch() -> object:
    return getattr(getattr(torch.backends, "mkldnn", None), "matmul", None)


def cpu_has_bf16() -> bool:
    """Tell whether this CPU says that it multiplies bf16 in hardware (AVX512-BF16, AMX); elsewhere bf16 is slow.

    benchmarks/cpu_settings.py measures a training step in both formats. ARM's flag "bf16" does not count: nobody
    measured a training there.
    """
    told = _cpu_information() or str(
        [name for name, has in getattr(torch.cpu, "get_capabilities", dict)().items() if has]
    )
    return any(flag in told for flag in BF16_FLAGS)


@lru_cache(maxsize=1)
def _cpu_information() -> str:
    """Return what Linux says of the first core; an empty string elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").split("\n\n")[0]
    except OSError:
        return ""


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the CPU where Linux tells it; else the device's kind."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    match = re.search(r"^model name\s*:\s*(.+)$", _cpu_information(), re.MULTILINE) if device.type == "cpu" else None
    return match[1].strip() if match else device.type


def memory_to_plan_for() -> tuple[float, str]:
    """Return the GiB that a training step may need on the best device present, and a sentence on why."""
    device = choose_device(None)
    if device.type == "cpu":
        return CPU_PLAN_GIB, f"{CPU_PLAN_GIB:g} GiB, since there is no GPU and a CPU is slow at larger plans"
    total = (
        torch.cuda.get_device_properties(device).total_memory
        if device.type == "cuda"
        else torch.mps.recommended_max_memory()
    )
    gib = max(CPU_PLAN_GIB, math.floor(2 * GPU_PLAN_SHARE * total / 2**30) / 2)
    return gib, f"{gib:g} GiB of the {total / 2**30:.1f} GiB of {device_name(device)}"


def autocast(device: torch.device, precision: torch.dtype | None) -> AbstractContextManager[object]:
    """Return a context in which matrix products and convolutions run in `precision`; None leaves fp32."""
    return nullcontext() if precision is None else torch.autocast(device.type, dtype=precision)


def choose_workers(asked: int, device: torch.device) -> int:
    """Return how many processes make samples: those asked for, else one less than the cores, at most 12.

    On a CPU the training itself needs the cores, so one process prepares samples when there is more than one.
    """
    cores = os.cpu_count() or 1
    if asked >= 0:
        return asked
    return min(1, cores - 1) if device.type == "cpu" else min(12, max(1, cores - 1))


def keep_freed_memory() -> None:
    """Tell glibc's allocator to reuse freed memory instead of giving it back to the system; elsewhere do nothing.

    Large tensors are otherwise mapped and zeroed again at every step; benchmarks/cpu_settings.py measures what that
    costs. A setting of the whole process, so only commands call it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no separate mappings
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep up to 2 GiB of freed memory at the top of the heap


def give_back_freed_memory() -> None:
    """Give freed memory back, which `keep_freed_memory` kept; elsewhere than on glibc do nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether torch raised this for want of memory; for a CPU it has no exception of its own."""
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "DefaultCPUAllocator" in str(error)
        or "not enough memory" in str(error)
    )
