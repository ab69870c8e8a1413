"""What two commands at once, or a training over a trained fold, must not destroy.

The other command is a process that holds the lock.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest

from samunet import pipeline
from samunet.checkpoints.file import load_checkpoint, save_checkpoint
from samunet.checkpoints.model_zip import export_model, install_model
from samunet.cli import train as train_command
from samunet.core.lock import held, reading
from samunet.core.plan import load_plan, save_plan
from samunet.core.results import BEST
from samunet.errors import CheckpointError, ConfigError, InUseError
from samunet.inference.load import load_predictor
from samunet.pipeline.training import is_finished
from samunet.training.config import RunConfig
from samunet.training.trainer import SAMTrainer

SHORT = {"epochs": 2, "iterations": 2}
FINAL, LATEST = "checkpoint_final.safetensors", "checkpoint_latest.safetensors"
HOLD = """
import sys
from pathlib import Path
from samunet.core.lock import held, reading
with {}(Path(sys.argv[1])):
    print("here", flush=True)
    input()
"""


@contextmanager
def another(folder, how=held):
    """Another process that is in a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(how.__name__), folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    monkeypatch.setitem(held.__wrapped__.__kwdefaults__, "wait", 0.1)


PARTS = ("the split", "the meaning of the labels", "the files of cases", "the plan")


@pytest.fixture(scope="module")
def fold(project, tmp_path_factory):
    """A trained and validated fold, to copy from."""
    return project.train(results=tmp_path_factory.mktemp("accidents"), config=SHORT)


@pytest.fixture
def results(fold, tmp_path):
    """Results with a copy of that fold."""
    shutil.copytree(fold.parents[2], tmp_path / "results")
    return tmp_path / "results"


def in_results(fold, results):
    return results / fold.relative_to(fold.parents[2])


def test_a_finished_fold_is_not_trained_again_unasked(project, fold, results, monkeypatch, capsys):
    mine = in_results(fold, results)
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    for name, value in {**project.environment, "nnUNet_results": str(results)}.items():
        monkeypatch.setenv(name, value)
    assert train_command.main([project.dataset, "3d_adapter", "0", "-device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said == (
        f"samunet_train: {mine} is trained; --c --extend EPOCHS adds epochs, --val validates it, "
        "--overwrite trains it again.\n"
    )
    assert {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()} == before
    assert train_command.main([project.dataset, "3d_adapter", "0", "--overwrite", "--c"]) == 2


def test_with_overwrite_the_old_model_stays_whole_until_the_new_one_is_there(project, fold, results, monkeypatch):
    mine, old = in_results(fold, results), (fold / FINAL).read_bytes()
    other = {**SHORT, "seed": 9}
    finish = SAMTrainer._finish_epoch

    def killed(self, *given):
        finish(self, *given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SAMTrainer, "_finish_epoch", killed)
        project.train(results=results, config=other, overwrite=True)
    assert (mine / FINAL).read_bytes() == old and (mine / "validation" / "summary.json").is_file()
    assert load_checkpoint(mine / LATEST).state.epoch == 1 and not is_finished(mine)
    load_predictor(mine.parent, device="cpu")  # the old model
    with pytest.raises(ConfigError, match="is trained; --c continues the training that was to replace or extend it"):
        project.train(results=results, config=other)
    project.train(results=results, config=other, resume=True, validate=False)
    assert is_finished(mine) and load_checkpoint(mine / FINAL).state.training["seed"] == 9
    assert not (mine / "validation").exists()  # of the old model
    assert (mine / FINAL).read_bytes() == (
        project.train(results=results.with_name("new"), config=other, validate=False) / FINAL
    ).read_bytes()


def test_an_extension_that_is_stopped_leaves_the_finished_model(project, fold, results):
    mine, old = in_results(fold, results), (fold / FINAL).read_bytes()
    given = {"results": results, "resume": True, "validate": False}
    project.train(**given, config=SHORT, extend=1, run=RunConfig(max_hours=1e-6))
    assert (mine / FINAL).read_bytes() == old and load_checkpoint(mine / LATEST).state.training["epochs"] == 3
    project.train(**given, config={**SHORT, "epochs": 3})
    assert load_checkpoint(mine / FINAL).state.epoch == 3 and is_finished(mine)


def test_what_is_begun_over_a_finished_fold_is_what_goes_on(project, fold, results, monkeypatch):
    mine, old = in_results(fold, results), (fold / FINAL).read_bytes()
    step = SAMTrainer._step

    def killed_in_the_second(self, batch):
        if self.state.step:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SAMTrainer, "_step", killed_in_the_second)
        project.train(results=results, config=SHORT, overwrite=True)
    assert (mine / FINAL).read_bytes() == old and not is_finished(mine)
    assert load_checkpoint(mine / LATEST).state.step == 1
    project.train(results=results, config=SHORT, resume=True, validate=False)
    assert (mine / FINAL).read_bytes() == old and is_finished(mine)  # equal trainings, and this one was done


def test_a_finished_fold_of_another_plan_is_not_overwritten(project, fold, results):
    mine = in_results(fold, results)
    plan = load_plan(mine.parent / "plans.json")
    entry = replace(plan.configuration("3d_adapter"), spacing=(9.0, 9.0, 9.0))
    save_plan(mine.parent / "plans.json", replace(plan, configurations={**plan.configurations, "3d_adapter": entry}))
    with pytest.raises(CheckpointError, match="holds fold_0, which was trained by another plan: .* 3d_adapter changed"):
        project.train(results=results, config=SHORT, overwrite=True)
    for name in (FINAL, BEST):
        (mine / name).unlink(missing_ok=True)
    project.train(results=results, config=SHORT, validate=False)


@pytest.mark.parametrize("part", PARTS)
def test_a_training_goes_on_with_the_data_that_it_began_with(project, fold, results, part, monkeypatch):
    mine = in_results(fold, results)
    stored = load_checkpoint(mine / FINAL)
    assert set(stored.state.made_of) == set(PARTS)
    other = replace(stored, state=replace(stored.state, made_of={**stored.state.made_of, part: "0" * 64}))
    save_checkpoint(mine / FINAL, other)
    with pytest.raises(CheckpointError, match=f"was trained on other data: {part} changed since"):
        project.train(results=results, config=SHORT, resume=True, extend=1)


def test_a_training_that_stops_keeps_its_checkpoint_when_it_is_begun_anew(project, tmp_path, caplog, monkeypatch):
    given = {"results": tmp_path, "config": SHORT, "validate": False}
    mine = project.train(**given, run=RunConfig(max_hours=1e-6))
    before = (mine / LATEST).read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SAMTrainer, "_step", killed)
        project.train(**given)
    assert (mine / LATEST).read_bytes() == before
    with caplog.at_level("INFO"):
        project.train(**given)
    assert f"This training replaces the unfinished one in {mine}; --c would continue it." in caplog.text
    assert is_finished(mine)


def test_one_training_a_fold_while_others_train_other_folds(project, tmp_path):
    given = {"results": tmp_path, "config": SHORT, "validate": False}
    folder = tmp_path / project.dataset / "SAMTrainer__samunetPlans__3d_adapter"
    with another(folder / "fold_0"):
        with pytest.raises(InUseError, match=r"fold_0 is in use by '-c .*' \(process \d+ on "):
            project.train(**given)
        assert is_finished(project.train("1", **given))
    assert is_finished(project.train(**given))  # it was killed
    assert not list(folder.rglob(".lock*"))


def test_nobody_plans_or_preprocesses_what_another_trains_on_nor_trains_on_what_is_being_made(project, tmp_path):
    data = project.workspace.preprocessed / project.dataset / "samunetPlans_3d"
    dataset = pipeline.open_dataset(project.workspace, project.dataset)
    plan = pipeline.open_plan(project.workspace, project.dataset, "samunetPlans")
    with another(data, reading), pytest.raises(InUseError, match="samunetPlans_3d is in use by"):
        pipeline.preprocess(project.workspace, dataset, plan, "3d_adapter", threads=1, quiet=True)
    with another(data), pytest.raises(InUseError, match="samunetPlans_3d is in use by"):
        project.train(results=tmp_path)
    before = pipeline.plan_path(project.workspace, project.dataset, "samunetPlans").read_bytes()
    fingerprint = pipeline.extract(project.workspace, dataset, threads=1, clean=False, quiet=True)
    with another(data, reading), pytest.raises(InUseError, match="samunetPlans_3d is in use by"):
        pipeline.plan(project.workspace, dataset, fingerprint, pipeline.PlanOptions(memory_gib=16.0))
    assert pipeline.plan_path(project.workspace, project.dataset, "samunetPlans").read_bytes() == before
    other = pipeline.plan_path(project.workspace, project.dataset, "samunetOther")
    other.write_text('{"of": "an earlier version"}')
    options = pipeline.PlanOptions(memory_gib=1.0, plans_name="samunetOther")
    assert pipeline.plan(project.workspace, dataset, fingerprint, options).plans_name == "samunetOther"
    other.unlink()
    assert (data / "dataset.json").is_file() and not list(tmp_path.iterdir())


def test_predictions_share_a_folder_only_as_parts(project, fold, tmp_path):
    predictor = load_predictor(fold.parent, device="cpu")
    cases = pipeline.cases_to_predict(
        project.workspace.raw / project.dataset / "imagesTs", predictor.dataset, tmp_path / "out"
    )[:1]
    with another(tmp_path / "out"), pytest.raises(InUseError):
        pipeline.predict(predictor, cases, tmp_path / "out")
    with another(tmp_path / "out", reading):  # as another part
        assert pipeline.predict(predictor, cases, tmp_path / "out", share="part 0 of 2").failures == ()
        with pytest.raises(InUseError):
            pipeline.predict(predictor, cases, tmp_path / "out")


def test_a_model_is_not_replaced_while_a_fold_of_it_trains(project, fold, results, tmp_path):
    mine = in_results(fold, results)
    settings = {"folds": None, "checkpoint": FINAL, "license_text": "", "embed": False, "weights_folders": ()}
    export_model(mine.parent, tmp_path / "model.zip", **settings)
    workspace = replace(project.workspace, results_folder=results)
    with another(mine), pytest.raises(InUseError, match="fold_0 is in use by"):
        install_model(tmp_path / "model.zip", workspace, overwrite=True)
    assert (mine / FINAL).is_file()
    install_model(tmp_path / "model.zip", workspace, overwrite=True)
    assert (mine / FINAL).is_file() and not list(results.rglob(".*"))
