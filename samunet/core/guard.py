"""Run a program that ends, with all that it began, when this process is to end or its own parent has ended.

    python -m samunet.core.guard PROGRAM [WORD ...]

A program that knows nothing of its parent, such as nnU-Net's training with its workers, would go on after `kill -9` of
the command that started it. POSIX only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

GRACE_S = 30.0  # between SIGTERM, after which a training saves, and SIGKILL


def guarded(words: Sequence[str]) -> list[str]:
    """Return the words that run a program under guard, where this system can."""
    return [sys.executable, "-m", __name__, *words] if os.name == "posix" else list(words)


def main(words: Sequence[str]) -> int:
    """Run a program; returns its exit code, 128 and more for a signal."""
    parent, asked = os.getppid(), []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: asked.append(number))
    child, until = subprocess.Popen(words, start_new_session=True), None
    while child.poll() is None:
        if until is None and (asked or os.getppid() != parent):
            os.killpg(child.pid, signal.SIGTERM)
            until = time.monotonic() + GRACE_S
        if until is not None and time.monotonic() > until:
            break
        with suppress(subprocess.TimeoutExpired):
            child.wait(0.5)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # and what the program left behind
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
