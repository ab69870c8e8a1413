"""Every command under one name, in the order of the work; shells complete its words."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from samunet.cli.completion import main as complete
from samunet.cli.entrance import main
from samunet.cli.words import SYNONYMS, module_of, words

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_words_are_the_commands():
    scripts = dict(re.findall(r'^samunet_(\w+) = "([\w.]+):main"', PYPROJECT.read_text(encoding="utf-8"), re.MULTILINE))
    assert {word: module_of(word) for word in words()} == scripts


def test_help_is_a_map_and_a_word_without_more_does_not_run(capsys):
    assert main([]) == main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("samunet import") < shown.index("samunet plan_and_preprocess") < shown.index("samunet predict ")


@pytest.mark.parametrize("word", ["predict", "samunet_predict"])
def test_a_word_is_its_command(word, capsys):
    with pytest.raises(SystemExit) as ended:
        main([word, "--help"])
    assert ended.value.code == 0 and "samunet_predict" in capsys.readouterr().out


def test_an_unknown_word_names_the_nearest(capsys):
    assert main(["trian", "4"]) == 2
    assert re.match(r"samunet: There is no command 'trian'\..*train", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("segment", "predict"),
        ("segement", "predict"),
        ("inference", "predict"),
        ("Infer", "predict"),
        ("plan", "plan_and_preprocess"),
        ("eval", "evaluate_folder"),
        ("label", "annotate"),
        ("import_dataset", "import"),
    ],
)
def test_what_others_call_the_work_is_understood(word, meant, capsys):
    assert main([word]) == 2
    assert f"no command '{word}'. Did you mean '{meant}'?" in capsys.readouterr().err


def test_synonyms_are_of_commands_and_none_is_a_command():
    assert set(SYNONYMS) <= set(words())
    others = [other for others in SYNONYMS.values() for other in others.split()]
    assert len(others) == len(set(others)) and not set(others) & set(words())


def test_python_dash_m_is_the_same():
    done = subprocess.run([sys.executable, "-m", "samunet", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("samunet ")


def test_shells_complete_every_word_and_option(capsys, tmp_path):
    for shell in ("bash", "zsh", "fish"):
        assert complete([shell]) == 0
        script = capsys.readouterr().out
        assert all(word in script for word in words()) and "gpu_memory_target" in script
        if shutil.which(shell):
            (tmp_path / "script").write_text(script)
            subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)
    ask = f"source {tmp_path / 'script'}"
    complete(["bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    ask += "; COMP_WORDS=(samunet plan_a); COMP_CWORD=1; _shtab_samunet; echo ${COMPREPLY[@]}"
    found = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["plan_and_preprocess"]
