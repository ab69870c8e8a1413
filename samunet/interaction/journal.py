"""What was done to a volume, in a file that only grows; every line is on the disk before an answer goes out.

A line is a checksum and JSON. A process that is killed leaves half a line at most, without its end, which nobody was
told of; it is cut off when the journal is opened again, and a line that lacks its end alone is given it. Any other
damage is refused, and nothing is cut off.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samunet.core.codec import atomic_path, decode, encode, parse_json
from samunet.errors import ConfigError, DatasetError
from samunet.interaction.state import Block, Step, Thing, new_thing

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Start:
    """The first line: with what an annotation began."""

    version: int
    image: str
    """SHA-256 of the image's voxels and grid."""
    file: str | None
    """SHA-256 of the label file that was there; None where there was none."""
    labels: Block
    objects: tuple[Thing, ...]


def begin(image: str, file: str | None, labels: np.ndarray, objects: Sequence[Thing]) -> Start:
    """Return the beginning of an annotation.

    Args:
        image, file: see `Start`.
        labels: (D, H, W) whole numbers.
        objects: that have a name; others that the labels hold are named after their values.

    Raises:
        ConfigError: a value does not fit into 16 bits.
    """
    values = [value for value in map(int, np.unique(labels)) if value]
    most = max([0, *values, *(thing.value for thing in objects)])
    if min(values, default=1) < 0 or most > np.iinfo(np.uint16).max:
        raise ConfigError(f"Labels to annotate are from 0 to 65535; these are from {min([0, *values])} to {most}.")
    named = {value: new_thing(value) for value in values} | {thing.value: thing for thing in objects}
    narrow = labels.astype(np.uint8 if most <= np.iinfo(np.uint8).max else np.uint16)
    ordered = tuple(named[value] for value in sorted(named))
    return Start(version=VERSION, image=image, file=file, labels=Block.of(narrow), objects=ordered)


class Journal:
    """A file of a `Start` and `Step`s; `steps` is read to its end before one is appended.

    Raises:
        DatasetError: a line is damaged; see `steps` for those after the first.
    """

    def __init__(self, path: Path, begin: Callable[[], Start]) -> None:
        self.path = path
        if not path.is_file():
            with atomic_path(path) as part:
                part.write_bytes(_line(encode(begin())))
            _sync_folder(path.parent)
        lines = self._read()
        first = next(lines, None)
        if first is None:
            raise self._damaged(1)
        self.start = decode(Start, first, f"{path}, line 1")
        self._steps = lines
        self._file = path.open("ab", buffering=0)
        self._torn: int | None = None
        """Where a line begins that could be neither written nor taken back."""

    def steps(self) -> Iterator[Step]:
        """Read the steps that were taken before, and cut off what a killed process left unfinished."""
        for number, line in enumerate(self._steps, 2):
            yield decode(Step, line, f"{self.path}, line {number}")

    def restart(self, start: Start) -> None:
        """Begin anew, without steps."""
        self._file.close()
        with atomic_path(self.path) as part:
            part.write_bytes(_line(encode(start)))
        _sync_folder(self.path.parent)
        self.start, self._steps, self._file = start, iter(()), self.path.open("ab", buffering=0)

    def append(self, step: Step) -> None:
        """Write a step, and return once it is on the disk; where that fails, nothing of it stays.

        Where it stays all the same, nothing more is written before it is cut off.

        Raises:
            ConfigError: the journal was closed.
        """
        if self._file.closed:
            raise ConfigError("This annotation was closed since; open its image again.")
        line = _line({name: value for name, value in encode(step).items() if value is not None})
        self._cut()
        self._torn = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError:
            with suppress(OSError):
                self._cut()
            raise
        self._torn = None

    def _cut(self) -> None:
        if self._torn is not None:
            self._file.truncate(self._torn)
            self._torn = None

    def close(self) -> None:
        self._file.close()

    def _read(self) -> Iterator[Any]:
        """Give the lines one by one; raises DatasetError for a damaged one, but for half a one at the end."""
        with self.path.open("rb+") as file:
            whole = 0
            for number, line in enumerate(file, 1):
                content = line[9:].strip()
                if line[:9] != _checksum(content):
                    if line.endswith(b"\n") or number == 1:
                        raise self._damaged(number)
                    file.truncate(whole)
                    os.fsync(file.fileno())
                    return
                if not line.endswith(b"\n"):  # nobody was told of this step, or an editor took the end: it is kept
                    file.seek(0, os.SEEK_END)
                    file.write(b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                yield parse_json(content, f"{self.path}, line {number}")
                whole += len(line)

    def _damaged(self, number: int) -> DatasetError:
        kept = f"its first {number - 1} lines, which are whole" if number > 2 else "its first line, which is whole"
        return DatasetError(
            f"{self.path}: line {number} is damaged. Put a copy of the journal from before in its "
            "place. Without one, move it to another folder, which keeps it, and go on from the label file, which holds "
            f"what was saved last{f'; or leave of it here {kept}' if number > 1 else ''}."
        )


def _line(value: Any) -> bytes:
    content = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return _checksum(content) + content + b"\n"


def _checksum(content: bytes) -> bytes:
    return f"{zlib.crc32(content):08x} ".encode()


def _sync_folder(folder: Path) -> None:
    """Make sure that a new file's name is on the disk, where the operating system can be told to."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
