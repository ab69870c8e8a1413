"""What every command shares: how it ends, and options that several commands have."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from samunet import __version__
from samunet.core.parts import is_full, remove_open_parts
from samunet.errors import SamunetError

if TYPE_CHECKING:
    from samunet.core.workspace import Workspace

DEFAULT_THREADS = min(8, os.cpu_count() or 1)  # nnU-Net's default is 8 processes
DEFAULT_FOLDS = ["0", "1", "2", "3", "4"]
DEFAULT_TOLERANCE_MM = 2.0  # of the normalized surface Dice
TOLERANCE_HELP = (
    "of the normalized surface Dice, in mm, or in pixels where reference files tell no size of them (default: "
    "%(default)s)"
)
INTERRUPTED = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}
if hasattr(signal, "SIGHUP"):
    INTERRUPTED[signal.SIGHUP] = "ended by SIGHUP"
EXIT_CODES = "Exit codes: 0 done, 2 refused input, 3 some cases failed, 4 weights absent."


def make_parser(name: str, summary: str, next_step: str = "") -> argparse.ArgumentParser:
    """Return a parser whose help ends with what to do next and the exit codes."""
    parser = argparse.ArgumentParser(
        prog=name,
        description=summary,
        epilog=f"{next_step}\n{EXIT_CODES}".strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"samunet {__version__}")
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say, with a configuration, which model is meant."""
    from samunet.core.names import DEFAULT_PLANS_NAME, DEFAULT_TRAINER

    parser.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name")
    parser.add_argument(
        "-p", default=DEFAULT_PLANS_NAME, metavar="NAME", help="plan of the model (default: %(default)s)"
    )
    parser.add_argument(
        "-tr", default=DEFAULT_TRAINER, metavar="NAME", help="trainer of the model (default: %(default)s)"
    )


def model_meant(arguments: argparse.Namespace, configuration: str) -> tuple[Workspace, str, Path]:
    """Return the workspace, the dataset's name and the model's folder that `add_model_options` tells."""
    from samunet.core.results import model_folder
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    dataset = workspace.dataset_name(arguments.d)
    return workspace, dataset, model_folder(workspace, dataset, arguments.p, configuration, arguments.tr)


def run(
    parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None
) -> int:
    """Parse, run the command and return the exit code; deliberate errors become one line on stderr."""
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("samunet").setLevel(logging.INFO)
    try:
        with interruptions_raised():
            return command(arguments) or 0
    except SamunetError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        name = error.filename2 or error.filename  # what is copied comes first
        where = f"{name}: " if name is not None else ""
        way_out = "make space" if is_full(error) else "make space, or correct the permissions,"
        print(f"{parser.prog}: {where}{error.strerror}; {way_out} and run the command again.", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        by = next((number for number in error.args if number in INTERRUPTED), signal.SIGINT)
        remove_open_parts()
        print(
            f"{parser.prog}: {INTERRUPTED[by]}; what is finished is kept, unfinished files were removed.",
            file=sys.stderr,
        )
        if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
            _end(by)  # Python would wait for a case that a thread still works on, and write it
        return 128 + by


@contextmanager
def interruptions_raised() -> Iterator[None]:
    """Within this context SIGTERM and SIGHUP raise KeyboardInterrupt(signal) as Ctrl-C does, once; the next one ends
    the process.
    """
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    heard = []

    def hear(number: int, _: FrameType | None) -> None:
        heard.append(number)
        if len(heard) > 1:
            _end(number)
        raise KeyboardInterrupt(signal.Signals(number))

    before = {number: signal.getsignal(number) for number in INTERRUPTED}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # as nohup wants it
                signal.signal(number, hear)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int) -> NoReturn:
    """End the process at once, but leave nothing unfinished."""
    remove_open_parts()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # a pipe that nobody reads, or a signal in the middle of a line
            stream.flush()
    os._exit(128 + number)


def parse_bytes(text: str) -> int:
    """Read an amount of memory: a number with K, M, G or T for powers of 1024, or of bytes; raises argparse's error
    otherwise.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected an amount such as 2G or 500M; got {text!r}")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))
