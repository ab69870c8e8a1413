"""What every command shares: how it ends, and options that several commands have."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samunet import __version__
from samunet.errors import SamunetError

if TYPE_CHECKING:
    from samunet.core.workspace import Workspace

DEFAULT_THREADS = min(8, os.cpu_count() or 1)  # nnU-Net's default is 8 processes
DEFAULT_FOLDS = ["0", "1", "2", "3", "4"]
DEFAULT_TOLERANCE_MM = 2.0  # of the normalized surface Dice
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
    from samunet.core.plan import DEFAULT_PLANS_NAME
    from samunet.core.results import DEFAULT_TRAINER

    parser.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name")
    parser.add_argument("-p", default=DEFAULT_PLANS_NAME, metavar="NAME", help="plan of the model (default: %(default)s)")
    parser.add_argument("-tr", default=DEFAULT_TRAINER, metavar="NAME", help="trainer of the model (default: %(default)s)")


def model_meant(arguments: argparse.Namespace, configuration: str) -> tuple[Workspace, str, Path]:
    """Return the workspace, the dataset's name and the model's folder that `add_model_options` tells."""
    from samunet.core.results import model_folder
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    dataset = workspace.dataset_name(arguments.d)
    return workspace, dataset, model_folder(workspace, dataset, arguments.p, configuration, arguments.tr)


def run(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None) -> int:
    """Parse, run the command and return the exit code; deliberate errors become one line on stderr."""
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("samunet").setLevel(logging.INFO)
    try:
        return command(arguments) or 0
    except SamunetError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"{parser.prog}: {where}{error.strerror}; make space, or correct the permissions, and run the command again.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; what is finished is kept, unfinished files were removed.", file=sys.stderr)
        return 130


def parse_bytes(text: str) -> int:
    """Read an amount of memory: a number with K, M, G or T for powers of 1024, or of bytes; raises argparse's error otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected an amount such as 2G or 500M; got {text!r}")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))
