"""Files of probabilities, `<case>.npz` with "probabilities" (K, D, H, W), written and read one class at a time.

The form is nnU-Net's, which numpy reads and writes whole. Numbers are float16, rounded to multiples of 1/4096: where
float16 decides between two classes, near 1/2, it has no finer steps, and digits that are noise do not compress.
benchmarks/probabilities.py measures what that saves and how many voxels of an ensemble it gives another label.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from samunet.core.codec import atomic_path
from samunet.core.units import readable
from samunet.errors import DatasetError

MEMBER = "probabilities.npy"
COMPRESSION_LEVEL = 1  # of zlib; 6 takes twice as long and saves a quarter
PROBABILITY_STEPS = np.float32(4096)  # from 0 to 1; float16 below 1/2 holds all of them, from there on every second one
BYTES = 2
LITTLE = 1 << 30  # bytes on disk that are not worth a word
NUMBERS_PER_SECOND = (
    10e6  # by one core where every class is likely everywhere, the slowest; benchmarks/probabilities.py
)
DAMAGE = (OSError, KeyError, ValueError, EOFError, zlib.error, zipfile.BadZipFile)


def write_probabilities(path: Path, planes: Iterable[np.ndarray], count: int) -> None:
    """Write `count` (D, H, W) arrays of probabilities in turn, rounded to multiples of 1/4096, whole or not at all."""
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION_LEVEL) as archive,
        archive.open(MEMBER, "w", force_zip64=True) as file,
    ):
        for channel, plane in enumerate(planes):
            if channel == 0:
                header = {"descr": "<f2", "fortran_order": False, "shape": (count, *plane.shape)}
                np.lib.format.write_array_header_1_0(file, header)
            for part in plane:
                rounded = np.rint(part * PROBABILITY_STEPS)
                rounded /= PROBABILITY_STEPS
                file.write(rounded.astype("<f2", order="C").data)


def forecast(voxels: Sequence[int], classes: int) -> str:
    """Say in one line what writing the probabilities of cases of these sizes takes; empty where it takes little."""
    largest, whole = classes * max(voxels), classes * sum(voxels)
    minutes = math.ceil(largest / NUMBERS_PER_SECOND / 60)
    if minutes <= 1 and BYTES * whole < LITTLE:
        return ""
    text = f"The probabilities take up to {readable(BYTES * whole)} on disk"
    text += f", {readable(BYTES * largest)} for the largest case"
    return f"{text}, which takes up to {minutes} min to write." if minutes > 1 else f"{text}."


@dataclass(frozen=True)
class StoredProbabilities:
    """An open file of probabilities."""

    path: Path
    shape: tuple[int, ...]
    """(K, D, H, W)."""
    _dtype: np.dtype
    _columns_first: bool
    _file: IO[bytes]

    def planes(self) -> Iterator[np.ndarray]:
        """Yield the (D, H, W) float32 probabilities of one class after the other, once; raises DatasetError where the
        file is damaged.
        """
        with _naming(self.path):
            if self._columns_first:  # nnU-Net's files of one class may be; there is no plane to read alone
                yield from self._read(math.prod(self.shape)).reshape(self.shape, order="F")
                return
            for _ in range(self.shape[0]):
                yield self._read(math.prod(self.shape[1:])).reshape(self.shape[1:])

    def _read(self, count: int) -> np.ndarray:
        payload = self._file.read(count * self._dtype.itemsize)
        with np.errstate(over="ignore"):  # of damaged numbers; the checksum follows at the end
            return np.frombuffer(payload, self._dtype, count).astype(np.float32, copy=False)


@contextmanager
def open_probabilities(path: Path) -> Iterator[StoredProbabilities]:
    """Open a file of probabilities; raises DatasetError when it is absent, damaged, or holds something else."""
    with _naming(path), zipfile.ZipFile(path) as archive, archive.open(MEMBER) as file:
        read_header = (
            np.lib.format.read_array_header_1_0
            if np.lib.format.read_magic(file) == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, columns_first, dtype = read_header(file)
        if len(shape) != 4 or dtype.kind != "f":
            raise ValueError(f"it holds {dtype} of shape {shape}, expected floating-point numbers with axes K, D, H, W")
        yield StoredProbabilities(path, shape, dtype, columns_first, file)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise DatasetError(
            f"{path} cannot be read ({error}); predict the case again with --save_probabilities."
        ) from None
