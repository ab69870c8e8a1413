"""Ask processes of their own to read with ITK, so that a crash or a hang is one file's fault and the others go on.

Each thread that reads at the same time as others gets a process of its own; it is kept for the next file, and replaced
when it dies. A process is started with nothing but Python's own start, so that scripts need no `if __name__ ==
"__main__"`, and ends with this one.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from samunet.core.codec import decode
from samunet.core.geometry import Geometry
from samunet.errors import ImageFileError
from samunet.imageio.itk import perform
from samunet.imageio.reader import LoadedFile, Peek

SEPARATE = hasattr(socket, "recv_fds") and bool(sys.executable)
"""Whether the platform has what separate processes take (Windows has not); elsewhere this process reads."""
START = "import sys; sys.path[:] = sys.argv[2:]; from samunet.imageio.itk_worker import serve; serve(int(sys.argv[1]))"
START_SECONDS = 300.0  # libraries may lie on a slow disk
BASE_SECONDS, SLOWEST = 60.0, 5 << 20  # a file's time: so many seconds, and one for so many bytes
LATE_SECONDS = 5.0  # after its time a process should have ended itself
BASE_MEMORY, COPIES = 1 << 30, 4  # a file's memory: so many bytes, and so many times its own
PACKED = 8  # bytes of voxels for each byte of a DICOM file, which may be compressed
ANSWER_PART = 1 << 16  # bytes at a time
PROCESS = 80 << 20  # bytes of a process that waits; benchmarks/prediction_memory.py


class _Died(Exception):
    """Says how a process ended, as the end of a sentence that begins with a file."""


class _Worker:
    """One process and the socket to it."""

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        paths = [path or os.getcwd() for path in sys.path]
        with theirs:
            command = [sys.executable, "-c", START, str(theirs.fileno()), *paths]
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        self._receive(START_SECONDS)

    def waits(self) -> bool:
        """Tell whether the process is there; when it dies the socket is closed first."""
        self.connection.setblocking(False)
        try:
            self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def ask(self, request: dict[str, Any], seconds: float) -> tuple[dict[str, Any], np.ndarray | None]:
        """Return the answer and its voxels, or raise _Died."""
        self.connection.settimeout(seconds + LATE_SECONDS)
        try:
            self.connection.sendall(json.dumps(request | {"seconds": seconds}).encode() + b"\n")
        except OSError:
            raise _Died(self._how(seconds)) from None
        answer, descriptors = self._receive(seconds)
        if not descriptors:
            return answer, None
        form = answer["array"]
        kind = np.dtype(form["kind"])
        try:
            memory = mmap.mmap(descriptors[0], kind.itemsize * math.prod(form["shape"]))
        finally:
            os.close(descriptors[0])
        return answer, np.frombuffer(memory, kind).reshape(form["shape"])

    def _receive(self, seconds: float) -> tuple[dict[str, Any], list[int]]:
        self.connection.settimeout(seconds + LATE_SECONDS)
        content, descriptors = b"", []
        while not content.endswith(b"\n"):
            try:
                part, received, *_ = socket.recv_fds(self.connection, ANSWER_PART, 1)
            except OSError:  # a timeout is one
                part, received = b"", []
            descriptors += received
            if not part:
                raise _Died(self._how(seconds))
            content += part
        return json.loads(content), descriptors

    def _how(self, seconds: float) -> str:
        """End the process, if it still runs, and say how it ended."""
        try:
            code = self.process.wait(1.0)  # the socket is closed a little before
        except subprocess.TimeoutExpired:
            code = -signal.SIGALRM
        self.end()
        if code == -signal.SIGALRM:
            return f"reading it took more than {seconds:.0f} seconds"
        if code == -signal.SIGKILL:
            return "the process that read it was killed, perhaps because memory ran out"
        return f"the process that read it crashed ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


class _Pool:
    """All processes of this one."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin without processes, as a fork must, which shares its parent's sockets."""
        for worker in getattr(self, "workers", ()):
            worker.connection.close()
            worker.process.returncode = 0  # the parent's to wait for
        self.lock, self.workers, self.idle = Lock(), set[_Worker](), list[_Worker]()

    def ask(self, request: dict[str, Any], seconds: float) -> tuple[dict[str, Any], np.ndarray | None]:
        worker = self._take()
        try:
            answer = worker.ask(request, seconds)
        except BaseException:  # Ctrl-C leaves an answer underway
            with self.lock:
                self.workers.discard(worker)
            worker.end()
            raise
        with self.lock:
            self.idle.append(worker)
        return answer

    def _take(self) -> _Worker:
        with self.lock:
            while self.idle:
                worker = self.idle.pop()
                if worker.waits():
                    return worker
                self.workers.discard(worker)
                worker.end()
        worker = _Worker()
        with self.lock:
            self.workers.add(worker)
        return worker

    def end(self) -> None:
        with self.lock:
            for worker in self.workers:
                worker.end()
            self.workers.clear()
            self.idle.clear()


_POOL = _Pool()
atexit.register(_POOL.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.forget)


def read_file(path: Path, size: int) -> LoadedFile:
    """Read one file with `samunet.imageio.itk.read_file`; raises ImageFileError where ITK refuses the file, crashes on
    it, or takes too long or too much memory for it.

    Args:
        size: bytes of its voxels, which bound the time and the memory that reading may take.
    """
    return _loaded(*_ask("read file", path, size), path)


def read_series(folder: Path, series: str | None = None) -> LoadedFile:
    """Read a DICOM series with `samunet.imageio.dicom.read_series`; raises as `read_file` and as it does."""
    return _loaded(*_ask("read series", folder, _unpacked(folder), series=series), folder)


def series_files(folder: Path, series: str | None = None) -> tuple[Path, ...]:
    """List a DICOM series with `samunet.imageio.dicom.series_files`; raises as `read_file` and as it does."""
    return tuple(Path(name) for name in _ask("list series", folder, _unpacked(folder), series=series)[0])


def peek_series(folder: Path, series: str | None = None) -> Peek:
    """Read two headers with `samunet.imageio.dicom.peek_series`; raises as `read_file` and as it does."""
    return decode(Peek, _ask("peek series", folder, _unpacked(folder), series=series)[0], str(folder))


def convert_series(folder: Path, target: Path) -> None:
    """Write a DICOM series to a file of any format that ITK writes; raises as `read_series`."""
    _ask("convert series", folder, _unpacked(folder), target=str(target))


def _loaded(value: Any, array: np.ndarray | None, path: Path) -> LoadedFile:
    if array is None:
        raise ImageFileError(f"{path} cannot be read: ITK gives no voxels; export it again.")
    return array, decode(Geometry, value, str(path))


def _unpacked(folder: Path) -> int:
    """Return how many bytes the files of a folder may unpack to."""
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        return PACKED * sum(entry.stat().st_size for entry in entries if entry.is_file())


def _ask(
    task: str, path: Path, size: int, target: str = "", series: str | None = None
) -> tuple[Any, np.ndarray | None]:
    if not SEPARATE:
        kept: list[np.ndarray] = []
        value = perform(task, path, lambda array: kept.append(array.copy()), target, series)
        return value, kept[0] if kept else None
    request: dict[str, Any] = {"task": task, "path": str(path), "target": target, "series": series}
    request |= {"folder": os.getcwd(), "memory": BASE_MEMORY + COPIES * size}
    try:
        answer, array = _POOL.ask(request, BASE_SECONDS + size / SLOWEST)
    except _Died as how:
        raise ImageFileError(f"{path} cannot be read: {how}; export it again, or convert it to .nii.gz.") from None
    for name, level, message in answer["log"]:
        logging.getLogger(name).log(level, "%s", message)
    if "error" in answer:
        raise ImageFileError(answer["error"], answer["code"])
    return answer["value"], array
