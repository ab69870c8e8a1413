"""Plans of other datasets, and files beside ours: what a file says leads to no other folder."""

from __future__ import annotations

import json
import shutil

import pytest
from samples import make_project
from tiny import write_tiny_dataset

from samunet import pipeline
from samunet.cli import plan_experiment, preprocess, train
from samunet.core.dataset import read_dataset_json
from samunet.core.names import MOST_BYTES
from samunet.core.workspace import Workspace
from samunet.errors import ConfigError
from samunet.preprocessing.storage import stored_cases

OWN, OTHER = "Dataset904_Own", "Dataset914_Other"
LONGEST = "x" * MOST_BYTES


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A planned and preprocessed dataset, and one with nothing but raw data."""
    project = make_project(tmp_path_factory.mktemp("p"), name=OWN, cases=2, size=(8, 24, 24))
    write_tiny_dataset(project.workspace.raw, name=OTHER, cases=2, size=(8, 24, 24))
    return project


@pytest.fixture
def both(prepared, tmp_path, monkeypatch):
    """The preprocessed folder of a copy of it."""
    shutil.copytree(prepared.workspace.raw.parent, tmp_path / "w")
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / "w" / name))
    (tmp_path / "w/preprocessed" / OTHER).mkdir()
    return tmp_path / "w/preprocessed"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("said", [OWN, f"../preprocessed/{OWN}", "../../x", "/elsewhere/x", "", "a\0b"], ids=ascii)
def test_a_plan_of_another_dataset_is_refused_and_nothing_is_touched(both, capsys, said):
    victim = both.parent / "x" / "samunetPlans_3d"
    victim.mkdir(parents=True)
    (victim / "precious.json").write_text("{}")
    plan = json.loads((both / OWN / "samunetPlans.json").read_text())
    (both / OTHER / "samunetPlans.json").write_text(json.dumps({**plan, "dataset": said}))
    before = contents(both.parent)
    commands = [(preprocess, ["-d", "914", "-c", "3d_adapter", "--no_pbar"]), (train, ["914", "3d_adapter", "0"])]
    if said == OWN:
        commands.append((plan_experiment, ["-d", "914", "--explain"]))  # which measures the dataset first
    for command, words in commands:
        assert command.main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "bring plans of other datasets over with samunet_move_plans_between_datasets" in line
        if said == OWN:
            assert f"samunetPlans.json is a plan of {OWN}, not of {OTHER}" in line
    after = contents(both.parent)
    after.pop(both / OTHER / "samunet_fingerprint.json", None)
    assert after == before


def test_a_plan_object_of_another_dataset_is_refused_too(both):
    workspace = Workspace(raw_folder=both.parent / "raw", preprocessed_folder=both)
    with pytest.raises(ConfigError, match=f"is a plan of {OWN}, not of {OTHER}"):
        pipeline.preprocess(
            workspace,
            pipeline.open_dataset(workspace, 914),
            pipeline.open_plan(workspace, OWN, "samunetPlans"),
            "3d_adapter",
            threads=1,
        )


def test_a_plan_has_the_name_of_its_file(both):
    workspace = Workspace(raw_folder=both.parent / "raw", preprocessed_folder=both)
    shutil.copyfile(both / OWN / "samunetPlans.json", both / OWN / "samunetPlans_edited.json")
    plan = pipeline.resolve(workspace, pipeline.open_plan(workspace, OWN, "samunetPlans_edited"), "2d_samed")
    assert (
        plan.plans_name == "samunetPlans_edited"
        and plan.configuration("2d_samed").data_identifier == "samunetPlans_edited_2d"
    )


def test_preprocessing_removes_only_cases_that_it_stored(both, caplog):
    folder = both / OWN / "samunetPlans_3d"
    for name in ("notes.json", "mine_seg.b2nd", "mine.json", "mine_locations.npz"):
        (folder / name).write_text("mine")
    for path in (both.parent / "raw" / OWN).glob("*Tr/tiny_001*"):
        path.unlink()
    assert preprocess.main(["-d", "904", "-c", "3d_adapter", "--no_pbar"]) == 0
    assert {path.name for path in folder.iterdir()} == {
        *("notes.json", "mine_seg.b2nd", "mine.json", "mine_locations.npz", "dataset.json", "samunet_cases.json"),
        *("tiny_000.json", "tiny_000.b2nd", "tiny_000_seg.b2nd", "tiny_000_locations.npz"),
    }
    assert stored_cases(folder) == ("tiny_000",)


@pytest.mark.parametrize("listed", [["../../raw/Dataset904_Own/dataset"], ["/etc/x"], [3], {"a": 1}], ids=str)
def test_a_list_of_stored_cases_that_leads_elsewhere_is_refused(both, listed, capsys):
    (both / OWN / "samunetPlans_3d" / "samunet_cases.json").write_text(json.dumps(listed))
    before = contents(both.parent)
    assert preprocess.main(["-d", "904", "-c", "3d_adapter", "--no_pbar"]) == 2
    assert "samunet_cases.json" in capsys.readouterr().err and {**before, **contents(both.parent)} == before


def test_a_folder_that_others_filled_is_left_alone(both, capsys):
    (both / OWN / "theirs").mkdir()
    (both / OWN / "theirs/dataset.json").write_text("theirs")
    plan = json.loads((both / OWN / "samunetPlans.json").read_text())
    plan["configurations"]["3d_adapter"]["data_identifier"] = "theirs"
    (both / OWN / "samunetPlans.json").write_text(json.dumps(plan))
    assert preprocess.main(["-d", "904", "-c", "3d_adapter", "--no_pbar"]) == 2
    assert "holds a dataset.json and nothing that samunet stored" in capsys.readouterr().err
    assert [path.name for path in (both / OWN / "theirs").iterdir()] == ["dataset.json"]


def test_cases_stored_before_there_was_a_list_are_kept(both):
    folder = both / OWN / "samunetPlans_3d"
    (folder / "samunet_cases.json").unlink()
    assert stored_cases(folder) == ("tiny_000", "tiny_001")
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("tiny*")}
    assert preprocess.main(["-d", "904", "-c", "3d_adapter", "--no_pbar"]) == 0
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.glob("tiny*")}


def test_names_of_any_script_and_the_longest_ones_go_all_the_way(both):
    raw = both.parent / "raw" / OWN
    for old, new in (("tiny_000", "患者_01"), ("tiny_001", LONGEST)):
        for path in raw.glob(f"*Tr/{old}*"):
            path.rename(path.with_name(path.name.replace(old, new)))
    assert preprocess.main(["-d", "904", "-c", "3d_adapter", "--no_pbar"]) == 0
    assert stored_cases(both / OWN / "samunetPlans_3d") == (LONGEST, "患者_01")
    assert set(json.loads((both / OWN / "samunetPlans_3d/samunet_cases.json").read_text())) == {LONGEST, "患者_01"}
    assert read_dataset_json(both / OWN / "samunetPlans_3d/dataset.json").num_training == 2
