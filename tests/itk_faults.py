"""A process for ITK that has what ITK does to some damaged files: by the file's name it crashes, runs without end, or
takes all memory.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

from samunet.imageio import itk, itk_worker

START = "import sys; sys.path[:] = sys.argv[2:]; import itk_faults; itk_faults.serve()"
real = itk.read_file


def read_file(path: Path):
    if "crash" in path.name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in path.name:
        re.match(r"(a+)+$", "a" * 60 + "b")  # in C, without ever letting Python run
    if "greedy" in path.name:
        return bytearray(1 << 45)
    if "exit" in path.name:
        os._exit(3)
    return real(path)


def serve() -> None:
    itk.read_file = read_file
    itk_worker.serve(int(sys.argv[1]))
