"""A training step is measured where it runs, and a plan that needs too much is planned again."""

from __future__ import annotations

import dataclasses
import mmap

import pytest
import torch
from samples import START, planned_with_weights

from samunet import pipeline
from samunet.cli import plan_experiment
from samunet.core.codec import file_sha256
from samunet.core.memory import peak_mib, start_peak
from samunet.core.plan import load_plan
from samunet.errors import ConfigError, PlanningError
from samunet.pipeline import measuring, planning
from samunet.pipeline.measuring import MeasuredStep, measure_step
from samunet.sam import checkpoints
from samunet.sam.checkpoints import CHECKPOINTS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    return planned_with_weights(tmp_path_factory.mktemp("memory"), "Dataset907_Memory", size=(6, 40, 32), side=256)


@pytest.fixture
def quick_start(monkeypatch):
    """Let processes that measure begin with everything imported; other tests leave them to start as they do."""
    monkeypatch.setattr(measuring.multiprocessing, "get_context", lambda *_: START)


def test_the_peak_of_a_process_rises_with_what_it_holds():
    before = start_peak()
    with mmap.mmap(-1, 2**28) as pages:  # from the system: an allocator may hand out pages it kept, which raise no peak
        for first in range(0, len(pages), mmap.PAGESIZE):
            pages[first] = 1
    assert 240 <= peak_mib() - before < 300


def test_a_larger_batch_measures_larger(planned):
    workspace, dataset, _, plan = planned
    name, labels = "3d_adapter", dataset.spec.labels
    small = measure_step(plan, name, labels, CPU, workspace.weights_folders)
    entry = dataclasses.replace(plan.configuration(name), batch_size=16 * plan.configuration(name).batch_size)
    large = measure_step(
        dataclasses.replace(plan, configurations={name: entry}), name, labels, CPU, workspace.weights_folders
    )
    assert 0.005 < small.gib < 2 and large.gib > 1.5 * small.gib and small.seconds > 0


def test_what_cannot_be_measured_is_refused_and_a_dead_process_needs_infinitely_much(planned, monkeypatch):
    _, dataset, _, plan = planned
    with pytest.raises(ConfigError, match="cannot be measured on mps"):
        measure_step(plan, "3d_adapter", dataset.spec.labels, torch.device("mps"))
    monkeypatch.setattr(measuring, "_run_step", die)
    assert measure_step(plan, "3d_adapter", dataset.spec.labels, CPU).gib == float("inf")


def die(*_) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_a_plan_that_needs_too_much_is_planned_smaller(planned, monkeypatch, quick_start):
    workspace, dataset, weights, _ = planned
    fingerprint = pipeline.extract(workspace, dataset, threads=1, clean=False, quiet=True)
    asked = {"backbone": "vit_nano", "weights": str(weights), "sha256": file_sha256(weights)}

    def estimate(plan, name):
        return pipeline.estimate_gib(plan.configuration(name), dataset.spec)

    generous = pipeline.plan(workspace, dataset, fingerprint, pipeline.PlanOptions(**asked))
    need = estimate(generous, "3d_adapter")
    single = pipeline.plan(
        workspace, dataset, fingerprint, pipeline.PlanOptions(**asked, memory_gib=1.2 * need, precision="fp32")
    )
    assert estimate(single, "3d_adapter") < need and single.precision == "fp32"
    with pytest.raises(ConfigError, match="precision is one of mixed, fp32; got 'bf8'"):
        pipeline.PlanOptions(precision="bf8")
    options = pipeline.PlanOptions(
        **asked, memory_gib=1.01 * max(estimate(generous, name) for name in generous.configurations)
    )
    plan = pipeline.plan(workspace, dataset, fingerprint, options)
    monkeypatch.setattr(
        measuring, "measure_step", lambda plan, name, *_: MeasuredStep(gib=1.5 * estimate(plan, name), seconds=0.5)
    )
    made = pipeline.plan(workspace, dataset, fingerprint, options, measure_on=CPU)
    assert load_plan(pipeline.plan_path(workspace, dataset.spec.name, "samunetPlans")) == made and made != plan
    for name in plan.configurations:
        assert 1.5 * estimate(made, name) <= options.memory_gib
        assert "takes 0.50 s, measured on cpu" in made.reasons[f"{name}: memory"]
    real, measured = measuring.measure_step, []

    def dies_once(plan, name, *given):  # as on a GPU of just that size
        measured.append(estimate(plan, name))
        return (
            MeasuredStep(gib=float("inf"), seconds=float("inf"))
            if measured[-1] == max(measured)
            else real(plan, name, *given)
        )

    monkeypatch.setattr(measuring, "measure_step", dies_once)
    smaller = pipeline.plan(workspace, dataset, fingerprint, options, measure_on=CPU)
    assert estimate(smaller, "3d_adapter") < estimate(generous, "3d_adapter")
    monkeypatch.setattr(measuring, "measure_step", lambda *_: MeasuredStep(gib=float("inf"), seconds=0.0))
    with pytest.raises(PlanningError, match="needs more than there is on cpu"):
        pipeline.plan(workspace, dataset, fingerprint, options, measure_on=CPU)
    made = smaller
    monkeypatch.setattr(measuring, "measure_step", lambda *_: MeasuredStep(gib=100.0, seconds=0.5))
    with pytest.raises(PlanningError, match="needs 100.00 GiB on cpu(?s:.*)Raise -gpu_memory_target"):
        pipeline.plan(workspace, dataset, fingerprint, options, measure_on=CPU)
    assert (
        load_plan(pipeline.plan_path(workspace, dataset.spec.name, "samunetPlans")) == made
    )  # nothing that does not fit is saved


def test_the_command_measures(planned, monkeypatch, capsys, quick_start):
    workspace, _, weights, _ = planned
    for part in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{part}", str(getattr(workspace, part)))
    command = [
        "-d",
        "907",
        "-backbone",
        "vit_nano",
        "-weights",
        str(weights),
        "--sha256",
        file_sha256(weights),
        "--measure",
        "-device",
        "cpu",
    ]
    assert plan_experiment.main([*command, "--explain"]) == 0
    assert "GiB and takes" in capsys.readouterr().out
    assert (
        plan_experiment.main(["-d", "907", "-device", "cpu"]) == 2
        and "-device says where --measure runs" in capsys.readouterr().err
    )


def test_auto_takes_the_official_backbone_where_its_checkpoint_is_at_hand(planned, monkeypatch, tmp_path):
    workspace, dataset, weights, _ = planned
    fingerprint = pipeline.extract(workspace, dataset, threads=1, clean=False, quiet=True)
    official = dataclasses.replace(
        CHECKPOINTS[0],
        name="sam_vit_nano",
        backbone="vit_nano",
        url="https://x/sam_vit_nano.pth",
        sha256=file_sha256(weights),
    )
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", (official,))
    monkeypatch.setattr(planning, "OFFICIAL_BACKBONE", "vit_nano")
    without = pipeline.plan(workspace, dataset, fingerprint, pipeline.PlanOptions())
    assert (
        without.configuration("3d_adapter").backbone == "vit_tiny"
        and "samunet_weights download sam_vit_nano" in without.reasons["backbone"]
    )
    at_hand = dataclasses.replace(workspace, weights_folders=(tmp_path,))
    (tmp_path / "sam_vit_nano.pth").write_bytes(weights.read_bytes())
    made = pipeline.plan(at_hand, dataset, fingerprint, pipeline.PlanOptions())
    assert made.configuration("3d_adapter").backbone == "vit_nano" and made.configuration(
        "3d_adapter"
    ).weights_sha256 == file_sha256(weights)
    assert "chosen from vit_nano and vit_tiny because its checkpoint is at hand" in made.reasons["backbone"]
