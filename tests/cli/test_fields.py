"""What a field of a dataclass becomes on a command line, and what a wrong word is told."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from samunet.cli.common import command, parse_bytes
from samunet.cli.fields import add_options, options_from
from samunet.errors import ConfigError

Threads = Annotated[int, "-np N", "Cases at a time."]


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How tiles lie.

    More about them.
    """

    step: Annotated[float, "-step_size SHARE"] = 0.5
    """Distance, 100% of a tile at most."""
    names: tuple[str, ...] = ()
    """Also a field of the options around."""
    flips: Annotated[bool, "--disable_tta"] = True
    """Average over flips."""
    batch: Annotated[int, ""] = 3

    def __post_init__(self):
        if self.step <= 0:
            raise ConfigError(f"-step_size must be above 0; got {self.step}.")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a training."""

    epochs: int = 200
    """Number of epochs."""
    log: str = ""
    """Where to."""
    ema: bool = False
    """Average weights."""


@dataclass(frozen=True, kw_only=True)
class Options:
    file: Annotated[Path, "FILE"]
    """The file."""
    more: Annotated[tuple[int, ...], "NUMBER"] = ()
    """Numbers."""
    dataset: Annotated[str, "-d --dataset_id DATASET"]
    """Which one."""
    names: Annotated[tuple[str, ...], "-c NAME"] = ("a", "b")
    """Some."""
    spacing: Annotated[tuple[float, float, float] | None, "-spacing MM"] = None
    """Three numbers."""
    precision: Annotated[Literal["mixed", "fp32"], "-precision"] = "mixed"
    """Numbers."""
    lesions: bool = False
    """Count them."""
    max_ram: Annotated[int | None, "--max_ram SIZE", parse_bytes] = None
    """Memory."""
    assigned: Annotated[tuple[str, ...], "--set KEY=VALUE ..."] = ()
    """Settings."""
    threads: Threads = 2
    tiles: Tiles
    config: Annotated[dict[str, Any], Config]


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(prog="some")
    add_options(parser, Options)
    return parser


@pytest.fixture
def parse(parser):
    return lambda *words: options_from(parser.parse_args(words), Options)


def test_without_words_a_field_has_its_default(parse):
    options = parse("x", "-d", "4")
    assert options == Options(file=Path("x"), dataset="4", tiles=Tiles(), config={})
    assert options.tiles == Tiles(step=0.5, names=(), flips=True, batch=3)


def test_words_become_values_of_the_fields_types(parse):
    words = "x 1 2 --dataset_id 4 -c a c -spacing 3 1 1.5 -precision fp32 --lesions --max_ram 2K --set k=1 --set l=2"
    assert parse(*words.split()) == Options(
        file=Path("x"),
        more=(1, 2),
        dataset="4",
        names=("a", "c"),
        spacing=(3.0, 1.0, 1.5),
        precision="fp32",
        lesions=True,
        max_ram=2048,
        assigned=("k=1", "l=2"),
        tiles=Tiles(),
        config={},
    )


def test_a_switch_turns_off_what_is_on_and_its_help_says_so(parse, parser):
    assert parse("x", "-d", "4", "--disable_tta").tiles.flips is False
    assert "Do not average over flips." in parser.format_help()


def test_fields_of_two_dataclasses_may_have_one_name(parse):
    options = parse("x", "-d", "4", "-c", "outer", "--names", "inner")
    assert (options.names, options.tiles.names) == (("outer",), ("inner",))


def test_of_a_mapping_only_what_is_given_is_there(parse):
    assert parse("x", "-d", "4", "--epochs", "3", "--no-ema").config == {"epochs": 3, "ema": False}


def test_help_holds_texts_defaults_and_headings(parser):
    said = " ".join(parser.format_help().split())
    assert "-c NAME [NAME ...] Some. (default: a b)" in said
    assert "-d DATASET, --dataset_id DATASET Which one." in said and "Which one. (default" not in said
    assert "How tiles lie: -step_size SHARE Distance, 100% of a tile at most. (default: 0.5)" in said
    assert "-np N Cases at a time. (default: 2)" in said
    assert "--log STR Where to. (default: none)" in said and "batch" not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x"], "the following arguments are required: -d/--dataset_id"),
        (["-d", "4"], "the following arguments are required: FILE"),
        (["x", "-d", "4", "-precision", "fp8"], "argument -precision: invalid choice: 'fp8'"),
        (["x", "-d", "4", "-step_size", "half"], "argument -step_size: invalid float value: 'half'"),
        (["x", "-d", "4", "-spacing", "1", "1"], "argument -spacing: expected 3 arguments"),
        (["x", "-d", "4", "--max_ram", "much"], "argument --max_ram: expected an amount such as 2G or 500M"),
        (["x", "-d", "4", "--batch", "1"], "unrecognized arguments: --batch"),
    ],
)
def test_a_wrong_word_is_refused_with_what_is_expected(parse, capsys, words, message):
    with pytest.raises(SystemExit) as end:
        parse(*words)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_values_that_their_dataclass_refuses_end_a_command_with_its_sentence(capsys):
    main = command("samunet_some", None, Options)(lambda _: 0)
    assert main(["x", "-d", "4"]) == 0
    assert main(["x", "-d", "4", "-step_size", "0"]) == 2
    assert capsys.readouterr().err == "samunet_some: -step_size must be above 0; got 0.0.\n"


def test_help_begins_with_the_first_paragraph_and_ends_with_the_others(capsys):
    with pytest.raises(SystemExit):
        command("samunet_some", "Do something to files.\n\nNext: look at them\n", Options)(lambda _: 0)(["--help"])
    first, _, rest = capsys.readouterr().out.partition("Do something to files.")
    assert "usage: samunet_some" in first and rest.endswith(
        "\nNext: look at them\nExit codes: " + rest.split("codes: ")[1]
    )


def test_a_program_without_its_source_takes_options_all_the_same():
    code = (
        "from dataclasses import dataclass\nfrom samunet.cli.common import command\n"
        "@dataclass\nclass Options:\n    lesions: bool = False\n    'Count.'\n"
        "print(command('some', 'Do.', Options)(lambda options: int(options.lesions))(['--lesions']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
