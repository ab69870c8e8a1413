"""Wrong dataset.json of every kind, given to the commands that read one: one sentence that names the file, exit code 2,
in seconds.
"""

from __future__ import annotations

import importlib
import json
import shutil

import pytest
from tiny import write_tiny_dataset

NAME = "Dataset904_Hurt"
COMMANDS = ("check_dataset", "plan_and_preprocess", "predict_from_modelfolder", "evaluate_folder")
GONE = object()
LABELS = {"background": 0, "large": 1, "middle": 2, "small": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "small": 3}

CHANGED = {
    "channel_names": [
        GONE, None, {}, [], ["T1"], "T1", 1, {"0": None}, {"0": ["T1"]}, {"0": {"name": "T1"}}, {"0": ""}, {"0": 1},
            {"0": "a\nb"}, {"0": "x" * 300},
        {"1": "T1"}, {"0": "T1", "00": "T1"}, {"0": "T1", "2": "T1"}, {"a": "T1"}, {str(i): "c" for i in range(20_000)},
    ],
    "labels": [
        GONE, None, {}, [], ["background", "large"], "background", {**LABELS, "large": -1}, {**LABELS, "large": 1.0},
        {**LABELS, "large": True},
        {**LABELS, "large": 10**9}, {**LABELS, "large": 10**30}, {**LABELS, "large": 1e400}, {**LABELS, "large": "1"},
        {**LABELS, "large": None},
        {**LABELS, "large": [[1]]}, {**LABELS, "large": []}, {**LABELS, "large": {"value": 1}}, {**LABELS,
        "large": float("nan")},
        {**LABELS, "large": 0}, {**LABELS, "large": 2}, {**LABELS, "": 4}, {**LABELS, "a\nb": 4}, {**LABELS,
        "background": 4}, {**LABELS, "small": 5},
        {"large": 1, "middle": 2}, {"background": 0}, {"background": [0, 1], "large": 2}, {**LABELS, "ignore": 2},
        {**LABELS, "ignore": 9},
        {**LABELS, "ignore": [4, 5]}, {**LABELS, "ignore": -1}, {"0": "background", "1": "large"}, {**REGIONS,
        "twin": [1, 3, 2]}, REGIONS,
        {"background": 0} | {f"s{i}": i for i in range(1, 100_000)},
        {"background": 0} | {f"s{i}": list(range(1, i + 1)) for i in range(1, 5001,
        250)} | {f"t{i}": i for i in range(2, 5001)},
    ],
    "regions_class_order": ["abc", 7, {"1": 1}, [True, 2, 3], [1, 2.0, 3], [1, 2, "3"], [[1], [2], [3]], [None], [-1,
        2, 3]],
    "file_ending": [GONE, None, "", "../x", "nii.gz", 7, [".nii.gz"], ".nii.gz/..", ".", "\0", ".nii gz",
        "." + "x" * 300],
    "numTraining": [None, "3", 2.5, -1, True, [3], 1e400, 10**30],
    "overwrite_image_reader_writer": [7, ["NibabelIO"], "", {"a": 1}],
    "dataset": [[], {}, None, "x", ["tiny_000"], 5],
}  # fmt: skip
SOUND = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": LABELS,
    "numTraining": 3,
    "file_ending": ".nii.gz",
}
TEXTS = {
    "empty": b"",
    "spaces": b" " * (8 << 20),
    "byte order mark alone": b"\xef\xbb\xbf",
    "UTF-16": json.dumps(SOUND).encode("utf-16"),
    "Latin-1": json.dumps({**SOUND, "author": "André"}, ensure_ascii=False).encode("latin-1"),
    "half a character": json.dumps(SOUND).replace("T1", "\\ud800").encode(),
    "cut off": json.dumps(SOUND).encode()[:-1],
    "two objects": json.dumps(SOUND).encode() * 2,
    "deep": json.dumps(SOUND)[:-1].encode() + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "200 deep": json.dumps(SOUND)[:-1].encode() + b', "x": ' + b"[" * 200 + b"]" * 200 + b"}",
    "5,000 digits": json.dumps(SOUND)[:-1].encode() + b', "x": ' + b"9" * 5000 + b"}",
    "a list": b"[]",
    "null": b"null",
    "a key twice": json.dumps(SOUND).replace('"large": 1', '"large": 1, "large": 3').encode(),
    "a folder": None,
}


def changed(key: str, value: object) -> bytes:
    description = (
        {**SOUND, key: value} if value is not GONE else {name: other for name, other in SOUND.items() if name != key}
    )
    return json.dumps(description).encode()


MUTATIONS = {
    f"{key} {'gone' if value is GONE else json.dumps(value)[:60]}": changed(key, value)
    for key, values in CHANGED.items()
    for value in values
}
MUTATIONS |= TEXTS


@pytest.fixture(scope="module")
def places(trained, tmp_path_factory):
    """Folders with a dataset.json to be replaced, and the arguments of each command that reads it."""
    root = tmp_path_factory.mktemp("descriptions")
    (root / "raw").mkdir()
    raw = write_tiny_dataset(root / "raw", name=NAME, channels=2, cases=3, labels=LABELS)
    model = root / "model"
    model.mkdir()
    for path in trained.parent.iterdir():
        if path.is_file():
            shutil.copyfile(path, model / path.name)
    (model / "fold_0").symlink_to(trained)
    return {
        "check_dataset": (raw, ["-d", "904", "--no_pbar"]),
        "plan_and_preprocess": (raw, ["-d", "904", "--no_pbar"]),
        "predict_from_modelfolder": (
            model,
            ["-i", raw / "imagesTr", "-o", root / "predicted", "-m", model, "-f", "0", "-device", "cpu"],
        ),
        "evaluate_folder": (
            raw,
            [raw / "labelsTr", raw / "labelsTr", "-djfile", raw / "dataset.json", "-o", root / "summary.json"],
        ),
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_dataset_json_is_refused_by_name_in_one_sentence(places, command, monkeypatch, capsys, tmp_path):
    folder, arguments = places[command]
    for variable, name in (
        ("nnUNet_raw", "raw"),
        ("nnUNet_preprocessed", "preprocessed"),
        ("nnUNet_results", "results"),
    ):
        monkeypatch.setenv(variable, str(folder.parent if name == "raw" else tmp_path / name))
    main, target = importlib.import_module(f"samunet.cli.{command}").main, folder / "dataset.json"
    sound, failed = target.read_bytes(), []
    try:
        for name, content in MUTATIONS.items():
            target.unlink()
            target.mkdir() if content is None else target.write_bytes(content)
            fault = fault_of_answer(main, arguments, capsys)
            failed += [f"{name}: {fault}"] if fault else []
            target.rmdir() if content is None else None
            target.write_bytes(sound)
    finally:
        target.write_bytes(sound)
    assert not failed, "\n".join(failed)
    assert len(MUTATIONS) > 100 and not (tmp_path / "preprocessed").exists()


def fault_of_answer(main, arguments, capsys, names="dataset.json") -> str | None:
    """Run a command that must refuse, in a line that names a file; say what is wrong with how it did."""
    try:
        code = main([str(argument) for argument in arguments])
    except BaseException as error:  # SystemExit too would be a fault
        return f"raised {type(error).__name__}: {str(error)[:200]}"
    printed = capsys.readouterr()
    lines = [line for line in (printed.err + printed.out).splitlines() if names in line]
    if code != 2:
        return f"exit code {code}"
    if not lines:
        return f"names no file: {(printed.err + printed.out)[:200]!r}"
    if "Traceback" in printed.err or max(map(len, lines)) > 700:
        return f"says {max(lines, key=len)[:800]!r}"
    return None
