"""samunet WORD ...: every command under one name, and the map of the work that they are for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from samunet import __version__
from samunet.cli.words import COMPLETION, MAP, module_of, words
from samunet.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; returns its exit code, or 2 for a word that is none."""
    word, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if word in ("-h", "--help", "help"):
        print(overview())
        return 0
    if word == "--version":
        print(f"samunet {__version__}")
        return 0
    word = word.removeprefix("samunet_")
    if word == COMPLETION:
        from samunet.cli.completion import main as complete

        return complete(rest)
    try:
        module = module_of(word)
    except ConfigError as error:
        print(f"samunet: {error}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(module).main(rest)
    return code


def overview() -> str:
    """Return the map of the work: every command with what it does, in order."""
    lines = ["Segment Anything that configures itself, in nnU-Net's folders and commands.", ""]
    width = max(map(len, words()))
    for title, part in MAP.items():
        lines += [f"{title}:", *(f"  samunet {word:<{width}}  {text}" for word, text in part.items()), ""]
    lines += [
        "samunet WORD --help explains a command; samunet_WORD is the same command.",
        f"samunet {COMPLETION} bash | zsh | fish prints what lets the shell complete words and options.",
        "First on your own data: samunet import, then samunet check_dataset.",
    ]
    return "\n".join(lines)
