"""What may be asked of a training besides its length: averages, early ends, whole cases, other weights, several seeds,
other logs.
"""

from __future__ import annotations

import json
import math
import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from samunet import pipeline
from samunet.checkpoints.file import load_checkpoint
from samunet.core.plan import save_plan
from samunet.data.dataset import PreprocessedDataset
from samunet.errors import CheckpointError, ConfigError, SamunetError
from samunet.inference.load import load_predictor
from samunet.inference.predictor import PredictionOptions
from samunet.inference.whole import mean_dice
from samunet.training import trainer as trainer_module
from samunet.training.average import WeightAverage
from samunet.training.config import PRESETS, RunConfig, TrainingConfig
from samunet.training.curves import draw_training
from samunet.training.log import TrainingLog
from samunet.training.optimizer import make_optimizer
from samunet.training.schedule import rate_factor
from samunet.training.trainer import SAMTrainer
from samunet.variants.network import build_network

FINAL = "checkpoint_final.safetensors"
SHORT = {"epochs": 1, "iterations": 2}


def records(fold) -> list[dict]:
    return [json.loads(line) for line in (fold / "log.jsonl").read_text().splitlines()]


def test_every_epoch_is_a_line_of_json(trained):
    first, second = records(trained)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert {
        "train_loss",
        "val_loss",
        "mean_fg_dice",
        "ema_fg_dice",
        "learning_rate",
        "backbone_learning_rate",
        "seconds",
        "waiting_seconds",
    } <= set(first)
    assert {name for name in first if name.startswith("dice/")} == {"dice/large", "dice/middle", "dice/small"}
    assert first["train_loss"] == load_checkpoint(trained / FINAL).state.history["train_loss"][0]
    assert second["learning_rate"] == 2 * second["backbone_learning_rate"]
    assert json.loads((trained / "debug.json").read_text())["device"] == "cpu"


def test_half_a_line_of_a_killed_process_is_dropped(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"epoch": 1, "seconds": 2.5}\n{"epoch": 2, "seconds": 3}\n{"epoch": 3, "sec')
    log = TrainingLog(tmp_path, {"train_loss": (0.5,)})
    assert records(tmp_path) == [{"epoch": 1, "seconds": 2.5}]
    assert log.times["seconds"] == [2.5] and math.isnan(log.times["waiting_seconds"][0])


def test_one_epoch_and_many_classes_can_be_drawn():
    values = {
        "train_loss": [0.5],
        "val_loss": [math.nan],
        "mean_fg_dice": [0.1],
        "ema_fg_dice": [0.1],
        "learning_rate": [1e-3],
    }
    values |= {f"dice/{index}": [0.1] for index in range(30)}
    assert draw_training(values, {}, {}).startswith(b"\x89PNG")


def test_the_average_of_weights_is_the_written_out_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).requires_grad_(False))
    average, expected = WeightAverage(model, 0.9), model[0].weight.detach().clone()
    assert set(average.averages) == {"0.weight", "0.bias"}
    for step in range(100):
        with torch.no_grad():
            model[0].weight += torch.randn(2, 3)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    torch.testing.assert_close(average.averages["0.weight"], expected)
    own = model[0].weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model[0].weight.detach(), expected)
    assert torch.equal(model[0].weight, own)


def test_the_average_predicts(project, tmp_path):
    fold = project.train(results=tmp_path, config={"ema": 0.9}, validate=False)
    stored = load_checkpoint(fold / FINAL)
    assert stored.average and any(not torch.equal(stored.average[name], stored.model[name]) for name in stored.average)
    network = load_predictor(fold.parent, device="cpu").networks[0].state_dict()
    assert all(torch.equal(network[name], stored.average[name]) for name in stored.average)


def test_whole_cases_choose_the_best_checkpoint(project, tmp_path, monkeypatch):
    scores = iter([0.3, 0.9, 0.5])
    monkeypatch.setattr("samunet.pipeline.run.mean_dice", lambda *_: next(scores))
    fold = project.train(results=tmp_path, config={"epochs": 3, "whole_cases": 1}, validate=False)
    assert [record["whole_dice"] for record in records(fold)] == [0.3, 0.9, 0.5]
    assert load_checkpoint(fold / "checkpoint_best.safetensors").state.epoch == 2


def test_the_dice_of_whole_cases_is_that_of_the_prediction(project, trained):
    predictor = load_predictor(trained.parent, device="cpu")
    network, configuration = predictor.networks[0], predictor.configuration
    cases = PreprocessedDataset(
        project.workspace.preprocessed / project.dataset / "samunetPlans_3d", ("tiny_000", "tiny_001")
    )
    labels = predictor.dataset.labels
    found = mean_dice(network, cases, labels, configuration.patch_size, torch.device("cpu"), None)
    predictor = replace(predictor, options=PredictionOptions(flips=False))
    by_class: dict[str, list[float]] = {}
    for name in cases.identifiers:
        image, label = cases.cut(name, (0, 0, 0), cases.shape(name))
        predicted = predictor.scores(types.SimpleNamespace(image=image)).logits.numpy().argmax(0)
        for key, values in labels.foreground:
            mask, wanted = np.isin(predicted, values), np.isin(label, values)
            if mask.any() or wanted.any():
                by_class.setdefault(key, []).append(2 * (mask & wanted).sum() / (mask.sum() + wanted.sum()))
    assert found == pytest.approx(np.mean([np.mean(values) for values in by_class.values()]), abs=0.01)


def test_patience_and_stop_epoch_end_early_and_the_schedule_stays(project, tmp_path, monkeypatch):
    fold = project.train(results=tmp_path, config={"epochs": 9, "iterations": 2, "stop_epoch": 1}, validate=False)
    assert load_checkpoint(fold / FINAL).state.step == 2
    expected = 1e-3 * rate_factor(1, 18, warmup=0.05, power=0.9)
    assert records(fold)[0]["learning_rate"] == pytest.approx(expected)
    dice = iter([0.5, 0.6, 0.1, 0.1, 0.1, 0.1, 0.1])
    monkeypatch.setattr("samunet.pipeline.run.mean_dice", lambda *_: next(dice))
    fold = project.train(
        results=tmp_path,
        config={"epochs": 9, "iterations": 1, "patience": 2, "whole_cases": 1},
        validate=False,
        overwrite=True,
    )
    assert load_checkpoint(fold / FINAL).state.epoch == 4
    assert "No better Dice for 2 epochs; training ends after epoch 4" in (fold / "training_log.txt").read_text()


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_no_number_reaches_no_weight(project, tmp_path, monkeypatch, kind):
    real, steps = trainer_module.backward, []

    def spoiled(network, parts, **options):
        loss = real(network, parts, **options)
        steps.append(loss)
        if len(steps) == 6:  # the last step, of two epochs of three
            if kind == "loss":
                return loss * math.nan
            next(parameter for parameter in network.parameters() if parameter.grad is not None).grad.view(-1)[0] = (
                math.nan
            )
        return loss

    monkeypatch.setattr(trainer_module, "backward", spoiled)
    what = r"loss became nan" if kind == "loss" else r"gradient's norm became nan"
    with pytest.raises(
        SamunetError,
        match=rf"{what} in step 5 \(epoch 2\), on cases tiny_00\d, tiny_00\d; its batch is in .*not_finite_step_5",
    ):
        project.train(results=tmp_path, validate=False, run=RunConfig(save_every_steps=1))
    fold = next(tmp_path.glob("*/*/fold_0"))
    batch = load_file(fold / "not_finite_step_5.safetensors")
    assert batch["image"].shape[0] == 2 and batch["label"].shape == (2, *batch["image"].shape[2:])
    stored = load_checkpoint(fold / "checkpoint_latest.safetensors")
    assert stored.state.step == 5 and all(torch.isfinite(tensor).all() for tensor in stored.model.values())
    assert not (fold / FINAL).exists()


def test_an_infinite_value_does_not_spoil_the_checkpoint(tmp_path):
    log = TrainingLog(tmp_path)
    log.epoch(
        {"train_loss": 0.5, "val_loss": math.inf, "mean_fg_dice": math.nan, "ema_fg_dice": 0.0, "learning_rate": 1e-3},
        {"seconds": 1.0},
    )
    assert log.history["val_loss"] == (None,) and records(tmp_path)[0]["val_loss"] is None


def test_a_log_that_fails_does_not_end_the_training(project, tmp_path, monkeypatch):
    class Failing:
        def __init__(self, folder):
            pass

        def add_scalar(self, *value):
            raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Failing))
    fold = project.train(results=tmp_path, config=SHORT, validate=False, run=RunConfig(log="tensorboard"))
    assert (fold / FINAL).is_file() and "Logging to TensorBoard ends: no network" in (
        fold / "training_log.txt"
    ).read_text()


def test_an_extension_trains_although_patience_had_run_out(project, tmp_path, monkeypatch):
    dice = iter([0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1])
    monkeypatch.setattr("samunet.pipeline.run.mean_dice", lambda *_: next(dice))
    options = {"results": tmp_path, "validate": False}
    settings = {"epochs": 5, "iterations": 1, "patience": 2, "whole_cases": 1}
    fold = project.train(config=settings, **options)
    assert load_checkpoint(fold / FINAL).state.epoch == 3
    workspace = type(project.workspace)(**{**vars(project.workspace), "results_folder": tmp_path})
    chosen = pipeline.TrainOptions(
        configuration="3d_adapter", fold="0", device="cpu", resume=True, extend=4, validate=False
    )
    pipeline.train(workspace, project.dataset, {}, chosen)
    assert load_checkpoint(fold / FINAL).state.epoch == 5


def test_an_extension_that_is_stopped_keeps_its_patience(project, tmp_path, monkeypatch):
    dice = iter([0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1])
    given = {"results": tmp_path, "validate": False}
    settings = {"epochs": 5, "iterations": 1, "patience": 2, "whole_cases": 1}
    monkeypatch.setattr("samunet.pipeline.run.mean_dice", lambda *_: next(dice))
    fold = project.train(config=settings, **given)
    before = SAMTrainer._finish_epoch

    def stopped(self, *arguments):
        before(self, *arguments)
        (self.run.folder / "stop").touch()

    with monkeypatch.context() as patch:
        patch.setattr(SAMTrainer, "_finish_epoch", stopped)
        project.train(config=settings, **given, resume=True, extend=4)
    stops = load_checkpoint(fold / "checkpoint_latest.safetensors").state
    assert stops.patient_from == 3 and stops.epoch == 4
    project.train(config={**settings, "epochs": 9}, **given, resume=True)
    assert load_checkpoint(fold / FINAL).state.epoch == 5


def test_a_class_that_is_nowhere_does_not_spoil_the_mean(project, tmp_path, monkeypatch):
    validate = SAMTrainer._validate

    def one_is_missing(self):
        loss, dice = validate(self)
        return loss, [math.nan, *dice[1:]]

    monkeypatch.setattr(SAMTrainer, "_validate", one_is_missing)
    fold = project.train(results=tmp_path, config=SHORT, validate=False)
    record = records(fold)[0]
    assert record["dice/large"] is None and record["mean_fg_dice"] == pytest.approx(
        (record["dice/middle"] + record["dice/small"]) / 2
    )


def test_training_starts_from_what_fits_of_other_weights(project, trained, tmp_path, monkeypatch):
    fold = project.train(results=tmp_path, config=SHORT, validate=False, pretrained=trained / FINAL)
    assert "Started from" in (log := (fold / "training_log.txt").read_text()) and "of another shape" not in log
    # A network for two classes more takes everything but its outputs.
    predictor = load_predictor(trained.parent, device="cpu")
    spec = predictor.dataset.labels
    more = type(spec)(values=(*spec.values, ("extra", (8,)), ("more", (9,))), ignore=None)
    from samunet.checkpoints.file import load_fitting

    network = build_network(predictor.plan, predictor.configuration, more)
    report = load_fitting(network, load_checkpoint(trained / FINAL).weights, trained / FINAL, pretrained=False)
    assert "of another shape (head.class_tokens.weight" in report
    stored = load_checkpoint(trained / FINAL).model
    assert torch.equal(network.state_dict()["convolutions.stages.0.0.weight"], stored["convolutions.stages.0.0.weight"])
    with pytest.raises(CheckpointError, match="No weight of .* fits this network"):
        load_fitting(nn.Linear(2, 2), stored, trained / FINAL, pretrained=False)


def test_training_starts_from_the_seed_that_comes_with_samunet(project, tmp_path):
    plan = pipeline.open_plan(project.workspace, project.dataset, "samunetPlans")
    entry = plan.configuration("3d_adapter")
    widths = (24, 48, 96, 192, 192)[: len(entry.topology.widths)]  # the seed's
    wide = replace(entry, topology=replace(entry.topology, widths=widths), variant_options={"sam_path": False})
    path = pipeline.plan_path(project.workspace, plan.dataset, "samunetPlans_wide")
    save_plan(path, replace(plan, plans_name=path.stem, configurations={"3d_adapter": wide}))
    fold = project.train(results=tmp_path, config=SHORT, validate=False, pretrained=Path("seed"), plans_name=path.stem)
    path.unlink()
    log = (fold / "training_log.txt").read_text()
    found = re.search(r"Started from weights of \S+seed_.d.safetensors: (\d+) of", log)
    taken = [name for name in load_file(fold / FINAL) if re.match(r"model\.(convolutions|decoder)\.", name)]
    assert int(found[1]) == len(taken) > 20  # all but the outputs, which are those of other classes


def test_a_network_narrower_than_the_seed_is_refused(project, tmp_path):
    with pytest.raises(CheckpointError, match="No weight of .* fits this network; .* no more features in a stage"):
        project.train(results=tmp_path, config=SHORT, validate=False, pretrained=Path("seed"))


def test_several_seeds_report_mean_and_spread(project, trained, tmp_path, monkeypatch):
    workspace = type(project.workspace)(**{**vars(project.workspace), "results_folder": tmp_path})
    settings = {"epochs": 1, "iterations": 2, "batch_size": 2, "workers": 0, "precision": "fp32"}
    options = pipeline.TrainOptions(configuration="3d_adapter", fold="0", device="cpu")
    report = json.loads(pipeline.train_seeds(workspace, project.dataset, settings, options, 2).read_text())
    model = next(tmp_path.glob("*/SAMTrainer__*"))
    assert sorted(path.name for path in model.glob("fold_*")) == ["fold_0", "fold_0_seed_1", "fold_0_seeds.json"]
    each = [
        json.loads((model / fold / "validation/summary.json").read_text())["foreground_mean"]["Dice"]
        for fold in ("fold_0", "fold_0_seed_1")
    ]
    found = report["dice"]["foreground_mean"]
    assert report["seeds"] == [0, 1] and found["each"] == each
    assert found["mean"] == pytest.approx(np.mean(each)) and found["standard_deviation"] == pytest.approx(
        np.std(each, ddof=1)
    )
    assert load_predictor(model, device="cpu").folds == ("0",)  # the other seed is no fold
    before = (model / "fold_0" / FINAL).stat().st_mtime_ns
    assert pipeline.train_seeds(
        workspace, project.dataset, settings, replace(options, validate_best=True), 2
    )  # from checkpoint_best
    assert (model / "fold_0" / FINAL).stat().st_mtime_ns == before and (model / "fold_0" / "validation_best").is_dir()
    with pytest.raises(CheckpointError, match=r"other settings: epochs 1 \(now 2\)"):
        pipeline.train_seeds(workspace, project.dataset, {**settings, "epochs": 2}, options, 2)
    stopping = replace(options, run=RunConfig(max_hours=1e-6))
    assert pipeline.train_seeds(workspace, project.dataset, settings, stopping, 3) is None
    left = []
    monkeypatch.setattr("samunet.pipeline.training.train", lambda *given: left.append(given[-1].run.max_hours))
    for now in (900.0, 3600.0):  # of an hour for all seeds together; after it no other one begins
        clock = iter((0.0, now))
        monkeypatch.setattr(
            "samunet.pipeline.training.time", types.SimpleNamespace(monotonic=lambda clock=clock: next(clock))
        )
        hour = replace(options, run=RunConfig(max_hours=1.0))
        assert pipeline.train_seeds(workspace, project.dataset, settings, hour, 4) is None
        assert left == [0.75]


def test_other_logs_get_every_epoch_and_are_asked_for_before_anything_is_removed(
    project, trained, tmp_path, monkeypatch
):
    made = []

    class Writer:
        def __init__(self, folder):
            self.folder, self.values, self.closed = folder, [], False
            made.append(self)

        def add_scalar(self, *value):
            self.values.append(value)

        def close(self):
            self.closed = True

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    fold = project.train(results=tmp_path, config=SHORT, validate=False, run=RunConfig(log="tensorboard"))
    assert made[0].folder == str(fold / "tensorboard") and made[0].closed
    assert ("train_loss", records(fold)[0]["train_loss"], 1) in made[0].values
    before = {path.name: path.read_bytes() for path in fold.glob("*.*")}
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(
        ConfigError, match="--log mlflow needs the package mlflow, which is not installed.*pip install mlflow"
    ):
        project.train(
            results=tmp_path, config=SHORT, validate=False, overwrite=True, run=RunConfig(log="tensorboard, mlflow")
        )
    assert {path.name: path.read_bytes() for path in fold.glob("*.*")} == before
    with pytest.raises(ConfigError, match="no log 'tensorbord'. Did you mean 'tensorboard'"):
        RunConfig(log="tensorbord")


def test_ma_sams_recipe_is_the_published_one():
    config = TrainingConfig(**PRESETS["ma_sam"])
    assert (config.batch_size, config.epochs, config.last_epoch, config.learning_rate, config.weight_decay) == (
        24,
        400,
        300,
        8e-4,
        0.1,
    )
    # Their formula, which divides by all 400 x 126 steps, the warm-up included.
    for step in (126, 250, 2520, 10080, 20160):
        theirs = 8e-4 * (step + 1) / 250 if step < 250 else 8e-4 * (1 - (step - 250) / (400 * 126)) ** 7
        found = 8e-4 * rate_factor(step, config.steps, warmup=config.warmup, power=config.decay_power)
        assert found == pytest.approx(theirs, rel=0.025)
    assert round(config.steps * config.warmup) == 250


def test_weights_biases_and_norms_decay_as_asked(project, trained):
    predictor = load_predictor(trained.parent, device="cpu")
    network = build_network(predictor.plan, predictor.configuration, predictor.dataset.labels)
    for everything in (False, True):
        groups = make_optimizer(network, TrainingConfig(decay_all=everything, weight_decay=0.1)).param_groups
        decays = {parameter.ndim > 1: group["weight_decay"] for group in groups for parameter in group["params"]}
        assert decays == {True: 0.1, False: 0.1 if everything else 0.0}


@pytest.mark.slow
def test_a_compiled_network_trains_alike(project, trained, tmp_path):
    fold = project.train(results=tmp_path, config={"compile": True}, validate=False)
    plain, compiled = (load_checkpoint(path / FINAL).state.history["train_loss"] for path in (trained, fold))
    assert compiled == pytest.approx(plain, rel=1e-3)
