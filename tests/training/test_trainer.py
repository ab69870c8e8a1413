"""Training on the tiny dataset: files, repeatability, continuing, refusals."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch

from samunet.checkpoints.file import load_checkpoint
from samunet.errors import CheckpointError, ConfigError, DatasetError
from samunet.machine.hardware import choose_device
from samunet.models.segmenter import SlabSegmenter
from samunet.training.config import RunConfig
from samunet.training.trainer import SAMTrainer


def weights_of(fold, name="checkpoint_final"):
    return load_checkpoint(fold / f"{name}.safetensors")


def test_a_fold_gets_what_nnunet_gives(trained):
    assert {path.name for path in trained.iterdir()} == {
        "checkpoint_best.safetensors",
        "checkpoint_final.safetensors",
        "config.json",
        "cost.json",
        "debug.json",
        "log.jsonl",
        "progress.png",
        "training_log.txt",
        "validation",
    }
    assert {"plans.json", "dataset.json"} <= {path.name for path in trained.parent.iterdir()}
    assert (trained / "progress.png").read_bytes().startswith(b"\x89PNG")
    log = (trained / "training_log.txt").read_text().splitlines()
    assert "(no pretrained weights), 0.3 M parameters train, 0.0 M are frozen" in log[0]
    first, last = (line for line in log if line.startswith("epoch"))
    assert re.search(r"epoch 1/2: .* % waiting for data, [\d.]+ (s|min) left$", first) and last.endswith(
        "% waiting for data"
    )
    summary = json.loads((trained / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2 and 0 <= summary["foreground_mean"]["Dice"] <= 1


def test_the_checkpoint_names_no_path_and_knows_its_state(trained):
    state = weights_of(trained).state
    assert (state.configuration, state.trainer, state.epoch, state.step) == ("3d_adapter", "SAMTrainer", 2, 6)
    assert state.weights_sha256 is None and len(state.history["train_loss"]) == 2
    assert str(trained.parent.parent).encode() not in (trained / "checkpoint_final.safetensors").read_bytes()[:100_000]


def test_equal_seeds_give_equal_files_whatever_the_workers(project, trained, tmp_path):
    again = project.train(results=tmp_path, config={"workers": 2}, validate=False)
    third = project.train(results=tmp_path / "b", validate=False)
    for name in ("checkpoint_final.safetensors", "checkpoint_best.safetensors", "config.json"):
        assert (again / name).read_bytes() == (third / name).read_bytes() == (trained / name).read_bytes()
    assert [json.loads((fold / "debug.json").read_text())["workers"] for fold in (again, third)] == [2, 0]


def test_another_seed_gives_other_weights(project, trained, tmp_path):
    other = project.train(results=tmp_path, config={"seed": 5}, validate=False)
    assert any(
        not torch.equal(tensor, weights_of(trained).model[name]) for name, tensor in weights_of(other).model.items()
    )


def test_continuing_after_an_interruption_gives_the_uninterrupted_weights(project, trained, tmp_path, monkeypatch):
    finish = SAMTrainer._finish_epoch

    def stop_after_first_epoch(self, *arguments):
        finish(self, *arguments)
        if self.state.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SAMTrainer, "_finish_epoch", stop_after_first_epoch)
        project.train(results=tmp_path, validate=False)
    fold = next(tmp_path.glob("*/*/fold_0"))
    assert (fold / "checkpoint_latest.safetensors").is_file() and not (fold / "checkpoint_final.safetensors").is_file()
    project.train(results=tmp_path, resume=True, validate=False)
    assert (fold / "checkpoint_final.safetensors").read_bytes() == (
        trained / "checkpoint_final.safetensors"
    ).read_bytes()
    assert not (fold / "checkpoint_latest.safetensors").exists()


@pytest.mark.parametrize("killed_in", [1, 2])
def test_killed_after_an_epochs_last_step_the_files_are_those_of_the_uninterrupted_training(
    project, trained, tmp_path, monkeypatch, killed_in
):
    validate = SAMTrainer._validate

    def killed(self):
        if self.state.epoch == killed_in - 1:
            raise KeyboardInterrupt
        return validate(self)

    every_step = RunConfig(save_every_steps=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SAMTrainer, "_validate", killed)
        project.train(results=tmp_path, validate=False, run=every_step)
    fold = next(tmp_path.glob("*/*/fold_0"))
    assert weights_of(fold, "checkpoint_latest").state.step == 3 * killed_in
    project.train(results=tmp_path, resume=True, validate=False, run=every_step)
    for name in ("checkpoint_final.safetensors", "checkpoint_best.safetensors"):
        assert (fold / name).read_bytes() == (trained / name).read_bytes()
    whole, resumed = (
        [json.loads(line)["learning_rate"] for line in (path / "log.jsonl").read_text().splitlines()]
        for path in (trained, fold)
    )
    assert whole == resumed and whole[0] > whole[1]
    costs = [json.loads((path / "cost.json").read_text()) for path in (trained, fold)]
    assert costs[0]["last_learning_rate"] == costs[1]["last_learning_rate"]


def test_continuing_with_other_settings_is_refused(project, trained):
    before = (trained / "checkpoint_final.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"other settings: learning_rate 0.001 \(now 0.5\).*same settings"):
        project.train(resume=True, config={"learning_rate": 0.5})
    assert (trained / "checkpoint_final.safetensors").read_bytes() == before


def test_a_damaged_checkpoint_is_named(project, trained, tmp_path):
    broken = tmp_path / "checkpoint_final.safetensors"
    broken.write_bytes((trained / broken.name).read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read.*damaged"):
        load_checkpoint(broken)


def test_an_unknown_configuration_names_the_nearest(project):
    with pytest.raises(ConfigError, match="no adaptation method 'sam_unte'. Did you mean 'sam_unet'"):
        project.train(configuration="3d_sam_unte")
    with pytest.raises(ConfigError, match="no cascade and no low-resolution.*use 3d_adapter"):
        project.train(configuration="3d_lowres")
    with pytest.raises(ConfigError, match="must be named 2d_<method> or 3d_<method>"):
        project.train(configuration="fullres")


def test_the_method_name_works_beside_its_alias(project, tmp_path):
    fold = project.train(
        results=tmp_path, configuration="3d_sam_unet", config={"epochs": 1, "iterations": 1}, validate=False
    )
    assert fold.parent.name == "SAMTrainer__samunetPlans__3d_sam_unet"
    assert weights_of(fold).state.configuration == "3d_sam_unet"


def test_bad_folds_and_absent_preprocessing_are_refused(project):
    with pytest.raises(ConfigError, match="Fold must be a number from 0 up, or 'all'; got 'x'"):
        project.train(fold="x")
    data = project.workspace.preprocessed / project.dataset / "samunetPlans_3d"
    hidden = data.rename(data.with_name("hidden"))
    try:
        with pytest.raises(DatasetError, match="not preprocessed for 3d_adapter.*Run first: samunet_preprocess"):
            project.train()
    finally:
        hidden.rename(data)


def test_a_device_that_is_not_there_is_refused(project):
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(ConfigError, match=f"Device '{missing}' is not on this machine; present: .*cpu"):
        project.train(device=missing)


def test_the_number_of_a_device_is_looked_at(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1") and choose_device("cpu:0").type == "cpu"
    for wrong in ("cuda:2", "cuda:x", "cpu:1"):
        with pytest.raises(ConfigError, match=f"Device '{wrong}' is not on this machine; it has [12] .* device"):
            choose_device(wrong)


def test_2d_trains_too(project, tmp_path):
    fold = project.train(results=tmp_path, configuration="2d_adapter")
    values = weights_of(fold).state.history["train_loss"]
    assert all(value is not None and math.isfinite(value) for value in values)


def test_the_network_is_told_in_every_epoch_how_much_of_the_training_is_over(project, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(
        SlabSegmenter, "progress", property(lambda network: 0.0, lambda network, share: told.append(share))
    )
    project.train(results=tmp_path, validate=False)
    assert told == [0.0, 0.5]
