import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from samunet.core import process
from samunet.core.process import is_dead, this_process

TELL = (
    "from samunet.core.process import this_process as t; p = t(); print(p.host, p.number, p.began, flush=True); input()"
)


def test_a_process_is_alive_until_it_is_killed_and_a_zombie_is_dead():
    child = subprocess.Popen([sys.executable, "-c", TELL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    host, number, began = child.stdout.readline().split()
    told = replace(this_process(), number=int(number), began=int(began))
    assert host == told.host and int(number) == child.pid and not is_dead(told)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent has not asked yet
    assert is_dead(told)
    child.communicate()
    assert is_dead(told)


def test_a_number_that_another_process_got_since_is_a_dead_process():
    mine = this_process()
    assert not is_dead(mine)
    assert is_dead(replace(mine, began=mine.began - 1))


def test_a_process_that_the_system_hides_is_not_dead(monkeypatch):
    hidden = replace(this_process(), number=os.getppid(), began=1)
    monkeypatch.setattr(process.Path, "exists", lambda self: False)  # of another user, as /proc may be mounted
    monkeypatch.setattr(process.os, "kill", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert not is_dead(hidden)
    monkeypatch.setattr(process.os, "kill", lambda *_: (_ for _ in ()).throw(ProcessLookupError()))
    assert is_dead(hidden)


def test_nothing_is_known_of_another_machine():
    assert not is_dead(replace(this_process(), host="elsewhere", number=2**22 + 1))


SPAWN = """
import multiprocessing, sys, time
from samunet.core.process import end_with_parent

def work(queue):
    end_with_parent()
    queue.put(multiprocessing.current_process().pid)
    queue.put(b"x" * 2**22)  # more than a pipe holds: the worker's own end would wait for a reader
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    for _ in range(2):
        context.Process(target=work, args=(queue,)).start()
    print(*[child.pid for child in multiprocessing.active_children() if queue.get()], flush=True)
    time.sleep(600)
"""
GUARD = """
import subprocess, sys, time
from samunet.core.guard import guarded
process = subprocess.Popen(guarded([sys.executable, "-c", sys.argv[1]]))
print(process.pid, flush=True)
process.wait()
"""
CHILD_AND_GRANDCHILD = """
import os, subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", deaf])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def runs(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(numbers) -> None:
    until = time.monotonic() + 60
    while left := [number for number in numbers if runs(number)]:
        assert time.monotonic() < until, left
        time.sleep(0.05)


def test_workers_end_with_a_parent_that_is_killed_though_they_wait_for_room_in_a_pipe(tmp_path):
    (tmp_path / "parent.py").write_text(SPAWN)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert workers and all(map(runs, workers))
    parent.kill()
    parent.communicate()
    wait_until_gone(workers)


@pytest.mark.parametrize("victim", ["parent", "guard"])
def test_a_guarded_program_and_what_it_began_end_with_whoever_began_it(victim):
    parent = subprocess.Popen([sys.executable, "-c", GUARD, CHILD_AND_GRANDCHILD], stdout=subprocess.PIPE, text=True)
    guard = int(parent.stdout.readline())
    numbers = [int(word) for word in parent.stdout.readline().split()]
    if victim == "parent":
        parent.kill()
    else:
        os.kill(guard, signal.SIGTERM)
    wait_until_gone([guard, *numbers])
    parent.communicate()


def test_a_guard_ends_as_its_program_does():
    for code, expected in (("import sys; sys.exit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)):
        assert (
            subprocess.run(
                [sys.executable, "-m", "samunet.core.guard", sys.executable, "-c", code], check=False
            ).returncode
            == expected
        )
