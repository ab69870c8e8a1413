"""Single steps and validations of a trainer, against what is computed by hand; and what chooses checkpoint_best."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from samples import TINY_TRAINING

from samunet import pipeline
from samunet.checkpoints.file import load_checkpoint, save_checkpoint
from samunet.core.dataset import read_dataset_json
from samunet.errors import CheckpointError
from samunet.machine.hardware import choose_device
from samunet.models.segmenter import ParameterGroup
from samunet.pipeline.run import build_trainer, settle
from samunet.preprocessing.storage import stored_cases
from samunet.training.optimizer import make_optimizer, set_rates
from samunet.training.processes import Processes
from samunet.training.schedule import factor_at, rate_factor
from samunet.training.stopping import StopRequest
from samunet.training.trainer import SAMTrainer

NAME = "3d_adapter"
FINAL = "checkpoint_final.safetensors"


def trainer_of(project, folder, **settings) -> SAMTrainer:
    """A trainer of the tiny dataset whose folder is `folder`."""
    workspace = project.workspace
    plan = pipeline.resolve(workspace, pipeline.open_plan(workspace, project.dataset, "samunetPlans"), NAME)
    data = workspace.preprocessed / project.dataset / plan.configuration(NAME).data_identifier
    spec = replace(read_dataset_json(data / "dataset.json"), name=project.dataset)
    run = settle(
        pipeline.TrainOptions(configuration=NAME, fold="0"),
        TINY_TRAINING | settings,
        plan=plan,
        spec=spec,
        split=pipeline.fold_split(workspace, spec, stored_cases(data), "0"),
        data=data,
        folder=folder / "fold_0",
        device=choose_device("cpu"),
        made_of={},
    )
    return build_trainer(workspace, run, Processes(), StopRequest(run.folder))


def weights_of(trainer: SAMTrainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.trained]


def first_batch(trainer: SAMTrainer):
    return next(trainer.sources.training(0, 1))


def gradients_by_hand(trainer: SAMTrainer, batch) -> list[torch.Tensor]:
    """Return the gradient of the summed loss terms with respect to all that trains."""
    trainer.model.train()
    loss = torch.stack(list(trainer.model.loss(batch).values())).sum()
    gradients = torch.autograd.grad(loss, trainer.trained, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(trainer.trained, gradients, strict=True)]


@pytest.mark.parametrize("clip", [1e-3, 0.0])
def test_a_step_clips_the_gradient_and_moves_the_weights_as_adamw_does(project, tmp_path, clip):
    trainer = trainer_of(project, tmp_path, gradient_clip=clip)
    batch = first_batch(trainer)
    gradients, before = gradients_by_hand(trainer, batch), weights_of(trainer)
    norm = torch.stack([gradient.double().square().sum() for gradient in gradients]).sum().sqrt()
    assert norm > 0.01  # far above the clip
    scale = float(clip / norm) if clip else 1.0
    trainer._step(batch)
    optimizer, number = trainer.state.optimizer, 0
    for group in optimizer.param_groups:
        rate, decay = group["lr"], group["weight_decay"]
        for parameter in group["params"]:
            clipped = gradients[number] * scale
            state = optimizer.state[parameter]
            if state:
                torch.testing.assert_close(state["exp_avg"], 0.1 * clipped, rtol=1e-3, atol=1e-9)
                # AdamW's first step: both of its averages, corrected for their start, are those of this gradient alone.
                moved = before[number] * (1 - rate * decay) - rate * clipped / (clipped.abs() + 1e-8)
                telling = clipped.abs() > 1e-7
                torch.testing.assert_close(parameter.detach()[telling], moved[telling], rtol=1e-4, atol=1e-7)
            number += 1
    assert number == len(gradients) and any(optimizer.state.values())


def test_every_group_has_its_own_rate(project, tmp_path, monkeypatch):
    """Layers nearer to the input get smaller rates: a group's scale times the rate of its part, times the schedule."""
    trainer = trainer_of(project, tmp_path, learning_rate=0.02, backbone_learning_rate=0.004)
    matrices = [p for p in trainer.model.parameters() if p.requires_grad and p.ndim > 1][:3]
    groups = [
        ParameterGroup(part="head", parameters=(matrices[0],), scale=1.0),
        ParameterGroup(part="backbone", parameters=(matrices[1],), scale=0.5),
        ParameterGroup(part="backbone", parameters=(matrices[2],), scale=0.25),
    ]
    monkeypatch.setattr(trainer.model, "parameter_groups", lambda: groups)
    trainer.state.optimizer = make_optimizer(trainer.model, trainer.run.config)
    set_rates(trainer.state.optimizer, factor_at(4, trainer.schedule, trainer.run.config))
    factor = rate_factor(4, 6, warmup=0.05, power=0.9)
    assert 0 < factor < 1
    found = [group["lr"] for group in trainer.state.optimizer.param_groups]
    assert found == pytest.approx([0.02 * factor, 0.002 * factor, 0.001 * factor])


def test_validation_sees_the_averages_and_training_goes_on_with_the_weights(project, tmp_path):
    trainer = trainer_of(project, tmp_path, ema=0.9)
    generator = torch.Generator().manual_seed(0)
    for average in trainer.state.average.averages.values():
        average += 0.2 * torch.randn(average.shape, generator=generator)
    before = weights_of(trainer)
    loss, dice = trainer._validate()
    assert all(torch.equal(p.detach(), kept) for p, kept in zip(trainer.trained, before, strict=True))
    averages, trainer.state.average = trainer.state.average.averages, None
    plain, _ = trainer._validate()
    named = dict(trainer.model.named_parameters())
    with torch.no_grad():
        for name, average in averages.items():
            named[name].copy_(average)
    expected = trainer._validate()
    assert expected == (pytest.approx(loss), pytest.approx(dice, nan_ok=True)) and abs(loss - plain) > 0.01


def test_the_smoothed_dice_chooses_the_best_checkpoint(project, tmp_path, monkeypatch):
    """Raw Dice is best after the second epoch; smoothed it is 0.5, 0.54, 0.566 and 0.5594."""
    raw = iter([0.5, 0.9, 0.8, 0.5])
    monkeypatch.setattr(SAMTrainer, "_validate", lambda self: (1.0, [next(raw)] * 3))
    fold = project.train(results=tmp_path, config={"epochs": 4, "iterations": 1}, validate=False)
    state = load_checkpoint(fold / "checkpoint_best.safetensors").state
    assert state.epoch == 3 and state.best_dice == pytest.approx(0.566)


def store_as_planned(path) -> None:
    """Let a checkpoint say "the plan's batch size", as those of earlier versions do."""
    checkpoint = load_checkpoint(path)
    state = replace(checkpoint.state, training={**checkpoint.state.training, "batch_size": 0})
    save_checkpoint(path, replace(checkpoint, state=state))


def test_the_plans_batch_size_is_stored_as_its_number_and_earlier_checkpoints_go_on(project, tmp_path):
    plan = pipeline.open_plan(project.workspace, project.dataset, "samunetPlans")
    planned, short = plan.configuration(NAME).batch_size, {"epochs": 1, "iterations": 1}
    by_plan, by_number = (
        project.train(results=tmp_path / str(size), config={**short, "batch_size": size}, validate=False)
        for size in (0, planned)
    )
    assert (by_plan / FINAL).read_bytes() == (by_number / FINAL).read_bytes()
    assert load_checkpoint(by_plan / FINAL).state.training["batch_size"] == planned
    for results, size in ((tmp_path / "0", planned), (tmp_path / str(planned), 0)):
        store_as_planned(next(results.glob(f"*/*/fold_0/{FINAL}")))
        with pytest.raises(CheckpointError, match=rf"batch_size {planned} \(now {planned + 1}\)"):
            project.train(results=results, config={**short, "batch_size": planned + 1}, resume=True)
        settings = {**short, "batch_size": size}
        project.train(results=results, config=settings, resume=True, extend=1, validate=False)
    assert (by_plan / FINAL).read_bytes() == (by_number / FINAL).read_bytes()
    assert load_checkpoint(by_plan / FINAL).state.epoch == 2
