import os
import subprocess
import sys
from dataclasses import replace

from samunet.core.process import is_dead, this_process

TELL = "from samunet.core.process import this_process as t; p = t(); print(p.host, p.number, p.began, flush=True); input()"


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


def test_nothing_is_known_of_another_machine():
    assert not is_dead(replace(this_process(), host="elsewhere", number=2**22 + 1))
