"""The process in which ITK reads: answers one request after the other until the other end of its socket is closed.

A request and an answer are one line of JSON each; the voxels lie in memory without a name, whose file descriptor
travels with the answer. Within a request the kernel ends this process when its time or its memory is used up, or when
the process that asked is gone; Python need not get to run for that. Started by `samunet.imageio.itk_pool`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import resource
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from samunet.errors import DatasetError
from samunet.imageio.itk import perform

PAGES = Path("/proc/self/statm")  # Linux; elsewhere memory is not limited
REQUEST_PART = 1 << 16  # bytes at a time


def serve(descriptor: int) -> None:
    """Answer requests that come through a socket until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks decides what Ctrl-C means
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    records = _Records()
    logging.getLogger("samunet").addHandler(records)
    with socket.socket(fileno=descriptor) as connection:
        _send(connection, {"ready": True})
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # ITK comments on every odd file
        while line := _receive_line(connection):
            request = json.loads(line)
            os.chdir(request["folder"])
            with _limits(connection, request["seconds"], request["memory"]):
                answer, descriptors = _answer(request)
            _send(connection, answer | {"log": records.taken()}, descriptors)
            for shared in descriptors:
                os.close(shared)


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    path = Path(request["path"])
    descriptors: list[int] = []
    form: dict[str, Any] = {}

    def share(array: np.ndarray) -> None:
        descriptors.append(_shared(array))
        form.update(shape=array.shape, kind=array.dtype.str)

    try:
        value = perform(request["task"], path, share, request["target"], request["series"])
        return {"value": value, "array": form or None}, descriptors
    except DatasetError as error:
        return {"error": str(error), "code": error.code}, []
    except MemoryError:
        reason = "it takes more memory than its header promises"
    except Exception as error:  # whatever a damaged file makes a library raise
        reason = f"{type(error).__name__}: {error}"
    return {"error": f"{path} cannot be read: {reason}; export it again.", "code": "unreadable"}, []


def _shared(array: np.ndarray) -> int:
    """Copy an array into memory without a name; returns its file descriptor."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("samunet")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    rest = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    while rest.nbytes:  # writing takes half the time of copying into a map, whose pages are cleared one by one before
        rest = rest[os.write(descriptor, rest) :]
    return descriptor


@contextmanager
def _limits(connection: socket.socket, seconds: float, memory: int) -> Iterator[None]:
    """End this process when time or memory (bytes beyond its own) runs out, or the other end is closed."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if PAGES.is_file():
        allowed = int(PAGES.read_text().split()[0]) * resource.getpagesize() + memory
        allowed = allowed if hard == resource.RLIM_INFINITY else min(allowed, hard)
        resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    # SIGIO, which ends a process, when the other end is closed.
    fcntl.fcntl(connection, fcntl.F_SETFL, flags | os.O_ASYNC)
    signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM likewise
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        fcntl.fcntl(connection, fcntl.F_SETFL, flags)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


class _Records(logging.Handler):
    """Keeps what is logged during a request, for the process that asked."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._kept: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append((record.name, record.levelno, record.getMessage()))

    def taken(self) -> list[tuple[str, int, str]]:
        kept, self._kept = self._kept, []
        return kept


def _receive_line(connection: socket.socket) -> bytes:
    """Receive up to the end of a line; nothing where the connection is closed."""
    content = b""
    while not content.endswith(b"\n"):
        part = connection.recv(REQUEST_PART)
        if not part:
            return b""
        content += part
    return content


def _send(connection: socket.socket, answer: dict[str, Any], descriptors: list[int] | None = None) -> None:
    content = json.dumps(answer).encode() + b"\n"
    sent = socket.send_fds(connection, [content], descriptors) if descriptors else 0
    connection.sendall(content[sent:])
