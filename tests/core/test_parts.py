"""Parts of killed processes go, those of running ones and of other machines stay."""

import errno
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from samunet.core import parts
from samunet.core.codec import atomic_path, write_text

WRITE = """
import sys, time
from pathlib import Path
from samunet.core.codec import atomic_path
with atomic_path(Path(sys.argv[1])) as part:
    part.write_text("half")
    print(part.name, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that is in the middle of writing tmp_path/case.nii.gz, and the name of its part."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, tmp_path / "case.nii.gz"], stdout=subprocess.PIPE, text=True
    )
    yield process, process.stdout.readline().strip()
    process.kill()
    process.communicate()


def test_what_a_killed_process_was_writing_goes_with_the_next_write_and_what_a_running_one_writes_stays(
    writer, tmp_path
):
    process, name = writer
    elsewhere = tmp_path / re.sub(r"\.part-.*?-(\d+-\d+)", r".part-other-host.x-\1", name)
    elsewhere.write_text("of another machine")
    folder = tmp_path / name.replace(".nii.gz", "_folder")
    folder.mkdir()
    (folder / "file").touch()
    parts.remove_dead_parts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name, elsewhere.name, folder.name}
    process.kill()
    process.wait()
    write_text(tmp_path / "other.txt", "x")
    assert {path.name for path in tmp_path.iterdir()} == {elsewhere.name, "other.txt"}
    assert parts.is_part(elsewhere) and not parts.is_part(tmp_path / "other.txt")


def test_what_may_not_be_removed_stops_nobody(writer, tmp_path, monkeypatch):
    process, name = writer
    process.kill()
    process.wait()

    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(parts, "remove_part", refused)
    parts.remove_dead_parts(tmp_path)
    assert (tmp_path / name).exists()


def test_a_process_removes_all_that_its_threads_are_writing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'.*whole\.txt'"), atomic_path(tmp_path / "whole.txt") as part:
        part.write_text("half")
        parts.remove_open_parts()
        assert not list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_by_the_file_and_leaves_nothing(tmp_path, number):
    with pytest.raises(OSError) as raised, atomic_path(tmp_path / "case.json"):
        raise OSError(number, "of a write, which knows no name")
    assert (raised.value.errno, raised.value.filename) == (number, str(tmp_path / "case.json")) and parts.is_full(
        raised.value
    )
    assert not list(tmp_path.iterdir())


def test_a_library_that_gives_no_number_fails_for_the_full_disk_that_it_wrote_to(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(OSError) as raised, atomic_path(tmp_path / "case.mha"):
        raise RuntimeError("file stream is fail after write")
    assert raised.value.errno == errno.ENOSPC and raised.value.filename.endswith("case.mha")
    assert str(raised.value.__cause__) == "file stream is fail after write"


def test_other_errors_are_left_as_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="^no disk$"), atomic_path(tmp_path / "a"):
        raise RuntimeError("no disk")
    with pytest.raises(OSError, match="other") as raised, atomic_path(tmp_path / "a"):
        raise OSError(errno.EIO, "bad sector", "other")
    assert raised.value.filename == "other" and not parts.is_full(raised.value)


def test_space_is_spoken_of_only_where_there_is_none():
    full, absent = (
        OSError(28, "No space left on device", "a.nii"),
        FileNotFoundError(2, "No such file or directory", "b"),
    )
    assert parts.with_way_out(full) == (
        "a.nii: No space left on device. Nothing was changed; make space and try again."
    )
    assert parts.with_way_out(absent) == (
        "b: No such file or directory. Nothing was changed; see that the file is there and that you may read and write "
        "it, and try again."
    )
    assert parts.with_way_out(OSError("cannot be read")).startswith("OSError: cannot be read. Nothing was changed; see")
