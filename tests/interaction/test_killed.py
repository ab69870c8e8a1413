"""Whatever moment a process is killed at, what it had answered is there when it is started again."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import numpy as np
import pytest
from annotating import SHAPE, Discs, volume

from samunet.errors import ConfigError
from samunet.interaction.session import Session

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
MOMENTS = (
    "before",
    "half a line",
    "all but its end",
    "unsynced",
    "synced",
    "at a rename",
    "at the lock's end",
    "never",
)
ONE_JOURNAL = 40  # operations


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Dying:
    """A journal's file whose writer is killed at a moment of a write."""

    def __init__(self, file, moment):
        self.file, self.moment = file, moment

    def write(self, line):
        if self.moment == "before":
            die()
        if self.moment in ("half a line", "all but its end"):
            self.file.write(line[: len(line) // 2 if self.moment == "half a line" else -1])
            die()
        written = self.file.write(line)
        if self.moment == "unsynced":
            die()
        return written

    def __getattr__(self, name):
        return getattr(self.file, name)


def operate(session, random):
    """Do one random operation."""
    voxel = tuple(int(random.integers(size)) for size in SHAPE)
    axis, value = int(random.integers(3)), int(random.integers(1, 3))
    box = [voxel, tuple(place if side == axis else 3 for side, place in enumerate(voxel))]
    operations = (
        lambda: session.add_prompt("point", [voxel], value=value, axis=axis, include=bool(random.integers(2))),
        lambda: session.add_prompt("box", box, value=value, axis=axis),
        lambda: session.paint([voxel], value=value, radius=2.0, axis=axis, erase=bool(random.integers(2))),
        lambda: session.set_object(random.random(SHAPE) < 0.2, value=value, over=True),
        lambda: session.propagate(voxel[axis], value=value, axis=axis),
        lambda: session.interpolate(value=value, axis=axis),
        session.accept,
        session.discard,
        session.undo,
        session.undo,
        session.redo,
        session.save,
    )
    with contextlib.suppress(ConfigError):
        operations[int(random.integers(len(operations)))]()


def child(image, output, seed, moment, pipe):
    """Open, do one operation that is cut off at a moment, and tell what the volume is then."""
    session = Session(image, Discs(), output)
    session._journal._file = Dying(session._journal._file, moment)
    synced, renamed = os.fsync, os.replace

    def sync(descriptor):
        synced(descriptor)
        if moment == "synced":
            die()

    def rename(*paths):
        if moment == "at a rename":
            die()
        renamed(*paths)

    os.fsync, os.replace = sync, rename
    operate(session, np.random.default_rng(seed))
    os.write(pipe, session.labels().tobytes())
    if moment == "at the lock's end":
        die()
    session.close()


def killed(image, output, seed, moment) -> bytes:
    """Run a child that may be killed; returns the volume that it answered with, or nothing."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            child(image, output, seed, moment, writing)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    status = os.waitpid(process, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return answer


def lose_nothing(folder, operations):
    image, dead = volume(), 0
    for number in range(operations):
        output = folder / str(number // ONE_JOURNAL) / "case.nii.gz"
        if number % ONE_JOURNAL == 0:
            with Session(image, Discs(), output) as session:
                session.name_object("one")
                session.name_object("two")
                now, begin = session.labels().tobytes(), session.start.tobytes()
        # What the same operation does to a copy of it that nobody kills.
        (folder / "copy").mkdir(exist_ok=True)
        twin = folder / "copy" / output.name
        journal = output.parent / ".annotating" / f"{output.name}.journal"
        (twin.parent / ".annotating").mkdir(exist_ok=True)
        (twin.parent / ".annotating" / journal.name).write_bytes(journal.read_bytes())
        twin.unlink(missing_ok=True)
        looks = [now]
        with Session(image, Discs(), twin) as session:
            count = len(session.steps)
            operate(session, np.random.default_rng(number))
            # an operation may be two steps, of which the first accepts the draft and looks like nothing
            assert len(session.steps) - count <= 2
            looks.append(session.labels().tobytes())
        answer = killed(image, output, number, MOMENTS[number % len(MOMENTS)])
        with Session(image, Discs(), output) as session:
            now = session.labels().tobytes()
            if answer:
                assert now == answer == looks[-1]
            else:
                dead += 1
                assert now in looks
            if number % ONE_JOURNAL == ONE_JOURNAL - 1:
                while session.state.can_undo:
                    session.undo()
                assert session.labels().tobytes() == begin
    assert dead > operations / 5


def test_a_killed_process_loses_nothing_that_it_answered(tmp_path):
    lose_nothing(tmp_path, 2 * len(MOMENTS))


@pytest.mark.slow
def test_10_000_operations_and_a_kill_at_each_write_lose_nothing(tmp_path):
    lose_nothing(tmp_path, 10_000)
