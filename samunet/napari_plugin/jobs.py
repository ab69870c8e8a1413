"""What takes long, one after the other in a thread beside the window, and errors as notifications."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from napari.qt.threading import create_worker
from napari.utils.notifications import notification_manager, show_error

from samunet.core.parts import with_way_out
from samunet.errors import SamunetError


class Run(Protocol):
    """Does a job, and hands on what it gives."""

    def __call__(
        self, what: str, work: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[], None]
    ) -> None:
        """Do `work`, then `done` with its result, or where it fails say why and do `failed`."""


def tell(error: BaseException) -> None:
    """Show an error in the window: one that was foreseen as its sentence, others with where they arose."""
    if isinstance(error, SamunetError):
        show_error(str(error))
    elif isinstance(error, OSError):
        show_error(with_way_out(error))
    else:
        notification_manager.receive_error(type(error), error, error.__traceback__)


class Jobs:
    """Does jobs in the order in which they come, each in a thread; what follows is done in the window's.

    Args:
        changed: told what is done now; an empty string for nothing.
    """

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._waiting: deque[tuple[str, Callable[[], Any], Callable[[Any], None], Callable[[], None]]] = deque()
        self._at_work = self._over = False

    def __call__(
        self, what: str, work: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[], None]
    ) -> None:
        self._waiting.append((what, work, done, failed))
        self._next()

    def end(self) -> list[Callable[[], Any]]:
        """Tell nothing more, for there is no window any longer; returns what is still to be done, in order."""
        self._over = True
        return [work for _, work, _, _ in self._waiting]

    @property
    def busy(self) -> bool:
        return not self._over and (self._at_work or bool(self._waiting))

    def _next(self) -> None:
        if self._over or self._at_work or not self._waiting:
            return
        self._at_work = True
        what, work, done, failed = self._waiting.popleft()
        self._changed(what)
        worker = create_worker(_caught, work, _progress={"desc": what})
        worker.returned.connect(partial(self._ended, done, failed))
        worker.start()

    def _ended(
        self, done: Callable[[Any], None], failed: Callable[[], None], ended: tuple[Any, Exception | None]
    ) -> None:
        self._at_work = False
        if self._over:
            return
        self._changed("")
        try:
            if (error := ended[1]) is not None:
                tell(error)
                failed()
            else:
                done(ended[0])
        finally:
            self._next()


def _caught(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Return what work gives, and its error: a worker of napari's ends without a word where that is a RuntimeError."""
    try:
        return work(), None
    except Exception as error:
        return None, error
