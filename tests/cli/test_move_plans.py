"""A plan moves to another dataset, works there, and takes nothing with it that is the target's own."""

from __future__ import annotations

from tiny import write_tiny_dataset

from samunet.cli import move_plans_between_datasets as command
from samunet.cli import plan_experiment, preprocess
from samunet.core.plan import load_plan

NAME = "samunetPlans_small"


def test_a_moved_plan_preprocesses_the_target(tmp_path, monkeypatch, capsys):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    (tmp_path / "raw").mkdir()
    write_tiny_dataset(tmp_path / "raw", name="Dataset801_Source", size=(6, 40, 32))
    write_tiny_dataset(
        tmp_path / "raw",
        name="Dataset802_Target",
        labels={"background": 0, "lung left": 1, "lung right": 2},
        file_ending=".mha",
    )
    write_tiny_dataset(tmp_path / "raw", name="Dataset803_Two", channels=2)
    planning = ["-d", "801", "-backbone", "vit_nano", "-gpu_memory_target", "1", "-overwrite_plans_name", NAME]
    assert plan_experiment.main(planning) == 0
    capsys.readouterr()
    assert command.main(["-s", "801", "-t", "802", "-sp", NAME, "-tp", "samunetPlans_moved"]) == 0
    assert "labels for left and right ('lung left', 'lung right')" in capsys.readouterr().out
    path = tmp_path / "preprocessed/Dataset802_Target/samunetPlans_moved.json"
    moved, source = load_plan(path), load_plan(tmp_path / f"preprocessed/Dataset801_Source/{NAME}.json")
    assert (
        moved.dataset == "Dataset802_Target"
        and moved.plans_name == "samunetPlans_moved"
        and moved.channels == source.channels
    )
    assert moved.seen is None and source.seen is not None
    assert moved.configuration("3d_adapter").patch_size == source.configuration("3d_adapter").patch_size
    assert preprocess.main(["-d", "802", "-plans_name", "samunetPlans_moved", "-c", "3d_adapter", "--no_pbar"]) == 0
    assert moved.configuration("2d_adapter").data_identifier == "samunetPlans_moved_2d"
    assert len(list((path.parent / "samunetPlans_moved_3d").glob("*_seg.b2nd"))) == 4
    capsys.readouterr()
    assert command.main(["-s", "801", "-t", "802", "-sp", NAME, "-tp", "samunetPlans_moved"]) == 2
    assert "exists already; give another name with -tp" in capsys.readouterr().err
    assert preprocess.main(["-d", "802", "-plans_name", "samunetPlans_moved", "-c", "2d_samed", "--no_pbar"]) == 2
    assert "lacks '2d_samed' and was made from other data" in capsys.readouterr().err
    assert command.main(["-s", "801", "-t", "802", "-sp", NAME, "-tp", "samunetPlans_more", "-c", "2d_samed"]) == 0
    assert "2d_samed" in load_plan(path.with_name("samunetPlans_more.json")).configurations
    capsys.readouterr()
    assert command.main(["-s", "801", "-t", "803", "-sp", NAME]) == 2
    assert "is for 1 channel; Dataset803_Two has 2" in capsys.readouterr().err
    assert (
        command.main(["-s", "803", "-t", "801", "-sp", NAME]) == 2
        and "has no plan 'samunetPlans_small'" in capsys.readouterr().err
    )
    assert (
        command.main(["-s", "801", "-t", "802", "-sp", NAME, "-tp", "nnUNetPlans"]) == 2
        and "must start with 'samunet'" in capsys.readouterr().err
    )
