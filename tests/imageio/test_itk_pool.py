"""What ITK does to itself with one file is that file's fault: the others are read on, and no process stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import itk_faults
import numpy as np
import pytest
import SimpleITK as sitk
from hostile import HOSTILE, SHAPE, values, write_sound
from tiny import write_tiny_dataset

from samunet.checking.run import check_dataset
from samunet.errors import ImageFileError
from samunet.imageio import itk, itk_pool, reader_for

READER = reader_for(".mha")
pytestmark = pytest.mark.skipif(not itk_pool.SEPARATE, reason="the platform has no processes for this")


@pytest.fixture
def pool(monkeypatch):
    """A pool of its own, whose processes have faults by the names of files."""
    made = itk_pool._Pool()
    monkeypatch.setattr(itk_pool, "_POOL", made)
    monkeypatch.setattr(itk_pool, "START", itk_faults.START)
    yield made
    made.end()


def gone(process: int) -> bool:
    """Tell whether a process has ended; one that nobody has waited for counts as such."""
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rsplit(")")[1].split()[0] == "Z"
    except OSError:
        return True


def test_a_fault_is_named_and_the_next_file_is_read(tmp_path, pool, monkeypatch):
    monkeypatch.setattr(itk_pool, "BASE_SECONDS", 2.0)
    faults = {
        "crash": r"the process that read it crashed \(SIGSEGV\)",
        "hang": "reading it took more than 2 seconds",
        "greedy": "it takes more memory than its header promises",
        "exit": r"the process that read it crashed \(exit code 3\)",
    }
    for name, reason in faults.items():
        with pytest.raises(ImageFileError, match=f"{name}.mha cannot be read: {reason}; export it again"):
            READER.read_image([write_sound(tmp_path / f"{name}.mha")])
        monkeypatch.setattr(itk_pool, "BASE_SECONDS", 60.0)
        np.testing.assert_array_equal(READER.read_image([write_sound(tmp_path / "sound.mha")]).array[0], values())
        monkeypatch.setattr(itk_pool, "BASE_SECONDS", 2.0)


def test_one_process_reads_all_files_of_a_thread_and_a_dead_one_is_replaced(tmp_path, pool):
    path = write_sound(tmp_path / "case.nrrd")
    for _ in range(3):
        READER.read_image([path])
    (worker,) = pool.idle
    os.kill(worker.process.pid, signal.SIGKILL)
    while not gone(worker.process.pid):
        time.sleep(0.01)
    READER.read_image([path])
    assert len(pool.idle) == 1 and pool.idle[0] is not worker


def test_threads_read_at_the_same_time_each_from_its_own_process(tmp_path, pool):
    paths = []
    for index in range(12):
        paths.append(tmp_path / f"case{index}.mha")
        sitk.WriteImage(sitk.GetImageFromArray(values() + np.int16(index)), str(paths[-1]))
    with ThreadPoolExecutor(3) as threads:
        for index, volume in enumerate(threads.map(lambda path: READER.read_image([path]), paths)):
            np.testing.assert_array_equal(volume.array[0], values() + index)
    assert 1 <= len(pool.workers) == len(pool.idle) <= 3


def test_voxels_may_be_changed_and_outlive_the_process(tmp_path, pool):
    array, _ = READER.load(write_sound(tmp_path / "case.mha"))
    pool.end()
    array += 1
    np.testing.assert_array_equal(array[0], values() + 1)


def test_names_are_kept_whatever_their_letters_and_the_folder_one_is_in(tmp_path, pool, monkeypatch):
    path = write_sound(tmp_path / "case.mha").rename(tmp_path / "größe 1.mha")
    READER.read_image([path])
    monkeypatch.chdir(tmp_path)
    assert READER.load(Path(path.name))[0].shape == (1, *SHAPE)


def test_a_check_names_the_case_that_crashes_and_goes_on(tmp_path, pool):
    folder = write_tiny_dataset(tmp_path, file_ending=".mha")
    for kind, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        (folder / kind / f"tiny_001{suffix}.mha").rename(folder / kind / f"crash{suffix}.mha")
    report = check_dataset(folder, threads=2)
    assert {(finding.case, finding.code) for finding in report.findings if finding.severity == "error"} == {
        ("crash", "unreadable")
    }
    assert all("SIGSEGV" in finding.message for finding in report.errors) and report.clean == len(report.cases) - 1


def test_a_script_without_a_main_guard_reads_once_and_leaves_no_process(tmp_path):
    path = write_sound(tmp_path / "case.mha")
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom samunet.imageio import itk_pool, reader_for\nprint('begun')\n"
        f"print(reader_for('.mha').read_image([Path({str(path)!r})]).array.sum(), itk_pool._POOL.idle[0].process.pid)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    begun, read = done.stdout.splitlines()
    assert (begun, read.split()[0], done.stderr) == ("begun", "300.0", "")
    assert gone(int(read.split()[1]))


def test_no_module_beside_the_data_is_imported(tmp_path, pool, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('executed')")
    monkeypatch.chdir(tmp_path)
    READER.read_image([write_sound(tmp_path / "case.mha")])


@pytest.mark.parametrize("name", ["hang", "idle"])
def test_a_process_ends_with_the_one_that_asked_even_when_that_is_killed(tmp_path, name):
    path = write_sound(tmp_path / f"{name}.mha")
    script = (
        "import sys, threading, time; from pathlib import Path; from samunet.imageio import itk_pool, reader_for; "
        "import itk_faults\n"
        "itk_pool.START = itk_faults.START\n"
        f"reader = threading.Thread(target=lambda: reader_for('.mha').load(Path({str(path)!r})), daemon=True); "
        "reader.start()\n"
        "while not itk_pool._POOL.workers: time.sleep(0.01)\n"
        "time.sleep(1); print([worker.process.pid for worker in itk_pool._POOL.workers][0], flush=True); "
        "time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as asking:
        worker = int(asking.stdout.readline())
        assert not gone(worker)
        asking.kill()
    end = time.monotonic() + 30
    while not gone(worker) and time.monotonic() < end:
        time.sleep(0.02)
    assert gone(worker)


def test_a_fork_begins_without_its_parents_processes(tmp_path, pool, monkeypatch):
    READER.read_image([write_sound(tmp_path / "case.mha")])
    (worker,) = pool.workers
    with worker.connection.dup() as kept:
        pool.forget()
        assert not pool.workers and worker.process.returncode == 0
        worker.process.returncode = None
        worker.connection = kept.dup()
        worker.end()


def test_files_on_which_itk_crashes_do_not_end_this_process(tmp_path, pool, monkeypatch):
    for ending, name in ((".nrrd", "300 kinds"), (".mha", "NDims 100")):
        path = write_sound(tmp_path / f"case{ending}")
        path.write_bytes(HOSTILE[ending][name](path.read_bytes()))
        with pytest.raises(ImageFileError, match=f"case{ending} cannot be read"):
            itk_pool.read_file(path, 48)  # without the look at the header that comes before


def test_what_is_logged_there_is_logged_here(tmp_path, pool, monkeypatch, caplog):
    logged = "import sys; sys.path[:] = sys.argv[2:]; from samunet.imageio import dicom, itk_worker\n"
    logged += (
        "import logging\ndicom.series_files = lambda path, *more: logging.getLogger('samunet.x').warning('%s is odd', "
        "path) or ()\n"
    )
    monkeypatch.setattr(itk_pool, "START", logged + "itk_worker.serve(int(sys.argv[1]))")
    assert itk_pool.series_files(tmp_path) == ()
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("samunet.x", f"{tmp_path} is odd")]


def test_where_there_are_no_such_processes_files_are_read_in_this_one(tmp_path, pool, monkeypatch):
    path = write_sound(tmp_path / "case.mha")
    separate, here = READER.load(path), None
    monkeypatch.setattr(itk_pool, "SEPARATE", False)
    monkeypatch.setattr(itk_pool, "_POOL", None)
    here = READER.load(path)
    np.testing.assert_array_equal(here[0], separate[0])
    assert here[1] == separate[1]
    assert itk.reason(RuntimeError("")) == "ITK gives no reason."
