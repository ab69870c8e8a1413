"""Room in memory for cases that threads work on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from samunet.core import memory
from samunet.errors import DatasetError


def test_limits_of_groups_around_this_one_count(tmp_path, monkeypatch):
    leaf = tmp_path / "user.slice" / "job"
    leaf.mkdir(parents=True)
    for folder, limit in ((leaf, "max"), (leaf.parent, "1000"), (tmp_path, "5000")):
        for name, text in (("max", limit), ("current", "400"), ("stat", "active_file 50")):
            (folder / f"memory.{name}").write_text(f"{text}\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    (tmp_path / "cgroup").write_text("0::/user.slice/job\n")
    read = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *given: read(tmp_path / "cgroup" if self == Path("/proc/self/cgroup") else self, *given),
    )
    assert sorted(memory._left_in_groups()) == [650, 4650]


def test_a_case_waits_until_it_fits_beside_those_in_work(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 100)
    room, begun = memory.Room(), Event()

    def enter():
        with room.of(50, "b"):
            begun.set()

    with ThreadPoolExecutor(1) as pool:
        with room.of(60, "a"):
            waiting = pool.submit(enter)
            with room.of(40, "c"):
                pass
            assert not begun.wait(0.05)
        waiting.result(timeout=60)
    assert begun.is_set()


def test_a_case_that_does_not_fit_alone_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 100)
    with (
        pytest.raises(DatasetError, match="Case 'a' needs about 101 bytes of memory, 100 bytes are free"),
        memory.Room().of(101, "a"),
    ):
        pass
    monkeypatch.setattr(memory, "available_memory", lambda: None)  # the system does not tell
    with memory.Room().of(10**15, "a"):
        pass
