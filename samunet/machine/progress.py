"""Run one function over many cases in threads, with a progress bar on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

LONG_SECONDS = 3 * 24 * 3600.0  # beyond which a training is not what somebody meant to wait for
MINUTES_INSTEAD = 120  # that are proposed in its place
Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    function: Callable[[Item], Result], items: Sequence[Item], *, threads: int, title: str, quiet: bool = False
) -> list[Result]:
    """Return function(item) of every item, in order.

    Nothing here may draw from global random generators. The first exception stops what has not begun and is raised.
    """
    with pool_of(threads) as pool:
        futures = [pool.submit(function, item) for item in items]
        return [future.result() for future in bar(futures, title=title, quiet=quiet)]


@contextmanager
def pool_of(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool of threads; after an error what has not begun is dropped, an interruption waits for nothing."""
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    pool.shutdown()


def readable_seconds(seconds: float) -> str:
    """Return a time as people say it: 0.62 s, 47 s, 41 min, 5.2 hours, 34 days."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            count = seconds / length
            return f"{count:.0f} {unit}" if count >= 10 else f"{count:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def bar(items: Iterable[Item], *, title: str, total: int | None = None, quiet: bool = False) -> Iterable[Item]:
    """Wrap an iterable in a progress bar that shows only on a terminal."""
    return tqdm(items, desc=title, total=total, disable=True if quiet else None, file=sys.stderr, dynamic_ncols=True)
