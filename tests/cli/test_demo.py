"""What the demo says at its end can be copied, and leads from a folder to a dataset that passes the check."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil

from tiny import write_tiny_dataset

from samunet.cli import check_dataset, common, demo, import_dataset


def lines(text):
    return [shlex.split(line) for line in text.splitlines() if line.startswith("  samunet_")]


def test_its_last_lines_import_and_check_files_of_ones_own(tmp_path, monkeypatch, capsys):
    source = write_tiny_dataset(tmp_path / "source", cases=2)
    shutil.copytree(source / "imagesTr", tmp_path / "FOLDER/images")
    shutil.copytree(source / "labelsTr", tmp_path / "FOLDER/labels")
    monkeypatch.chdir(tmp_path)
    for name, folder in re.findall(r'export (\w+)="\${\w+:-\$HOME/(.*)}"', demo._own_data()):
        monkeypatch.setenv(name, str(tmp_path / "home" / folder))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "y")
    ((command, *words),) = lines(demo._own_data())
    assert command == demo._own_data().split()[-2] == "samunet_import" and import_dataset.main(words) == 0
    check, *words = re.search(r"^Next: (.*)$", capsys.readouterr().out, re.MULTILINE)[1].split()
    assert check == "samunet_check_dataset" and check_dataset.main(words) == 0
    assert "0 errors" in capsys.readouterr().out


def test_its_other_lines_are_taken_by_their_commands(tmp_path, monkeypatch):
    for name, *arguments in lines(demo._own_data() + demo._phantom_steps(tmp_path)):
        module = importlib.import_module(
            f"samunet.cli.{name.removeprefix('samunet_').replace('import', 'import_dataset')}"
        )
        monkeypatch.setattr(common, "_run", lambda parser, argv, *_: parser.parse_args(argv))
        assert module.main(arguments)
