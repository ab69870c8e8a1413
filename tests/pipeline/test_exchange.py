"""A fold of MA-SAM leaves as the authors' file and comes back with the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from samples import planned_with_weights

from samunet import pipeline
from samunet.checkpoints.file import load_checkpoint
from samunet.cli import ma_sam as command
from samunet.core.plan import load_plan, save_plan
from samunet.core.results import model_folder
from samunet.errors import ConfigError
from samunet.inference.load import load_predictor
from samunet.inference.predictor import PredictionOptions
from samunet.pipeline import exchange
from samunet.training.config import TrainingConfig

NAME = "Dataset905_Exchange"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workspace, dataset, _, plan = planned_with_weights(
        tmp_path_factory.mktemp("exchange"), NAME, size=(6, 40, 32), side=256
    )
    plan = pipeline.resolve(workspace, plan, "3d_ma_sam")
    entry = replace(
        plan.configuration("3d_ma_sam"), variant_options={"pixel_range": "unit"}
    )  # as the authors' weights want it
    plan = replace(plan, configurations={**plan.configurations, "3d_ma_sam": entry})
    save_plan(pipeline.plan_path(workspace, NAME, "samunetPlans"), plan)
    pipeline.preprocess(workspace, dataset, plan, "3d_ma_sam", threads=1, quiet=True)
    config = TrainingConfig(epochs=1, iterations=2, batch_size=2, workers=0, precision="fp32")
    pipeline.train(
        workspace,
        NAME,
        config,
        pipeline.TrainOptions(configuration="3d_ma_sam", fold="0", device="cpu", validate=False),
    )
    return workspace, dataset


def test_a_slab_has_the_published_five_slices(trained):
    workspace, _ = trained
    plan = pipeline.resolve(workspace, pipeline.open_plan(workspace, NAME, "samunetPlans"), "3d_ma_sam")
    assert plan.configuration("3d_ma_sam").patch_size[0] == 5
    assert "ma_sam asks for 5" in plan.reasons["3d_ma_sam: slab depth"]


def test_a_fold_leaves_and_comes_back(trained, tmp_path, monkeypatch, capsys):
    workspace, dataset = trained
    for name, folder in (
        ("raw", workspace.raw),
        ("preprocessed", workspace.preprocessed),
        ("results", workspace.results),
    ):
        monkeypatch.setenv(f"nnUNet_{name}", str(folder))
    file = tmp_path / "authors.pth"
    assert command.main(["export", str(file), "-d", "905", "-f", "0"]) == 0
    assert all(isinstance(tensor, torch.Tensor) for tensor in torch.load(file, weights_only=True).values())
    assert command.main(["import", str(file), "-d", "905", "-f", "all"]) == 0
    model = model_folder(workspace, NAME, "samunetPlans", "3d_ma_sam")
    first, second = (load_checkpoint(model / f"fold_{fold}" / "checkpoint_final.safetensors") for fold in ("0", "all"))
    assert first.model.keys() == second.model.keys() and all(
        torch.equal(first.model[name], second.model[name]) for name in first.model
    )
    case = load_predictor(model, folds=["all"], device="cpu", options=PredictionOptions(flips=False, quiet=True))
    assert case.folds == ("all",)
    capsys.readouterr()
    assert command.main(["import", str(file), "-d", "905", "-f", "all"]) == 2
    assert "exists already" in capsys.readouterr().err
    plans = model / "plans.json"
    assert load_plan(plans).configuration("3d_ma_sam").variant_options == {"pixel_range": "unit"}
    kept = plans.read_text()
    plans.write_text(kept.replace('"unit"', '"sam"'))
    assert command.main(["import", str(file), "-d", "905", "-f", "2"]) == 2
    assert "which was trained by another plan: " in capsys.readouterr().err
    plans.write_text(kept)
    assert command.main(["import", str(tmp_path / "absent.pth"), "-d", "905", "-f", "1"]) == 4
    assert not (model / "fold_1").exists()
    assert command.main(["export", str(file), "-d", "905", "-f", "3"]) == 2
    assert "train first" in capsys.readouterr().err


def test_another_method_is_refused(trained, tmp_path):
    workspace, _ = trained
    with pytest.raises(ConfigError, match="fit the method ma_sam only; the configuration has sam_unet"):
        exchange.import_checkpoint(
            workspace,
            NAME,
            tmp_path / "x.pth",
            exchange.MA_SAM,
            configuration="3d_adapter",
            plans_name="samunetPlans",
            fold="0",
        )
