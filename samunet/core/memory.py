"""How much memory is free, and how much this process takes; only Linux tells."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition

from samunet.core.units import readable
from samunet.errors import DatasetError

CGROUPS = Path("/sys/fs/cgroup")


class Room:
    """The memory that is free when this is made; cases in threads begin while they fit beside those in work."""

    def __init__(self) -> None:
        self.free = available_memory()
        self._held: list[int] = []
        self._changed = Condition()

    @contextmanager
    def of(self, needed: int, identifier: str) -> Iterator[None]:
        """Wait until a case that needs so many bytes fits; raises DatasetError where it does not even alone."""
        if self.free is not None and needed > self.free:
            wants = f"Case '{identifier}' needs about {readable(needed)} of memory, {readable(self.free)} are free"
            raise DatasetError(f"{wants}; free some, or work on a machine with more.", "too-large")
        with self._changed:
            self._changed.wait_for(lambda: self.free is None or not self._held or sum(self._held) + needed <= self.free)
            self._held.append(needed)
        try:
            yield
        finally:
            with self._changed:
                self._held.remove(needed)
                self._changed.notify_all()


def is_free(needed: int) -> bool:
    """Tell whether so many bytes are free, as far as is known."""
    free = available_memory()
    return free is None or needed <= free


def start_peak() -> float:
    """Begin a new measurement of this process's peak memory (Linux); returns what it holds now in MiB."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    return _kib("/proc/self/status", "VmRSS") / 1024


def peak_mib() -> float:
    """Return the most that this process held since `start_peak`, or since it began, in MiB; NaN if unknown."""
    return _kib("/proc/self/status", "VmHWM") / 1024


def available_memory() -> int | None:
    """Return the bytes of RAM that are free without swapping, also by a container's limits; None where not told."""
    free = _kib("/proc/meminfo", "MemAvailable") * 1024
    if math.isnan(free):
        return None
    return int(min([free, *_left_in_groups()]))


def _left_in_groups() -> list[int]:
    """Return what this process's control group (Linux, version 2) and those around it leave; pages of files can be
    dropped.
    """
    try:
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    leaf, left = CGROUPS / own.strip("/"), []
    for part in (leaf, *(around for around in leaf.parents if around.is_relative_to(CGROUPS))):
        try:
            limit, used, details = (part.joinpath(f"memory.{name}").read_text() for name in ("max", "current", "stat"))
        except OSError:
            continue
        if limit.strip() != "max":
            pages = sum(map(int, re.findall(r"^(?:in)?active_file (\d+)$", details, re.MULTILINE)))
            left.append(max(0, int(limit) - int(used) + pages))
    return left


def _kib(file: str, name: str) -> float:
    """Return a line "Name: 12 kB" of a file of Linux's; NaN elsewhere."""
    try:
        match = re.search(rf"{name}:\s+(\d+) kB", Path(file).read_text())
    except OSError:
        return float("nan")
    return int(match[1]) if match else float("nan")
