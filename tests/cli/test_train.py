"""samunet_train's own options: settings by name, presets, and the script for a cluster."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from samunet.checkpoints.file import load_checkpoint
from samunet.cli import train
from samunet.cli.fields import parse_assignment
from samunet.errors import ConfigError
from samunet.training.config import RunConfig, TrainingConfig


@pytest.fixture
def environment(project, monkeypatch, tmp_path):
    for name, value in (project.environment | {"nnUNet_results": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    return tmp_path


def test_a_setting_may_be_given_in_three_ways_and_the_last_counts(environment, capsys):
    words = ["901", "3d_adapter", "0", "-device", "cpu", "--preset", "ma_sam", "--skip_validation", "--workers", "0"]
    words += [
        "--epochs",
        "1",
        "--iterations",
        "2",
        "--batch_size",
        "2",
        "--set",
        "accumulate=2",
        "--set",
        "save_every_steps=1",
        "--balance_classes",
    ]
    assert train.main(words) == 0
    fold = next(environment.glob("*/*/fold_0"))
    config = json.loads((fold / "config.json").read_text())
    assert (
        config["epochs"],
        config["accumulate"],
        config["weight_decay"],
        config["decay_power"],
        config["balance_classes"],
    ) == (
        1,
        2,
        0.1,
        7.0,
        True,
    )
    debug = json.loads((fold / "debug.json").read_text())
    assert debug["command"] == ["samunet_train", *words] and debug["run"]["save_every_steps"] == 1
    assert f"Done: {fold}" in capsys.readouterr().out


def test_a_stopped_training_says_how_to_go_on(environment, capsys):
    words = [
        "901",
        "3d_adapter",
        "0",
        "-device",
        "cpu",
        "--epochs",
        "1",
        "--iterations",
        "2",
        "--batch_size",
        "2",
        "--workers",
        "0",
    ]
    assert train.main([*words, "--max_hours", "1e-6"]) == 0
    assert "Stopped, nothing is lost." in (out := capsys.readouterr().out) and "same command with --c" in out
    assert train.main(["901", "3d_adapter", "0", "-device", "cpu", "--c"]) == 0
    out = capsys.readouterr().out
    assert "continues after step 1" in out and "Mean foreground Dice of 2 validation cases" in out and "Done:" in out


def test_minutes_alone_fit_are_said_once_and_go_on(environment, project, capsys):
    words = ["901", "3d_adapter", "0", "-device", "cpu", "--minutes", "0.04", "--batch_size", "2", "--workers", "0"]
    assert train.main([*words, "--skip_validation", "--max_hours", "1e-6"]) == 0
    assert "Stopped after step 1 by" in capsys.readouterr().out
    assert train.main([*words, "--skip_validation", "--c"]) == 0
    said = capsys.readouterr().out
    assert said.count("in 0.04 min there is time for 2 epochs of about") == 1 and "epoch 2/2: " in said
    images = project.workspace.raw / project.dataset / "imagesTs"
    assert f"Next: samunet_predict -d 901 -c 3d_adapter -i {images} -o PREDICTIONS" in said
    state = load_checkpoint(next(environment.glob("*/*/fold_0/checkpoint_final.safetensors"))).state
    assert (state.training["epochs"], state.epoch, state.pace["epochs"]) == (0, 2, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs", "--set takes KEY=VALUE; got 'epochs'"),
        ("epoch=3", "no training setting 'epoch'. Did you mean 'epochs'"),
        ("epochs=many", "--set epochs=many: expected a whole number"),
        ("compile=perhaps", "expected true or false"),
        ("ema=high", "expected a number"),
    ],
)
def test_wrong_settings_are_refused_by_name(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_assignment(text, TrainingConfig, RunConfig)


def test_settings_take_their_own_type():
    assert parse_assignment("ema=0.99", TrainingConfig) == ("ema", 0.99)
    assert parse_assignment("compile=True", TrainingConfig) == ("compile", True)
    assert parse_assignment("log=wandb", TrainingConfig, RunConfig) == ("log", "wandb")


def test_what_does_not_go_together_is_refused(environment, capsys):
    for words, message in (
        (["--extend", "3"], "goes with --c"),
        (["--c", "--extend", "2", "--slurm"], "would add epochs at every start"),
        (["--seeds", "2", "--skip_validation"], "not with --val, --skip_validation"),
        (["-pretrained_weights", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (["--c", "--extend", "2"], "no training in .* to extend"),
    ):
        assert train.main(["901", "3d_adapter", "0", "-device", "cpu", *words]) == 2

        assert re.search(message, capsys.readouterr().err)
    assert not list(environment.glob("*/*/fold_0/checkpoint*"))


def test_the_script_for_slurm_stops_before_its_limit_and_goes_on(environment, capsys, tmp_path):
    assert (
        train.main(["4", "3d_adapter", "0", "--epochs", "500", "-num_gpus", "2", "--max_hours", "11.5", "--slurm"]) == 0
    )
    script = capsys.readouterr().out
    assert "samunet_train 4 3d_adapter 0 --epochs 500 -num_gpus 2 --max_hours 11.5 --c" in script
    assert (
        "#SBATCH --time=11:45:00" in script
        and "#SBATCH --gpus-per-node=2" in script
        and f"export nnUNet_results={environment}" in script
    )
    file = tmp_path / "job.sh"
    file.write_text(script)
    subprocess.run(["bash", "-n", str(file)], check=True)
    # The script itself, with a training that is told to stop, and one that is not.
    (tmp_path / "bin").mkdir()
    for name, body in (
        ("samunet_train", 'trap "echo Stopped, nothing is lost.; exit 0" TERM; sleep 2 & wait; echo Done'),
        ("scontrol", "echo requeued $2 > requeued"),
    ):
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    around = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    running = subprocess.Popen(["bash", str(file)], cwd=tmp_path, env=around)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.5)
    running.terminate()
    assert running.wait(30) == 0 and (tmp_path / "requeued").read_text() == "requeued 7\n"
    (tmp_path / "requeued").unlink()
    assert subprocess.run(["bash", str(file)], cwd=tmp_path, env=around, check=False).returncode == 0
    assert not (tmp_path / "requeued").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(environment, capsys, monkeypatch):
    (environment / "Dataset901_Tiny").write_text("a file where the folder should be")
    assert train.main(["901", "3d_adapter", "0", "-device", "cpu"]) == 2
    assert re.search(
        r"samunet_train: .*Dataset901_Tiny.*: Not a directory; make space, or correct the permissions",
        capsys.readouterr().err,
    )
