"""Print a script that lets a shell complete samunet's words and options.

bash: source <(samunet completion bash)      zsh: the same with zsh
fish: samunet completion fish > ~/.config/fish/completions/samunet.fish
"""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass
from typing import Annotated, Literal

from samunet.cli.common import command, parser_of
from samunet.cli.words import COMPLETION, MAP, module_of


@dataclass(frozen=True, kw_only=True)
class Options:
    shell: Annotated[Literal["bash", "zsh", "fish"], "SHELL"]
    """bash, zsh or fish."""


@command("samunet completion", __doc__, Options)
def main(options: Options) -> None:
    import shtab

    print(shtab.complete(whole_parser(), shell=options.shell))


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser with every command as a word."""
    parser = argparse.ArgumentParser(prog="samunet")
    choices = parser.add_subparsers()
    for word, text in (*(pair for part in MAP.values() for pair in part.items()), (COMPLETION, "")):
        module = importlib.import_module(f"samunet.cli.{COMPLETION}" if word == COMPLETION else module_of(word))
        of_command = parser_of(module.main)
        choices.add_parser(word, help=text, parents=[of_command], add_help=False, conflict_handler="resolve")
    return parser
