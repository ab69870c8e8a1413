"""Ask a training to end after its step: by signal, by a file, or when its time is up."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

FILE = "stop"  # in the fold's folder
Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


class StopRequest:
    """Within its context SIGTERM and SIGINT ask for an end instead of ending the process; a second SIGINT ends it as
    usual.

    Args:
        folder: a file named "stop" in it asks as well, and is removed when it is heard.
        max_hours: from now; 0 for no limit.
    """

    def __init__(self, folder: Path, max_hours: float = 0.0) -> None:
        self.file = folder / FILE
        self.until = time.monotonic() + 3600 * max_hours if max_hours else None
        self.signal: str | None = None
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def reason(self) -> str | None:
        """Return why the training is to end, or None."""
        if self.signal is None and self.file.exists():
            self.file.unlink(missing_ok=True)
            self.signal = f"the file {self.file}"
        if self.signal is None and self.until is not None and time.monotonic() >= self.until:
            return "the time given by --max_hours"
        return self.signal

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name
