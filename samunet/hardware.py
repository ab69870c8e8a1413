"""What the machine offers: devices and number formats."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path

import torch

from samunet.errors import ConfigError

PRECISION_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}
BF16_GAIN = 0.85  # share of the time in fp32 below which bf16 is taken
LOST_DIGITS = 4  # times the error of the default is fp32 all the same; bf16 would lose some hundred times more


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
    """Return the autocast type: bf16 where the hardware multiplies in it (and on a CPU is faster so), else fp16 on CUDA, else None (fp32)."""
    if wanted != "auto":
        return next(kind for kind, name in PRECISION_NAMES.items() if name == wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu" and cpu_has_bf16() and bf16_is_faster():
        return torch.bfloat16
    return None


@lru_cache(maxsize=1)
def bf16_is_faster() -> bool:
    """Time a matrix product and its gradient on the CPU in bf16 and in fp32; takes a tenth of a second, once a process.

    Where a CPU multiplies bf16 in hardware it takes about half the time, so that noise does not decide.
    """
    layer = torch.ones(512, 512, requires_grad=True)
    image = torch.ones(512, 512)

    def step(precision: torch.dtype | None) -> None:
        with torch.enable_grad(), autocast(torch.device("cpu"), precision):
            product = image @ layer
            total = product.sum()
        total.backward()

    usual, other = _best_seconds(lambda: step(None), lambda: step(torch.bfloat16))
    return other < BF16_GAIN * usual


@lru_cache(maxsize=1)
def fast_fp32_products_are_exact() -> bool:
    """Tell whether oneDNN multiplies fp32 matrices on this CPU with the digits of fp32; see `use_fast_fp32_products`.

    The switch allows bf16 arithmetic in name; where oneDNN makes use of that, results lose digits, which is measured here.
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
    """Let oneDNN multiply fp32 matrices on the CPU, for the whole process, or not; without the switch (torch before 2.9) do nothing."""
    switch = _matmul_switch()
    if hasattr(switch, "fp32_precision"):
        switch.fp32_precision = "bf16" if fast else "none"


def _matmul_switch() -> object:
    return getattr(getattr(torch.backends, "mkldnn", None), "matmul", None)


def _best_seconds(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Return the shortest of ten times of both, taken in turns, so that what else the machine does falls on both."""
    best = [float("inf"), float("inf")]
    for _ in range(10):
        for index, run in enumerate((first, second)):
            began = time.perf_counter()
            run()
            best[index] = min(best[index], time.perf_counter() - began)
    return best[0], best[1]


def cpu_has_bf16() -> bool:
    """Tell whether this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX); elsewhere bf16 is emulated and slow."""
    information = _cpu_information()
    return "avx512_bf16" in information or "amx_bf16" in information


@lru_cache(maxsize=1)
def _cpu_information() -> str:
    """What Linux says of the first core; empty elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").split("\n\n")[0]
    except OSError:
        return ""


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the CPU where Linux tells it; else the device's kind."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = re.search(r"^model name\s*:\s*(.+)$", _cpu_information(), re.MULTILINE) if device.type == "cpu" else None
    return found[1].strip() if found else device.type


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


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether torch raised this for want of memory; for a CPU it has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error) or "not enough memory" in str(error)
