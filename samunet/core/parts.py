"""Files that are being written, named after their process, so that those of a killed one are found and removed."""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from samunet.core.process import ProcessId, is_dead, this_process
from samunet.errors import in_words

PREFIX = ".part-"
PART_NAME = re.compile(r"\.part-(?P<host>.+)-(?P<number>\d+)-(?P<began>\d+)-[0-9a-f]{12}(?![0-9a-f]).*")
FULL = (errno.ENOSPC, errno.EDQUOT)  # of the disk, or of what a user may take of it
LEAST_FREE = 1 << 16  # bytes; a disk with less is full, whatever a library says about a write that failed there

_open: set[Path] = set()  # of this process; the only way to find them when a signal ends it while threads write


def part_name(ending: str = "") -> str:
    """Return a new name for a file or folder that this process is to write."""
    process = this_process()
    return f"{PREFIX}{process.host}-{process.number}-{process.began}-{os.urandom(6).hex()}{ending}"


def is_part(path: Path) -> bool:
    """Tell whether a file or folder is one that is, or was, being written."""
    return path.name.startswith(PREFIX)


def remove_dead_parts(folder: Path) -> None:
    """Remove what processes of this machine that no longer run were writing in a folder."""
    for entry in os.scandir(folder) if folder.is_dir() else ():
        match = PART_NAME.fullmatch(entry.name)
        if match and is_dead(ProcessId(host=match["host"], number=int(match["number"]), began=int(match["began"]))):
            with suppress(OSError):  # another user's, or where nobody can write any longer
                remove_part(Path(entry.path))


# Listing a folder of thousands of cases for each of its files would take long.
remove_dead_parts_once = functools.cache(remove_dead_parts)


def remove_part(path: Path) -> None:
    """Remove a file or folder that was being written, whether or not it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def begin_part(path: Path) -> None:
    """Take note of what this process writes from now on."""
    _open.add(path)


def end_part(path: Path) -> None:
    """Remove what was being written, where it was not renamed, and forget it."""
    remove_part(path)
    _open.discard(path)


def remove_open_parts() -> None:
    """Remove everything that this process is writing; what its threads do from then on is lost."""
    for path in tuple(_open):
        end_part(path)


def is_full(error: BaseException) -> bool:
    """Tell whether an error is that of a full disk, after which no other file can be written either."""
    return isinstance(error, OSError) and error.errno in FULL


def with_way_out(error: OSError) -> str:
    """Return in words an error of a file that nothing was written to, and what to do about it."""
    way_out = "make space" if is_full(error) else "see that the file is there and that you may read and write it,"
    return f"{in_words(error)}. Nothing was changed; {way_out} and try again."


@contextmanager
def naming(path: Path, part: Path | None = None) -> Iterator[None]:
    """Give errors of writing a file or folder its name, and turn those of a full disk into OSError with that number.

    Many libraries give no error number where the disk is full, or none at all but a broken file; then the disk itself
    is asked.

    Args:
        part: what is written in its place, whose name says nothing to a user.
    """
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) and is_full(error) else errno.ENOSPC
        folder = next(folder for folder in path.parents if folder.is_dir())
        if is_full(error) or shutil.disk_usage(folder).free < LEAST_FREE:
            raise OSError(number, os.strerror(number or 0), str(path)) from error
        if isinstance(error, OSError) and error.filename in (None, str(part)):
            error.filename = str(path)
        raise
