"""One command at a time in a folder; a second one is told who is there. Locks of dead processes count for nothing.

The package filelock did this before: before 3.21 it takes the lock of a file that its holder has removed.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path

from samunet.core.codec import write_json
from samunet.core.parts import remove_dead_parts
from samunet.core.process import this_process
from samunet.errors import InUseError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

# Before the name of a share; ends the file beside it that says who is there.
LOCK_FILE, SHARE, OWNER = (".lock", "@", ".json")
WAIT_S = 2.0  # for those that look whether a lock is free, which takes them milliseconds
POLL_S = 0.05
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
MOST_WORDS = 200  # letters of a command in a message


@contextmanager
def held(folder: Path, *, name: str = "", share: str | None = None, wait: float = WAIT_S) -> Iterator[None]:
    """Keep other commands from writing in a folder within this context; one made for it goes where it stays empty.

    The operating system holds the lock (flock), and frees it when the process ends, however it ends, also on NFS
    (version 4, or 3 with its lock daemon). Where a file system has no locks, that is said, and nothing is kept from
    anybody.

    Args:
        name: what of the folder is meant, where that is not all of it.
        share: holders with different shares are there together, one with None is alone.
        wait: seconds for the other to end.

    Raises:
        InUseError: another process is there; it is named.
    """
    folder = folder.absolute()
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    whole = folder / f"{LOCK_FILE}.{name}" if name else folder / LOCK_FILE
    try:
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _enter(stack, whole, share, wait)
            except OSError as error:
                if error.errno in NO_LOCKS:
                    logger.warning(
                        "The file system of %s has no locks: see to it that no other command writes there.", folder
                    )
                elif share is None or error.errno not in READ_ONLY:  # who only reads may, where nobody can write
                    raise
            remove_dead_parts(folder)
            yield
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


def reading(folder: Path) -> AbstractContextManager[None]:
    """Keep others from being alone in a folder, while any number of processes read there; see `held`."""
    process = this_process()
    return held(folder, share=f"{process.host}-{process.number}-{process.began}")


def _enter(stack: ExitStack, whole: Path, share: str | None, wait: float) -> None:
    """Take a lock; of two that come at once, one that is alone and one with a share, at least one sees the other."""
    mine = whole
    if share is not None:
        mine = whole.with_name(f"{whole.name}{SHARE}{re.sub(r'[^A-Za-z0-9._-]', '_', share)}")
        stack.enter_context(_taken(mine, wait))
        with _taken(whole, wait, told=False):
            pass
    else:
        stack.enter_context(_taken(whole, wait))
    for other in whole.parent.glob(f"{whole.name}{SHARE}*"):  # those of dead processes go
        if other != mine and not other.name.endswith(OWNER):
            with (
                suppress(InUseError) if share is not None else nullcontext(),
                _taken(other, wait if share is None else 0.0, told=False),
            ):
                pass


@contextmanager
def _taken(file: Path, wait: float, told: bool = True) -> Iterator[None]:
    """Hold one lock file; it goes with the lock."""
    owner = file.with_name(f"{file.name}{OWNER}")
    end = time.monotonic() + wait
    while (descriptor := _lock(file)) is None:
        if time.monotonic() >= end:
            raise InUseError(f"{file.parent} is in use by {_holder(file, owner)}, and run this command again.")
        time.sleep(POLL_S)
    try:
        if told:
            process = this_process()
            since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            write_json(owner, {"command": _command(), "process": process.number, "host": process.host, "since": since})
        yield
    finally:
        owner.unlink(missing_ok=True)
        _unlock(descriptor, file)


def _lock(file: Path) -> int | None:
    """Lock a file, which is made where it is absent, and return its descriptor; None while another has it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _is_ours(descriptor):
                os.close(descriptor)
                return None
            # Its last holder may have removed it after it was opened here, and another may have made it anew.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), file.stat()):
                    return descriptor
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError) and error.errno in NO_LOCKS:  # it would stay for ever
                file.unlink(missing_ok=True)
            raise
        os.close(descriptor)


def _is_ours(descriptor: int) -> bool:
    """Ask the operating system for the lock of an open file; returns whether it gave it."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            return False
        raise
    return True


def _unlock(descriptor: int, file: Path) -> None:
    """Remove a lock's file and free the lock; on Windows, which removes no open file, the other way round."""
    if sys.platform == "win32":
        os.close(descriptor)
        with suppress(OSError):
            file.unlink()
    else:
        with suppress(OSError):
            file.unlink()
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone keeps it while a process forked from this one runs
        os.close(descriptor)


def _holder(file: Path, owner: Path) -> str:
    """Say who has a lock, and what to do."""
    try:
        told = json.loads(owner.read_text(encoding="utf-8"))
        who = (
            f"'{told['command']}' (process {told['process']} on {told['host']}, since {told['since']}). Wait until "
            "it ends, or end it"
        )
        return who if told["host"] == this_process().host else f"{who}, or remove {file} if it no longer runs"
    except (OSError, ValueError, KeyError, TypeError):
        return "another command. Wait until it ends"


def _command() -> str:
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return " ".join(words)[:MOST_WORDS]
