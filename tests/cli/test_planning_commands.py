"""What the planning commands say of a plan, of the machine and of memory."""

from __future__ import annotations

import argparse
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from samunet import pipeline
from samunet.cli import plan_experiment, planning
from samunet.cli.fields import add_options, options_from
from samunet.core.dataset import read_dataset_json
from samunet.machine import hardware
from samunet.pipeline import information
from samunet.planning.options import PlanOptions


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(information, "GPU_DEVICES", ())
    monkeypatch.setattr(information, "_gpus", list)
    monkeypatch.setattr(information.sys, "platform", "linux")


@pytest.fixture
def plan(project):
    return pipeline.open_plan(project.workspace, project.dataset, "samunetPlans")


@pytest.fixture
def spec(project):
    return read_dataset_json(project.workspace.raw / project.dataset / "dataset.json")


def test_any_configuration_is_shown_with_its_reasons_and_the_plan_stays_as_it_is(environment, project, capsys):
    path = pipeline.plan_path(project.workspace, project.dataset, "samunetPlans")
    before = path.read_bytes()
    assert plan_experiment.main(["-d", "901", "-c", "2d_samed", "3d_ma_sam", "--explain"]) == 0
    said = capsys.readouterr().out
    assert "  2d_samed: patch 1 x " in said and "  3d_ma_sam: patch 5 x " in said and "ma_sam asks for 5" in said
    assert "3d_adapter" not in said and f"Read {path}" in said and path.read_bytes() == before
    assert plan_experiment.main(["-d", "901", "-c", "3d_mam_sam"]) == 2
    assert "Did you mean 'ma_sam'" in capsys.readouterr().err
    assert plan_experiment.main(["-d", "901", "-c", "3d_ma_sam", "--measure", "-device", "cpu"]) == 2
    assert "leave -c out" in capsys.readouterr().err and path.read_bytes() == before


def test_too_little_memory_names_the_flag_also_where_the_patch_becomes_too_small(environment, capsys):
    assert (
        plan_experiment.main(["-d", "901", "-gpu_memory_target", "0.01", "-overwrite_plans_name", "samunetPlans_none"])
        == 2
    )
    assert "Raise -gpu_memory_target" in capsys.readouterr().err


def options(*words: str) -> PlanOptions:
    """What the planning commands make of words."""
    parser = argparse.ArgumentParser(prog="samunet_plan_experiment")
    add_options(parser, planning.Planning)
    return options_from(parser.parse_args(words), planning.Planning).settled()


def test_auto_plans_for_a_cpu_where_there_is_no_gpu(monkeypatch, capsys):
    monkeypatch.setattr(hardware, "choose_device", lambda wanted: torch.device("cpu"))
    assert options("-gpu_memory_target", "auto").memory_gib == 1.0
    assert (
        capsys.readouterr().out
        == "-gpu_memory_target auto: 1 GiB, since there is no GPU and a CPU is slow at larger plans\n"
    )


def test_auto_leaves_a_tenth_of_a_gpus_memory(monkeypatch, capsys):
    monkeypatch.setattr(hardware, "choose_device", lambda wanted: torch.device("cuda"))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=int(23.6 * 2**30))
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card 24")
    assert options("-gpu_memory_target", "auto").memory_gib == 21.0  # 0.9 x 23.6 = 21.24, down to half a GiB
    assert capsys.readouterr().out == "-gpu_memory_target auto: 21 GiB of the 23.6 GiB of Card 24\n"


@pytest.mark.parametrize("wrong", ["much", "8GB"])
def test_another_word_for_memory_is_refused_with_what_is_expected(capsys, wrong):
    with pytest.raises(SystemExit):
        options("-gpu_memory_target", wrong)
    assert (
        f"argument -gpu_memory_target: expected a number of GiB above 0, or auto; got '{wrong}'"
        in capsys.readouterr().err
    )


def test_without_a_gpu_in_sight_a_plan_says_what_that_means(without_gpu, plan, spec, monkeypatch, capsys):
    monkeypatch.setattr(
        pipeline,
        "estimate_gib",
        lambda configuration, spec, precision: 8.0 if configuration.dimensions == 3 else 1.0,
        raising=False,
    )
    planning.print_time_without_gpu(plan, spec)
    # 8 GiB x 3 s, and 200 epochs of 250 steps: 13.9 days
    expected = (
        "No GPU is in sight. On two CPU cores a training step of 3d_adapter takes roughly 24 s, the default 200 epochs "
        "14 days; "
    )
    assert (
        capsys.readouterr().out
        == expected + "to train on this machine, plan with -gpu_memory_target auto, and train with --minutes.\n"
    )
    small = replace(plan, configurations={"2d_adapter": plan.configuration("2d_adapter")})
    planning.print_time_without_gpu(small, spec)
    assert capsys.readouterr().out.endswith("2d_adapter takes roughly 3 s, the default 200 epochs 42 hours.\n")


def test_the_next_line_bounds_a_training_that_would_take_weeks(without_gpu, project, plan, monkeypatch, capsys):
    dataset = pipeline.open_dataset(project.workspace, project.dataset)
    for gib, words in ((8.0, " --minutes 120"), (0.1, "")):
        monkeypatch.setattr(pipeline, "estimate_gib", lambda *_, gib=gib: gib, raising=False)
        planning.print_training(dataset, plan, planning.Preprocessing())
        assert capsys.readouterr().out == f"Next: samunet_train 901 {next(iter(plan.configurations))} 0{words}\n"


def test_where_a_gpu_is_in_sight_nothing_is_said(without_gpu, plan, spec, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(information, "GPU_DEVICES", (str(tmp_path),))
    planning.print_time_without_gpu(plan, spec)
    assert capsys.readouterr().out == ""
