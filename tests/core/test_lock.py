"""Locks between processes: real ones, that run, end, or are killed."""

import errno
import os
import re
import subprocess
import sys

import pytest

from samunet.core import lock
from samunet.core.lock import held
from samunet.errors import InUseError

HOLD = """
import sys
from pathlib import Path
from samunet.core.lock import held
with held(Path(sys.argv[1]), share=sys.argv[2] or None):
    print("here", flush=True)
    input()
"""


@pytest.fixture
def holder(tmp_path):
    """Start processes that hold tmp_path/out until they are told to go; their share comes first."""
    started = []

    def start(share=""):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path / "out", share],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process if process.stdout.readline() == "here\n" else process.communicate()[1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_command_is_told_who_is_there_and_gets_in_when_it_ends(holder, tmp_path):
    first = holder()
    with pytest.raises(InUseError) as refused, held(tmp_path / "out", wait=0.1):
        pass
    assert refused.value.exit_code == 2
    pattern = (
        r".*/out is in use by '-c .*/out ' \(process (\d+) on \S+, since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d.*\)\. Wait "
        r"until it ends, or end it, .*"
    )
    assert int(re.fullmatch(pattern, str(refused.value))[1]) == first.pid
    first.communicate("go\n")
    assert not (tmp_path / "out").exists()  # nothing was put there
    with held(tmp_path / "out"):
        pass


def test_the_lock_of_a_killed_process_is_taken_over_and_nothing_of_it_stays(holder, tmp_path):
    for share in ("", "part 1 of 2"):
        first = holder(share)
        first.kill()
        first.wait()
        assert list((tmp_path / "out").iterdir())
        with held(tmp_path / "out"):
            (tmp_path / "out" / "result").touch()
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["result"]


def test_one_that_shares_removes_what_killed_ones_left_and_nothing_of_those_that_are_there(holder, tmp_path):
    first, _ = holder("part 1 of 3"), holder("part 2 of 3")
    first.kill()
    first.wait()
    with held(tmp_path / "out", share="part 3 of 3"):
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            f".lock@part_{i}_of_3{ending}" for i in (2, 3) for ending in ("", ".json")
        ]
    with pytest.raises(InUseError), held(tmp_path / "out", wait=0.1):
        pass


def test_shares_are_there_together_but_not_twice_and_nobody_is_alone_beside_them(holder, tmp_path):
    holder("part 1 of 2")
    with held(tmp_path / "out", share="part 2 of 2"):
        pass
    with pytest.raises(InUseError), held(tmp_path / "out", share="part 1 of 2", wait=0.1):
        pass
    with pytest.raises(InUseError, match="in use by '-c"), held(tmp_path / "out", wait=0.1):
        pass


def test_nobody_shares_what_another_has_alone(holder, tmp_path):
    holder()
    with pytest.raises(InUseError, match="in use by '-c"), held(tmp_path / "out", share="part 1 of 2", wait=0.1):
        pass
    with held(tmp_path / "out", name="something else"):
        pass


def test_many_that_come_at_once_share(tmp_path):
    words = [sys.executable, "-c", HOLD, tmp_path / "out"]
    several = [
        subprocess.Popen([*words, str(i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for i in range(5)
    ]
    assert [process.stdout.readline() for process in several] == ["here\n"] * 5
    for process in several:
        process.communicate("go\n")
    assert [process.returncode for process in several] == [0] * 5
    assert not list(tmp_path.glob("out/*"))


def test_a_folder_that_cannot_be_written_can_be_shared_but_not_had_alone(tmp_path, monkeypatch):
    def read_only(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(lock, "_lock", read_only)
    with held(tmp_path, share="a reader"):
        pass
    with pytest.raises(PermissionError), held(tmp_path):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no file that is open")
def test_the_lock_of_a_file_that_its_holder_removed_meanwhile_is_none(tmp_path, monkeypatch):
    file, flock, others = tmp_path / ".lock", lock.fcntl.flock, []

    def after_others(descriptor, operation):
        """Between opening the file and locking it, its holder removes it, and a third makes and locks it anew."""
        if not others:
            file.unlink()
            others.append(os.open(file, os.O_RDWR | os.O_CREAT))
            flock(others[0], lock.fcntl.LOCK_EX)
        flock(descriptor, operation)

    monkeypatch.setattr(lock.fcntl, "flock", after_others)
    with pytest.raises(InUseError), held(tmp_path, wait=0.1):
        pass
    flock(others[0], lock.fcntl.LOCK_UN)
    with held(tmp_path):
        assert file.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="its locks are not flock's")
def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with held(tmp_path):
        assert f"The file system of {tmp_path} has no locks" in caplog.text
    assert not list(tmp_path.iterdir())
