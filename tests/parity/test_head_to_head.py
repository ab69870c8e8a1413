"""samunet_compare --run_nnunet: both tools really train, for equally long, and what is unlike is refused."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch

from samunet.cli import compare
from samunet.comparison import head_to_head, nnunet
from samunet.comparison.head_to_head import Settings, draw_cases
from samunet.core.codec import read_json, write_json
from samunet.errors import ConfigError
from samunet.planning.splits import Split

pytest.importorskip("nnunetv2")

SPLIT = Split(train=tuple(f"case_{number:02d}" for number in range(20)), val=("case_20",))


def test_the_same_few_cases_are_drawn_and_validation_stays():
    few = draw_cases(SPLIT, 5)
    assert few == draw_cases(Split(train=SPLIT.train[::-1], val=SPLIT.val), 5)
    assert len(few.train) == 5 and set(few.train) < set(SPLIT.train) and few.val == SPLIT.val
    assert draw_cases(SPLIT, 0) is SPLIT
    with pytest.raises(ConfigError, match="asks for 21 training cases; the fold has 20"):
        draw_cases(SPLIT, 21)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"match": "steps"}, "--match takes one of none, epochs, minutes"),
        ({"match": "minutes"}, "--match minutes goes with --minutes"),
        ({"match": "none", "minutes": 5.0}, "--match minutes goes with --minutes"),
        ({"match": "none", "train_cases": -1}, "takes a number above 0"),
        ({"match": "epochs", "epochs": 0}, "--epochs takes a number above 0"),
        ({"match": "none", "folds": ("all",)}, "Folds to compare are numbers"),
    ],
)
def test_impossible_settings_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        Settings(**({"configurations": ("3d_adapter",), "folds": ("0",)} | words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run_nnunet", "--epochs", "5"], "--epochs goes with --run_nnunet --match epochs"),
        (["--match", "minutes", "--minutes", "5"], "--match goes with --run_nnunet"),
        (["--num_train_cases", "5"], "--num_train_cases goes with --run_nnunet"),
        (["--run_nnunet", "--models", "a__b__c"], "without --models"),
        (["--run_nnunet", "-f", "7"], "has the folds 0 to 4"),
    ],
)
def test_options_that_would_do_nothing_are_refused(environment, capsys, tmp_path, words, message):
    assert compare.main(["-d", "901", "-o", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err


def test_the_folder_of_a_configuration_may_be_inherited_and_a_cascade_is_refused():
    known = {
        "3d_fullres": {"data_identifier": "nnUNetPlans_3d_fullres"},
        "larger": {"inherits_from": "3d_fullres", "batch_size": 40},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    assert nnunet._data_identifier(known, "larger") == "nnUNetPlans_3d_fullres"
    with pytest.raises(ConfigError, match="needs predictions of 3d_lowres"):
        nnunet._data_identifier(known, "3d_cascade_fullres")


def test_one_gpu_is_shown_where_one_is_named(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert head_to_head._visible(torch.device("cpu")) == head_to_head._visible(torch.device("cuda")) == {}
    assert head_to_head._visible(torch.device("cuda:1")) == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert head_to_head._visible(torch.device("cuda:1")) == {"CUDA_VISIBLE_DEVICES": "6"}


@pytest.fixture(scope="module")
def met(project, tmp_path_factory):
    """A comparison of two short trainings on three cases, in a workspace with plans and cases of its own."""
    folder = tmp_path_factory.mktemp("met")
    preprocessed = folder / "preprocessed"
    shutil.copytree(project.workspace.preprocessed, preprocessed)
    (folder / "results").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        names = {"raw": project.workspace.raw, "preprocessed": preprocessed, "results": folder / "results"}
        for name, path in names.items():
            patch.setenv(f"nnUNet_{name}", str(path))
        patch.setattr(
            head_to_head, "FEWEST_EPOCHS", 4
        )  # or what both do once per epoch would take most of so short a time
        patch.setattr(head_to_head, "LARGEST_ERROR", 0.15)
        patch.setenv("nnUNet_def_n_proc", "1")
        patch.setenv("nnUNet_compile", "f")
        words = [
            "-d",
            "901",
            "--run_nnunet",
            "-f",
            "0",
            "--match",
            "minutes",
            "--minutes",
            "0.3",
            "--num_train_cases",
            "3",
            "-device",
            "cpu",
        ]
        words += ["-o", str(folder / "out"), "-np", "1"]
        assert compare.main(words) == 0
        yield folder, words


def test_both_sides_trained_for_the_minutes_on_the_same_cases(met):
    out = met[0] / "out"
    document = json.loads((out / "comparison.json").read_text())
    assert document["methods"] == ["nnU-Net 0 3min 3d_fullres", "3d_adapter"]
    for training in document["trainings"]:
        assert (
            training["cost"]["minutes"] == pytest.approx(0.3, rel=0.15)
            and training["cost"]["epochs"] == len(training["curve"]) == 4
        )
        assert (
            training["cost"]["steps"] > 4
            and training["cost"]["threads"] == 1
            and training["cost"]["last_learning_rate"] < 3e-3  # nnU-Net's in the last of four epochs: 1e-2 * 0.25**0.9
        )
    split = read_json(out / "nnUNet_preprocessed" / "Dataset901_Tiny" / "splits_final.json")[0]
    assert len(split["train"]) == 3 and sorted(document["cases"]) == sorted(split["val"])
    log = "".join(path.read_text() for path in out.glob("nnUNet_results/*/nnUNetTrainer*/fold_0/training_log*.txt"))
    assert "has 3 training and" in log
    assert not list((met[0] / "results").iterdir())
    page = (out / "report.html").read_text()
    assert "Time and memory of training" in page and "Training curves" in page and "nnU-Net 2." in page


def test_a_second_call_trains_nothing_and_other_settings_are_refused(met, capsys):
    folder, words = met
    before = {path: path.stat().st_mtime_ns for path in folder.glob("out/nnUNet_results/*/*/fold_0/checkpoint_final*")}
    assert len(before) == 2 and compare.main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert compare.main([word if word != "3" else "2" for word in words]) == 2
    assert re.search(r"holds a comparison with other settings: train_cases 3 \(now 2\)", capsys.readouterr().err)


def test_a_side_that_missed_its_minutes_is_refused(met, capsys):
    folder, words = met
    path = next(folder.glob("out/nnUNet_results/*/SAMTrainer*/fold_0/cost.json"))
    cost = read_json(path)
    write_json(path, cost | {"minutes": 0.4})
    assert compare.main(words) == 2
    assert "0.40 minutes instead of 0.3, more than 15 % off" in capsys.readouterr().err
    write_json(path, cost)


def test_a_failing_command_is_named_with_its_log(met, capsys, monkeypatch, tmp_path):
    failing = tmp_path / "nnUNetv2_train"
    failing.write_text("#!/bin/sh\necho there is no trainer of this name\nexit 3\n")
    failing.chmod(0o755)
    monkeypatch.setattr(nnunet, "script", lambda _: str(failing))
    assert compare.main([*met[1], "--nnunet_trainer", "nnUNetTrainerNobody"]) != 0
    assert re.search(
        r"nnUNetv2_train ended with exit code 3: there is no trainer of this name The whole output is in .*logs",
        capsys.readouterr().err,
    )


def test_an_unknown_planner_or_configuration_is_refused(met, capsys):
    folder, words = met
    words = [str(folder / "third") if word == str(folder / "out") else word for word in words]
    assert compare.main([*words, "--planner", "PlannerOfNobody"]) == 2
    assert "nnU-Net has no planner 'PlannerOfNobody'" in capsys.readouterr().err
    assert compare.main([*words, "--nnunet_configuration", "3d_highres"]) == 2
    assert "has no configuration '3d_highres'; it has" in capsys.readouterr().err
