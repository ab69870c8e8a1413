"""Pretraining goes on where it stopped, to the byte, and leaves weights with a card."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from samunet.checkpoints.file import load_checkpoint, save_checkpoint
from samunet.cli.pretrain import main
from samunet.core.codec import write_json
from samunet.errors import CheckpointError, ConfigError
from samunet.pipeline.pretraining import CARD, SEED_WEIGHTS, PretrainOptions, plan_of, pretrain
from samunet.pretraining.recipe import Recipe
from samunet.sam.weights import read_tensors
from samunet.training.config import RunConfig

SMALL = {"side": 32, "width": 4, "stages": 3}
LEARNING = {"minutes": 0.0, "epochs": 2, "iterations": 3, "batch_size": 2, "workers": 0, "precision": "fp32"}


def options(folder, **changes) -> PretrainOptions:
    return PretrainOptions(**{"folder": folder, "recipe": SMALL, "learning": LEARNING, "device": "cpu"} | changes)


def test_a_pretraining_that_was_stopped_goes_on_with_its_settings_to_the_same_bytes(tmp_path):
    whole, stopped = pretrain(options(tmp_path / "whole")), tmp_path / "stopped"
    assert pretrain(options(stopped, run=RunConfig(max_hours=1e-9))) is None
    with pytest.raises(CheckpointError, match=r"pretrained with side 32 \(now 64\)"):
        pretrain(options(stopped, recipe={"side": 64}, resume=True))
    with pytest.raises(CheckpointError, match=r"learning_rate 0.001 \(now 0.1\)"):
        pretrain(options(stopped, recipe={}, learning={"learning_rate": 0.1}, resume=True))
    on = pretrain(options(stopped, recipe={}, learning={}, resume=True))
    assert on.read_bytes() == whole.read_bytes()
    assert (stopped / CARD).read_bytes() == (tmp_path / "whole" / CARD).read_bytes()
    with pytest.raises(ConfigError, match="is trained; --c writes its weights again, --overwrite trains it again"):
        pretrain(options(stopped))
    with pytest.raises(CheckpointError, match="epochs 2 .now 3.. Continue with the same settings"):
        pretrain(options(stopped, learning={"epochs": 3}, resume=True))


def killed_before_its_first_checkpoint(given, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("samunet.pipeline.pretraining.assemble", killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(given)


def test_weights_keep_their_recipe_whatever_was_begun_since(tmp_path, monkeypatch):
    first = pretrain(options(tmp_path)).read_bytes()
    killed_before_its_first_checkpoint(options(tmp_path, recipe=SMALL | {"side": 64}, overwrite=True), monkeypatch)
    assert pretrain(options(tmp_path, recipe={}, learning={}, resume=True)).read_bytes() == first
    assert json.loads((tmp_path / CARD).read_text(encoding="utf-8"))["recipe"]["side"] == 32


def test_what_was_killed_before_its_first_checkpoint_goes_on_with_its_settings(tmp_path, monkeypatch):
    whole, early = pretrain(options(tmp_path / "whole")), tmp_path / "early"
    killed_before_its_first_checkpoint(options(early), monkeypatch)
    with pytest.raises(CheckpointError, match=r"pretrained with side 32 \(now 64\)"):
        pretrain(options(early, recipe={"side": 64}, resume=True))
    assert pretrain(options(early, recipe={}, learning={}, resume=True)).read_bytes() == whole.read_bytes()


def test_a_pretraining_begins_with_another_seed_and_says_so_in_its_log(tmp_path, monkeypatch):
    first = pretrain(options(tmp_path / "first"))
    second = tmp_path / "second"
    killed_before_its_first_checkpoint(options(second, start=first), monkeypatch)
    with pytest.raises(ConfigError, match="leave it out with --c"):
        pretrain(options(second, start=first, resume=True))
    assert pretrain(options(second, recipe={}, learning={}, resume=True)) is not None
    logged = "".join(path.read_text(encoding="utf-8") for path in (second / "fold_all").glob("*.txt"))
    assert f"Started from weights of {first}" in logged


def test_folders_of_earlier_versions_are_refused(tmp_path):
    folder = pretrain(options(tmp_path)).parent / "fold_all"
    stored = load_checkpoint(folder / "checkpoint_final.safetensors")
    save_checkpoint(folder / "checkpoint_final.safetensors", replace(stored, state=replace(stored.state, recipe={})))
    with pytest.raises(CheckpointError, match="was pretrained by an earlier version"):
        pretrain(options(tmp_path, recipe={}, learning={}, resume=True))
    (tmp_path / "old").mkdir()
    write_json(tmp_path / "old" / "recipe.json", Recipe())
    with pytest.raises(CheckpointError, match="recipe.json is of an earlier version"):
        pretrain(options(tmp_path / "old", resume=True))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokens": True}, "needs SAM's decoder"),
        ({"side": 100}, "must be a multiple of 16"),
        ({"side": 32, "stages": 6}, "for 6 stages and 128 at least"),
        ({"dimensions": 3, "depth": 6}, "a multiple of 4"),
        ({"backbone": "vit_smal"}, "no backbone"),
    ],
)
def test_recipes_that_cannot_be_are_refused_before_anything_is_written(given, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        pretrain(options(tmp_path, recipe=given))
    assert not (tmp_path / "fold_all").exists()


def test_the_command_writes_half_precision_weights_and_says_what_they_are(tmp_path, capsys):
    words = ["--side", "32", "--width", "4", "--stages", "3", "--minutes", "0", "--epochs", "1", "--iterations", "2"]
    words += ["--batch_size", "2", "--workers", "0", "-device", "cpu"]
    assert main(["-o", str(tmp_path), "--precision", "fp32", *words]) == 0
    assert str(tmp_path / SEED_WEIGHTS) in capsys.readouterr().out
    assert {str(tensor.dtype) for tensor in read_tensors(tmp_path / SEED_WEIGHTS).values()} == {"torch.float16"}
    card = json.loads((tmp_path / CARD).read_text(encoding="utf-8"))
    assert card["recipe"]["side"] == 32 and card["steps"] == 2 and "no image of any patient" in card["contains"]
    assert 0 <= card["dice"] <= 1
    assert main(["-o", str(tmp_path), "--c", "--overwrite"]) == 2
    assert "leave out --c, which goes on" in capsys.readouterr().err


def test_slabs_are_pooled_along_depth_late():
    plan = plan_of(Recipe(dimensions=3, depth=8, side=32, stages=4))
    topology = plan.configuration("3d_sam_unet_prompted").topology
    assert [stride[0] for stride in topology.strides] == [1, 1, 2, 2]
    assert set(topology.kernels) == {(3, 3, 3)}
