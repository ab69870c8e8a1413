"""Choices that depend on the machine."""

from __future__ import annotations

import pytest
import torch

from samunet.core import memory
from samunet.machine import hardware
from samunet.machine.precision import PRECISIONS


def test_fast_products_have_the_digits_of_fp32_where_the_check_says_so():
    exact_enough = hardware.fast_fp32_products_are_exact()
    a, b = (torch.randn(300, 700, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    exact = a.double() @ b.double().T
    hardware.use_fast_fp32_products(exact_enough)
    try:
        assert ((a @ b.T - exact).abs().max() / exact.abs().max()).item() < 3e-6  # bf16 would be off by a thousandth
    finally:
        hardware.use_fast_fp32_products(False)


@pytest.mark.parametrize(
    ("flags", "has"), [("fpu avx512_bf16", True), ("amx_bf16 amx_tile", True), ("avx2 avx512f", False), ("", False)]
)
def test_bf16_needs_hardware_that_multiplies_it(monkeypatch, flags, has):
    monkeypatch.setattr(hardware, "_cpu_information", lambda: f"flags : {flags}")
    assert hardware.choose_precision("auto", torch.device("cpu")) == (torch.bfloat16 if has else None)
    assert hardware.choose_precision("fp32", torch.device("cpu")) is None


@pytest.mark.parametrize("has", [True, False])
def test_where_linux_tells_nothing_torch_is_asked(monkeypatch, has):
    monkeypatch.setattr(hardware, "_cpu_information", lambda: "")
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": has, "l2_cache_size": 1}, raising=False
    )
    assert hardware.cpu_has_bf16() == has


def test_the_number_format_is_chosen_without_a_look_at_a_clock(monkeypatch):
    def looked() -> float:
        raise AssertionError

    for clock in ("perf_counter", "process_time", "monotonic", "time"):
        monkeypatch.setattr(f"time.{clock}", looked)
    hardware.choose_precision("auto", torch.device("cpu"))


def test_the_limit_of_a_container_counts_and_pages_of_files_do_not(monkeypatch, tmp_path):
    free = memory.available_memory()
    if free is None:
        pytest.skip("only Linux tells")
    values = {
        "max": "900000",
        "current": "800000",
        "stat": "anon 500000\ninactive_file 200000\nactive_file 50000\nfile 260000\n",
    }
    for name, text in values.items():
        (tmp_path / f"memory.{name}").write_text(text + "\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    assert memory.available_memory() == 900000 - 800000 + 250000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() > 900000


def test_a_cpu_has_the_name_that_linux_gives_it(monkeypatch):
    monkeypatch.setattr(
        hardware, "_cpu_information", lambda: "processor\t: 0\nmodel name\t: Some CPU 9000\nflags\t: fpu"
    )
    assert hardware.device_name(torch.device("cpu")) == "Some CPU 9000"
    monkeypatch.setattr(hardware, "_cpu_information", lambda: "")
    assert hardware.device_name(torch.device("cpu")) == "cpu" and hardware.device_name(torch.device("mps")) == "mps"


def test_every_precision_that_may_be_asked_for_is_one_of_torch():
    """Save for auto, which is whatever the machine is good at."""
    names = [hardware.PRECISION_NAMES[hardware.choose_precision(name, torch.device("cpu"))] for name in PRECISIONS[1:]]
    assert names == list(PRECISIONS[1:]) and PRECISIONS[0] == "auto"
