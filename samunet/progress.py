"""Run one function over many cases in threads, with a progress bar on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Sequence[Item], *, threads: int, title: str, quiet: bool = False) -> list[Result]:
    """Return function(item) of every item, in order.

    Nothing here may draw from global random generators. The first exception stops what has not begun and is raised.
    """
    with ThreadPoolExecutor(max(1, threads)) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in bar(futures, title=title, quiet=quiet)]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def bar(items: Iterable[Item], *, title: str, total: int | None = None, quiet: bool = False) -> Iterable[Item]:
    """Wrap an iterable in a progress bar that shows only on a terminal."""
    return tqdm(items, desc=title, total=total, disable=True if quiet else None, file=sys.stderr, dynamic_ncols=True)
