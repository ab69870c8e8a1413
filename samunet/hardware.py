"""What the machine offers: devices and number formats."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch

from samunet.errors import ConfigError

PRECISION_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}
BF16_GAIN, FP32_GAIN = 0.9, 0.8  # shares of the usual time below which another number format or library is taken


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
    """Time a small step of layers on the CPU in bf16 and in fp32; takes a tenth of a second, once a process.

    Where a CPU multiplies bf16 in hardware it takes about half the time, so that noise does not decide.
    """
    layers = torch.nn.Sequential(torch.nn.Conv3d(16, 32, 3, padding=1), torch.nn.GroupNorm(32, 32), torch.nn.LeakyReLU(), torch.nn.Conv3d(32, 32, 3))
    image = torch.ones(1, 16, 16, 32, 32)
    cpu = torch.device("cpu")

    def seconds(precision: torch.dtype | None) -> float:
        best = float("inf")
        for _ in range(3):
            began = time.perf_counter()
            with autocast(cpu, precision):
                loss = layers(image).float().square().mean()
            loss.backward()
            best = min(best, time.perf_counter() - began)
        return best

    with torch.random.fork_rng(devices=[]):
        seconds(torch.bfloat16)  # the first call chooses kernels
        return seconds(torch.bfloat16) < BF16_GAIN * seconds(None)


@lru_cache(maxsize=1)
def use_fast_fp32_products() -> bool:
    """Let oneDNN multiply fp32 matrices on the CPU where it is faster and as exact; returns whether it does, for the rest of the process.

    MKL, torch's default, takes a slow path on CPUs of other makers. The switch allows bf16 arithmetic in name; where oneDNN makes use of
    that, results lose digits, which is measured here, and the switch is put back.
    """
    matmul = getattr(getattr(torch.backends, "mkldnn", None), "matmul", None)
    if matmul is None or not hasattr(matmul, "fp32_precision"):  # before torch 2.9
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(768, 768, generator=generator) for _ in range(2))
    exact, before = a.double() @ b.double(), matmul.fp32_precision

    def seconds_and_error() -> tuple[float, float]:
        best, result = float("inf"), a @ b
        for _ in range(5):
            began = time.perf_counter()
            result = a @ b
            best = min(best, time.perf_counter() - began)
        return best, float((result - exact).abs().max() / exact.abs().max())

    default_seconds, default_error = seconds_and_error()
    matmul.fp32_precision = "bf16"
    seconds, error = seconds_and_error()
    if seconds < FP32_GAIN * default_seconds and error <= 4 * default_error:
        return True
    matmul.fp32_precision = before
    return False


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
