"""What every command shares: how it ends, and options that several commands have."""

from __future__ import annotations

import argparse
import inspect
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

from samunet import __version__
from samunet.cli.fields import Options, add_options, options_from
from samunet.core.names import DEFAULT_PLANS_NAME, DEFAULT_TRAINER
from samunet.errors import SamunetError

if TYPE_CHECKING:
    from samunet.core.workspace import Workspace

DEFAULT_THREADS = min(8, os.cpu_count() or 1)  # nnU-Net's default is 8 processes
DEFAULT_FOLDS = ("0", "1", "2", "3", "4")
INTERRUPTED = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}
if hasattr(signal, "SIGHUP"):
    INTERRUPTED[signal.SIGHUP] = "ended by SIGHUP"
# Options that several commands have.
Dataset = Annotated[str, "-d DATASET", "Dataset id or name."]
Datasets = Annotated[tuple[str, ...], "-d DATASET", "Dataset ids or names, e.g. 4 or Dataset004_Hippocampus."]
Device = Annotated[str | None, "-device NAME", "cuda, cuda:1, mps or cpu (default: the best one present)."]
Folds = Annotated[tuple[str, ...], "-f FOLD", "Folds."]
Quiet = Annotated[bool, "--no_pbar", "No progress bars."]
Threads = Annotated[int, "-np N", "Cases at a time."]
Tolerance = Annotated[
    float,
    "--nsd_tolerance MM",
    "Of the normalized surface Dice, in mm, or in pixels where reference files tell no size of them.",
]
Main = Callable[..., int]
Actions = Mapping[str, tuple[type[Any], Callable[[Any], int | None]]]
"""Their options, and what they do, by name."""
_parses: ContextVar[bool] = ContextVar("parses", default=True)  # not where only a parser is asked for
EXIT_CODES = "Exit codes: 0 done, 2 refused input, 3 some cases failed, 4 weights absent."


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model of a dataset and configuration is meant."""

    plans: Annotated[str, "-p NAME"] = DEFAULT_PLANS_NAME
    """Plan of the model."""
    trainer: Annotated[str, "-tr NAME"] = DEFAULT_TRAINER
    """Trainer of the model."""

    def find(self, wanted: str, configuration: str) -> tuple[Workspace, str, Path]:
        """Return the workspace, the name of the dataset that an id or name means, and the model's folder."""
        from samunet.core.results import model_folder
        from samunet.core.workspace import workspace_from_environment

        workspace = workspace_from_environment()
        dataset = workspace.dataset_name(wanted)
        return workspace, dataset, model_folder(workspace, dataset, self.plans, configuration, self.trainer)


def command(
    name: str, text: str | None, kind: type[Options], *, piped: bool = False
) -> Callable[[Callable[[Options], int | None]], Main]:
    """Make a function of options the command of that name: one that parses words and returns the exit code.

    The help begins with the first paragraph of the text, and ends with the others. Messages of one whose standard
    output other programs read go to the error output.
    """

    def decorate(function: Callable[[Options], int | None]) -> Main:
        def main(argv: Sequence[str] | None = None) -> int:
            parser = _parser(name, text)
            _add_command(parser, kind, function)
            return _run(parser, argv, piped)

        return main

    return decorate


def run_action(
    name: str, text: str | None, actions: Actions, argv: Sequence[str] | None = None, *, metavar: str = "ACTION"
) -> int:
    """Run that one of several actions that the first word names; the text of its options is its help."""
    parser = _parser(name, text)
    choices = parser.add_subparsers(dest="action", required=True, metavar=metavar)
    for word, (kind, function) in actions.items():
        _add_command(choices.add_parser(word, help=" ".join((kind.__doc__ or "").split())), kind, function)
    return _run(parser, argv)


class _OnlyParser(Exception):
    """Carries a command's parser from where it would begin to parse."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parser_of(main: Main) -> argparse.ArgumentParser:
    """Return the parser that a command's main makes; nothing is parsed, and nothing run."""
    token = _parses.set(False)
    try:
        main([])
    except _OnlyParser as asked:
        return asked.parser
    finally:
        _parses.reset(token)
    raise AssertionError("This main is no command's.")


def _parser(name: str, text: str | None) -> argparse.ArgumentParser:
    summary, _, more = inspect.cleandoc(text or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=name,
        description=summary,
        epilog=f"{more}\n{EXIT_CODES}".strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"samunet {__version__}")
    return parser


def _add_command(
    parser: argparse.ArgumentParser, kind: type[Options], function: Callable[[Options], int | None]
) -> None:
    add_options(parser, kind)
    parser.set_defaults(_call=lambda arguments: function(options_from(arguments, kind)))


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None, piped: bool = False) -> int:
    """Parse, run and return the exit code; deliberate errors become one line on stderr."""
    if not _parses.get():
        raise _OnlyParser(parser)
    arguments = parser.parse_args(argv)
    try:
        with _logs_on(sys.stderr if piped else sys.stdout), interruptions_raised():
            return arguments._call(arguments) or 0
    except SamunetError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        from samunet.core.parts import is_full

        if error.filename is None and error.errno is None:
            raise
        name = error.filename2 or error.filename  # what is copied comes first
        where = f"{name}: " if name is not None else ""
        way_out = "make space" if is_full(error) else "make space, or correct the permissions,"
        print(f"{parser.prog}: {where}{error.strerror}; {way_out} and run the command again.", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        from samunet.core.parts import remove_open_parts

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
def _logs_on(stream: TextIO) -> Iterator[None]:
    """Within this context messages go to a stream alone; who calls a command gets their own handlers back."""
    import logging  # here, and other modules where they are needed, as --help is to be instant

    root = logging.getLogger()
    before, root.handlers = root.handlers, [logging.StreamHandler(stream)]
    logging.getLogger("samunet").setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers = before


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
    from samunet.core.parts import remove_open_parts

    remove_open_parts()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # a pipe that nobody reads, or a signal in the middle of a line
            stream.flush()
    os._exit(128 + number)


def print_next(*words: str | Path, file: TextIO | None = None) -> None:
    """Say which command comes next, with the user's own ids and folders; capital words are for the user to fill in.

    Args:
        file: None for the standard output.
    """
    print(f"Next: {command_line([str(word) for word in words])}", file=file)


def command_line(words: Sequence[str]) -> str:
    """Return a command as a line for a shell."""
    return shlex.join(words)


def images_to_predict(workspace: Workspace, dataset: str) -> Path | str:
    """Return the folder of a dataset's test images, where it has some, or a word for the user to fill in."""
    folder = None if workspace.raw_folder is None else workspace.raw_folder / dataset / "imagesTs"
    return folder if folder is not None and folder.is_dir() else "IMAGES"


def agrees(yes: bool, question: str) -> bool:
    """Tell whether the user agrees: by --yes, or by an answer on a terminal; without either not."""
    if yes or not sys.stdin.isatty():
        return yes
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def pairs(flag: str, texts: Sequence[str], pattern: str, example: str) -> list[tuple[str, int]]:
    """Split NAME=NUMBER texts that fit a pattern; raises ConfigError for others."""
    from samunet.errors import ConfigError

    matches = [re.fullmatch(pattern, text) for text in texts]
    if None in matches:
        raise ConfigError(f"{flag}, e.g. {example}; got '{texts[matches.index(None)]}'.")
    return [(match[1], int(match[2])) for match in matches if match]


def parse_bytes(text: str) -> int:
    """Read an amount of memory: a number with K, M, G or T for powers of 1024, or of bytes; raises argparse's error
    otherwise.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected an amount such as 2G or 500M; got {text!r}")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))
