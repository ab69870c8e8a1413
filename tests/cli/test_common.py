"""How every command ends when it is asked to, or when the disk is full."""

from __future__ import annotations

import errno
import logging
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

from samunet.cli.common import command


@dataclass(frozen=True)
class Options:
    """No options."""


LISTENING = """
import signal  # tests may have been started in the background, where both are ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
COMMAND = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
from samunet.cli.common import command
from samunet.core.codec import atomic_path, write_text
from samunet.machine.progress import each

folder = Path(sys.argv[1])

def case(number):  # the first is written, the second takes long, as a step in C does that no signal ends
    if number == 0:
        return write_text(folder / "case0", "whole")
    with atomic_path(folder / f"case{number}") as part:
        part.write_text("half")
        print("writing", flush=True)
        time.sleep(600)

@dataclass
class Options:
    "No options."

@command("samunet_some", None, Options)
def main(_):
    each(case, range(20), threads=2, title="Cases")

sys.exit(main([]))
"""


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGHUP, 129, "ended by SIGHUP"),
    ],
)
def test_a_signal_ends_a_command_at_once_with_a_sentence_and_without_parts(tmp_path, number, code, words):
    words_of_command = [sys.executable, "-c", LISTENING + COMMAND, tmp_path]
    process = subprocess.Popen(words_of_command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() and process.stdout.readline()  # both threads are in the middle of a file
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors == f"samunet_some: {words}; what is finished is kept, unfinished files were removed.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["case0"]


def test_a_command_that_nohup_started_outlives_its_terminal(tmp_path):
    process = subprocess.Popen(
        ["nohup", sys.executable, "-c", COMMAND, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_a_full_disk_is_one_sentence_with_the_file_and_the_way_out(tmp_path, capsys):
    from samunet.core.codec import atomic_path

    @command("samunet_some", None, Options)
    def main(_):
        with atomic_path(tmp_path / "case.json"):
            raise OSError(errno.ENOSPC, "No space left on device")

    assert main([]) == 2
    assert (
        capsys.readouterr().err
        == f"samunet_some: {tmp_path}/case.json: No space left on device; make space and run the command again.\n"
    )


def test_a_command_says_what_is_logged_and_leaves_its_callers_handlers_alone(capsys, caplog):
    before = list(logging.getLogger().handlers)

    def speak(_: Options) -> None:
        logging.getLogger("samunet.anything").info("The case is read.")

    assert command("samunet_speak", "Speak.", Options)(speak)([]) == 0
    assert capsys.readouterr().out == "The case is read.\n"
    assert logging.getLogger().handlers == before and not caplog.records
