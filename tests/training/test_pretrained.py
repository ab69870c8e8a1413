"""Planning, training and prediction around frozen weights in the official layout."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from samples import narrow, planned_with_weights

from samunet import pipeline
from samunet.checkpoints.file import load_checkpoint
from samunet.checkpoints.model_zip import export_model, install_model
from samunet.core.codec import file_sha256, write_json
from samunet.core.workspace import Workspace
from samunet.errors import CheckpointError, ConfigError, DatasetError, WeightsAbsentError
from samunet.inference.load import load_predictor
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.training.config import TrainingConfig

SHORT = {"epochs": 1, "iterations": 1, "batch_size": 2, "workers": 0, "precision": "fp32"}


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """A dataset planned with a random checkpoint of the smallest backbone at SAM's own 1024 pixels, and one trained
    fold.
    """
    root, asked = tmp_path_factory.mktemp("pretrained"), {"spacing": (3.0, 1.5, 1.5), "memory_gib": 2.0}
    workspace, dataset, weights, plan = planned_with_weights(
        root, "Dataset904_Pretrained", size=(6, 48, 40), side=1024, **asked
    )
    pipeline.preprocess(workspace, dataset, plan, "3d_adapter", threads=1, quiet=True)
    fold = train(workspace)
    return workspace, dataset, weights, fold


def train(workspace: Workspace, **options) -> Path:
    chosen = pipeline.TrainOptions(**{"configuration": "3d_adapter", "fold": "0", "device": "cpu", **options})
    return pipeline.train(workspace, "Dataset904_Pretrained", TrainingConfig(**SHORT), chosen)


def test_the_checkpoint_names_the_frozen_weights_and_holds_none_of_them(setup):
    _, _, weights, fold = setup
    checkpoint = load_checkpoint(fold / "checkpoint_final.safetensors")
    assert checkpoint.state.weights_sha256 == file_sha256(weights)
    assert not any(name.startswith("sam.backbone.") for name in checkpoint.model)
    assert any("factors" in name for name in checkpoint.model)  # low-rank updates of the frozen q and v
    assert " M are frozen" in (fold / "training_log.txt").read_text()


def test_other_weights_or_none_at_the_path_are_refused_at_prediction(setup):
    _, _, weights, fold = setup
    kept = weights.read_bytes()
    try:
        torch.manual_seed(2)
        torch.save(build_sam(backbone_named("vit_nano"), (1024, 1024)).state_dict(), weights)
        with pytest.raises(CheckpointError, match="is not the one that the plan was made with"):
            load_predictor(fold.parent, device="cpu")
        weights.unlink()
        with pytest.raises(WeightsAbsentError, match=r"sam_vit_nano.pth does not exist"):
            load_predictor(fold.parent, device="cpu")
        moved = weights.parent / "moved"
        moved.mkdir()
        (moved / weights.name).write_bytes(kept)
        assert load_predictor(fold.parent, device="cpu", weights_folders=(moved,)).folds == ("0",)
    finally:
        weights.write_bytes(kept)
    assert load_predictor(fold.parent, device="cpu").folds == ("0",)


def test_a_configuration_made_on_demand_follows_the_options_of_the_plan(setup):
    workspace, *_ = setup
    saved = pipeline.open_plan(workspace, "Dataset904_Pretrained", "samunetPlans")
    extended = pipeline.resolve(workspace, saved, "3d_sam_unet")
    assert narrow(extended).configuration("3d_sam_unet") == saved.configuration("3d_adapter")
    assert extended.configuration("3d_sam_unet").spacing == (3.0, 1.5, 1.5)
    assert extended.reasons["spacing"] == saved.reasons["spacing"]


@contextmanager
def edited(path: Path, old: str, new: str):
    """Replace text in a file for a while."""
    kept = path.read_text()
    assert old in kept
    path.write_text(kept.replace(old, new))
    yield
    path.write_text(kept)


def test_continuing_under_a_changed_plan_is_refused(setup):
    workspace, *_ = setup
    path = pipeline.plan_path(workspace, "Dataset904_Pretrained", "samunetPlans")
    with (
        edited(path, '"batch_size": 2', '"batch_size": 3'),
        pytest.raises(CheckpointError, match="plan: configuration 3d_adapter changed"),
    ):
        train(workspace, resume=True)


def test_a_fold_of_another_plan_or_other_labels_is_not_put_beside_trained_ones(setup):
    workspace, dataset, _, fold = setup
    path, kept = (
        pipeline.plan_path(workspace, dataset.spec.name, "samunetPlans"),
        (fold.parent / "plans.json").read_text(),
    )
    message = "holds fold_0, which was trained by another plan: configuration 3d_adapter changed since"
    with edited(path, '"batch_size": 2', '"batch_size": 3'), pytest.raises(CheckpointError, match=message):
        train(workspace, fold="1")
    with (
        edited(fold.parent / "dataset.json", "small", "tiny"),
        pytest.raises(CheckpointError, match="by another plan: labels changed since"),
    ):
        train(workspace, fold="1")
    assert (fold.parent / "plans.json").read_text() == kept and not (fold.parent / "fold_1").exists()


def test_cases_that_another_plan_made_are_not_trained_on(setup):
    workspace, dataset, *_ = setup
    path = pipeline.plan_path(workspace, dataset.spec.name, "samunetPlans")
    message = (
        "were preprocessed by another plan or an earlier version, first 'tiny_000'. Run first: samunet_preprocess -d "
        "Dataset904"
    )
    with (
        edited(path, "        3.0,\n        1.5,", "        3.0,\n        1.25,"),
        pytest.raises(DatasetError, match=message),
    ):
        train(workspace, fold="1")


def test_a_training_that_keeps_nothing_removes_nothing(setup):
    workspace, _, _, fold = setup
    before = {path: path.stat().st_mtime_ns for path in fold.iterdir()}
    with pytest.raises(
        CheckpointError, match="holds a trained fold, which a training without checkpoints would remove"
    ):
        train(workspace, save_checkpoints=False, validate=False)
    assert before == {path: path.stat().st_mtime_ns for path in fold.iterdir()}
    other = train(workspace, fold="2", save_checkpoints=False, validate=False)
    assert not list(other.glob("checkpoint_*"))


def test_a_configuration_is_not_added_to_a_plan_of_other_data(setup):
    workspace, dataset, *_ = setup
    saved = pipeline.open_plan(workspace, dataset.spec.name, "samunetPlans")
    with pytest.raises(
        ConfigError, match="lacks '3d_sam_unet' and was made from other data than are there now. Plan again"
    ):
        pipeline.resolve(workspace, replace(saved, transpose=(2, 0, 1)), "3d_sam_unet")


def test_a_patch_that_the_strides_do_not_divide_is_refused(setup):
    workspace, dataset, *_ = setup
    plan = pipeline.open_plan(workspace, dataset.spec.name, "samunetPlans")
    depth, height, width = plan.configuration("3d_adapter").patch_size
    path = pipeline.plan_path(workspace, dataset.spec.name, "samunetPlans_edited")
    text = pipeline.plan_path(workspace, dataset.spec.name, "samunetPlans").read_text()
    path.write_text(text.replace(f"        {height},\n        {width}\n", f"        {height + 1},\n        {width}\n"))
    with pytest.raises(ConfigError, match="must be a multiple of"):
        train(workspace, plans_name="samunetPlans_edited")


def test_plan_names_cannot_take_the_place_of_nnunets_files():
    for name in ("nnUNetPlans", "dataset", "samunet__x", "samunet/x"):
        with pytest.raises(ConfigError, match="must start with 'samunet'"):
            pipeline.PlanOptions(plans_name=name)


def test_a_changed_file_makes_the_fingerprint_anew(setup, caplog):
    workspace, dataset, *_ = setup
    with caplog.at_level("INFO", logger="samunet"):
        pipeline.extract(workspace, dataset, threads=1, clean=False, quiet=True)
        assert "Using the fingerprint" in caplog.text
        image = dataset.cases[0].images[0]
        kept = image.read_bytes()
        try:
            image.write_bytes(dataset.cases[1].images[0].read_bytes())
            image_label = dataset.cases[0].label
            label_kept = image_label.read_bytes()
            image_label.write_bytes(dataset.cases[1].label.read_bytes())
            pipeline.extract(workspace, dataset, threads=1, clean=False, quiet=True)
            assert "The dataset has changed" in caplog.text
        finally:
            image.write_bytes(kept)
            image_label.write_bytes(label_kept)
            pipeline.extract(workspace, dataset, threads=1, clean=True, quiet=True)


def test_splits_of_the_raw_folder_are_followed(setup, tmp_path):
    from samunet.planning.splits import split_for_fold

    names = ("a", "b", "c")
    (tmp_path / "raw").mkdir()
    write_json(tmp_path / "raw" / "splits_final.json", [{"train": ["a"], "val": ["b", "c"]}])
    split = split_for_fold(tmp_path / "preprocessed", names, "0", raw_folder=tmp_path / "raw")
    assert (split.train, split.val) == (("a",), ("b", "c"))
    assert (tmp_path / "preprocessed" / "splits_final.json").is_file()


def test_a_packed_model_brings_its_frozen_weights_when_asked_to(setup, tmp_path):
    _, _, weights, fold = setup
    options = {"folds": None, "checkpoint": "checkpoint_final", "license_text": "MIT", "weights_folders": ()}
    elsewhere = Workspace(
        raw_folder=None,
        preprocessed_folder=None,
        results_folder=tmp_path / "results",
        weights_folders=(tmp_path / "weights",),
    )
    for name, embed in (("without.zip", False), ("with.zip", True)):
        export_model(fold.parent, tmp_path / name, embed=embed, **options)
    folder = install_model(tmp_path / "without.zip", elsewhere, overwrite=False)
    with pytest.raises(WeightsAbsentError, match=f"looked for {weights.name} in {tmp_path / 'weights'}"):
        load_predictor(folder, device="cpu", weights_folders=elsewhere.weights_folders)
    folder = install_model(tmp_path / "with.zip", elsewhere, overwrite=True)
    assert file_sha256(tmp_path / "weights" / weights.name) == file_sha256(weights)
    theirs = load_predictor(folder, device="cpu", weights_folders=elsewhere.weights_folders)
    ours = load_predictor(fold.parent, device="cpu")
    for name, tensor in ours.networks[0].state_dict().items():
        assert torch.equal(tensor, theirs.networks[0].state_dict()[name]), name
    assert str(weights.parent).encode() not in (folder / "plans.json").read_bytes()
