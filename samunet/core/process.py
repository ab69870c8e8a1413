"""Tell later whether a process still runs, and end processes with the one that began them."""

from __future__ import annotations

import functools
import os
import platform
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

FIRST_NAMESPACE = 0xEFFFFFFC  # Linux' number of the machine's own process ids; a container counts its own
STATE, BEGAN = 0, 19  # positions in /proc/<pid>/stat after the name, see proc(5)


@dataclass(frozen=True, kw_only=True)
class ProcessId:
    """One process among those of all machines, and among those that had its number before."""

    host: str
    """Name of the machine, and of its container where it counts processes itself: letters, digits and '.-_'."""
    number: int
    began: int
    """Clock ticks from the machine's start to the process's; 0 where the system does not tell."""


def this_process() -> ProcessId:
    """Return who asks."""
    return _living(os.getpid())


@functools.cache  # asked for every file that is written; a fork has a number of its own
def _living(number: int) -> ProcessId:
    return ProcessId(host=_host(), number=number, began=_began(number) or 0)


def is_dead(process: ProcessId) -> bool:
    """Tell whether a process has certainly ended; nobody knows that of another machine's."""
    if process.host != _host():
        return False
    if sys.platform == "linux" and Path(f"/proc/{process.number}").exists():  # of other users it may be hidden
        return _began(process.number) != process.began
    if os.name != "posix":
        return False
    try:
        os.kill(process.number, 0)
    except OSError as error:  # of another user's it says that it may not
        return isinstance(error, ProcessLookupError)
    return False


def end_with_parent() -> None:
    """Have this process, which multiprocessing began, end at once when the one that began it does, however that ends.

    Workers that wait for each other, or for room in a pipe, would not notice.
    """
    import multiprocessing  # only its workers need it; commands start without

    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def stop_with_parent(grace: float = 60.0) -> None:
    """End by SIGTERM when the program that began this process ends, and for certain `grace` seconds later."""
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _host() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "_", platform.node())[:64] or "localhost"
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return name
    return name if namespace == FIRST_NAMESPACE else f"{name}.{namespace}"


def _began(number: int) -> int | None:
    """Return when a process began; None where it has ended, though its parent may not know yet, and outside Linux."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[STATE] in "ZX" else int(fields[BEGAN])
