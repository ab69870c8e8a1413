"""Wrong plans of every kind, given to the commands that read one: one sentence that names the file, exit code 2,
nothing written.
"""

from __future__ import annotations

import copy
import importlib
import json
import shutil

import pytest
from cli.test_descriptions import fault_of_answer

GONE = object()
NUMBERS = [GONE, None, -1, "3", [], {}, True, 1e400, 10**30]
CHANGED = {
    ("dataset",): [GONE, None, "../x", "Dataset905_Other", "/elsewhere/Dataset901_Tiny", "", 7, "a\0b"],
    ("reader",): ["NoReader", 7, None],
    ("memory_gib",): [*NUMBERS, 0, float("nan")],
    ("precision",): ["fp8", 7, None],
    ("transpose",): [[0, 0, 1], [0, 1], [0, 1, 3], "012", [0, 1, 2.5], [-1, 0, 1], None],
    ("orientation",): ["LLL", "XYZ", 7, "SP", "spl"],
    ("channels",): [[], None, "CT", [{}]],
    ("channels", 0, "scheme"): ["unknown", None, 7],
    ("channels", 0, "intensities", "std"): [-1, None, float("nan"), "1"],
    ("configurations",): [None, [], {"3d_adapter": None}, {"3d_adapter": {"inherits_from": "3d_adapter"}},
        {"3d_adapter": {"inherits_from": "gone"}}],
    ("configurations", "3d_adapter", "spacing"): ["123", [0, 1, 1], [-1, 1, 1], [1, 1], [1e-300, 1, 1], [1e300, 1, 1],
        [float("nan"), 1, 1]],
    ("configurations", "3d_adapter", "patch_size"): [[-40, 8, 8], [0, 8, 8], [10**12, 8, 8], [8, 8], "888", [8.5, 8,
        8], [10**5, 10**5, 10**5]],
    ("configurations", "3d_adapter", "batch_size"): [*NUMBERS, 0],
    ("configurations", "3d_adapter", "dimensions"): [7, 0, "3", None],
    ("configurations", "3d_adapter", "backbone"): ["vit_none", 7, "../x"],
    ("configurations", "3d_adapter", "variant"): ["no_such", "../x", 7],
    ("configurations", "3d_adapter", "encoder_scale"): [*NUMBERS, 0, 1e9],
    ("configurations", "3d_adapter", "mirror_axes"): [[7], [0, 0], [-1], "012", None],
    ("configurations", "3d_adapter", "data_identifier"): ["../x", "", "a/b", ".hidden", 7, "x" * 400],
    ("configurations", "3d_adapter", "weights_sha256"): ["short", 7],
    ("configurations", "3d_adapter", "topology", "strides"): [[], [[0, 1, 1]], [[-1, 1, 1]], [[1, 1]], "111", [[10**9,
        1, 1]]],
    ("configurations", "3d_adapter", "topology", "widths"): [[], [0], [-8], [10**9], "8"],
    ("unknown",): [1],
}  # fmt: skip
TEXTS = {
    "empty": b"",
    "a list": b"[]",
    "cut off": b'{"dataset": "Data',
    "deep": b"[" * 100_000,
    "5,000 digits": b'{"memory_gib": ' + b"9" * 5000 + b"}",
}


def mutations(sound: dict) -> dict[str, bytes]:
    found = dict(TEXTS)
    for path, values in CHANGED.items():
        for value in values:
            plan = copy.deepcopy(sound)
            place = plan
            for key in path[:-1]:
                place = place[key]
            if value is GONE:
                del place[path[-1]]
            else:
                place[path[-1]] = value
            found[f"{'.'.join(map(str, path))}: {'gone' if value is GONE else json.dumps(value)[:60]}"] = json.dumps(
                plan
            ).encode()
    return found


COMMANDS = ("plan_experiment", "preprocess", "train", "predict_from_modelfolder")


@pytest.mark.parametrize(
    ("command", "every"),
    [
        ("plan_experiment", 1),
        *((command, 12) for command in COMMANDS[1:]),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in COMMANDS[1:]),
    ],
)
def test_a_wrong_plan_is_refused_by_name_in_one_sentence(
    project, trained, command, every, tmp_path, monkeypatch, capsys
):
    for variable, folder in project.environment.items():
        shutil.copytree(folder, tmp_path / variable, ignore=shutil.ignore_patterns("*.b2nd", "*.npz", "*.safetensors"))
        monkeypatch.setenv(variable, str(tmp_path / variable))
    number = project.dataset[7:10]
    model = tmp_path / "model"
    shutil.copytree(trained.parent, model)
    arguments = {
        "plan_experiment": ["-d", number, "--explain"],
        "preprocess": ["-d", number, "-c", "3d_adapter", "--no_pbar"],
        "train": [number, "3d_adapter", "1", "-device", "cpu"],
        "predict_from_modelfolder": [
            "-i",
            tmp_path / "nnUNet_raw" / project.dataset / "imagesTr",
            "-o",
            tmp_path / "out",
            "-m",
            model,
            "-f",
            "0",
        ],
    }[command]
    target = (
        model / "plans.json"
        if command.startswith("predict")
        else tmp_path / "nnUNet_preprocessed" / project.dataset / "samunetPlans.json"
    )
    sound, failed = target.read_bytes(), []
    tried = mutations(json.loads(sound))
    main = importlib.import_module(f"samunet.cli.{command}").main
    assert len(tried) > 105
    for name, content in list(tried.items())[::every]:
        if command.startswith("predict") and name.startswith('dataset: "Dataset905'):
            continue  # a model predicts what it was trained on, whatever the dataset is called here
        target.write_bytes(content)
        if fault := fault_of_answer(main, arguments, capsys, names=target.name):
            failed.append(f"{name}: {fault}")
    assert not failed, "\n".join(failed)
    assert not (tmp_path / "out").exists()
