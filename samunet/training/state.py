"""What changes while a model trains: all of it goes into checkpoints, from which the training goes on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from samunet.checkpoints.file import (
    CHECKPOINT_FORMAT,
    Checkpoint,
    CheckpointState,
    load_optimizer_state,
    load_trainable_state,
    optimizer_state,
    trainable_state,
)
from samunet.core.names import DEFAULT_TRAINER
from samunet.models.segmenter import SlabSegmenter
from samunet.training.average import WeightAverage
from samunet.training.log import TrainingLog
from samunet.training.processes import Processes
from samunet.training.run import Run
from samunet.training.schedule import Schedule


class TrainingState:
    """The weights, the optimizer, their averages and scales, and how far the training is.

    Args:
        model: on its device.
        optimizer: from `make_optimizer`.
    """

    def __init__(self, run: Run, model: SlabSegmenter, optimizer: torch.optim.Optimizer) -> None:
        self.run, self.model, self.optimizer = run, model, optimizer
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=run.precision is torch.float16)
        self.average = WeightAverage(model, run.config.ema) if run.config.ema else None
        self.step, self.epoch = 0, 0
        self.epoch_loss = 0.0  # sum of the losses of the epoch's steps so far
        self.best_dice = -1.0
        self.patient_from = 0  # epoch

    def averaged(self) -> AbstractContextManager[None]:
        """Return a context in which the model holds the averages of its weights, where there are some."""
        return self.average.applied() if self.average is not None else nullcontext()

    def take_up(self, saved: Checkpoint, rank: int) -> None:
        """Go on from a checkpoint; `rank` is this process's, whose generators go on too."""
        state, device = saved.state, self.run.device
        load_trainable_state(self.model, saved.model, self.run.folder, pretrained=self._pretrained)
        load_optimizer_state(self.optimizer, self._names, saved.optimizer)
        self.step, self.epoch = state.step, state.epoch
        self.epoch_loss, self.best_dice = state.epoch_loss, state.best_dice
        self.patient_from = state.epoch if self.run.extended else state.patient_from
        self.scaler.load_state_dict(state.scaler)
        if self.average is not None:
            for name, value in saved.average.items():
                self.average.averages[name].copy_(value)
        if f"cpu.{rank}" in saved.random:
            torch.set_rng_state(saved.random[f"cpu.{rank}"])
        if f"cuda.{rank}" in saved.random and device.type == "cuda":
            torch.cuda.set_rng_state(saved.random[f"cuda.{rank}"], device)

    def checkpoint(self, log: TrainingLog, schedule: Schedule, random: dict[str, Tensor]) -> Checkpoint:
        """Return this moment of the training; `random` holds the generators of all processes."""
        state = CheckpointState(
            format=CHECKPOINT_FORMAT,
            configuration=self.run.name,
            trainer=DEFAULT_TRAINER,
            step=self.step,
            epoch=self.epoch,
            epoch_loss=self.epoch_loss,
            best_dice=self.best_dice,
            weights_sha256=self.run.weights_sha256,
            scaler=self.scaler.state_dict(),
            training=self.run.settings,
            precision=self.run.precision_name,
            history=log.history,
            pace=schedule.state(),
            made_of=self.run.made_of,
            patient_from=self.patient_from,
            recipe=self.run.recipe,
        )
        return Checkpoint(
            state=state,
            model=trainable_state(self.model, pretrained=self._pretrained),
            optimizer=optimizer_state(self.optimizer, self._names),
            random=random,
            average=self.average.averages if self.average is not None else {},
        )

    @property
    def _pretrained(self) -> bool:
        return self.run.weights_sha256 is not None

    @property
    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self.model.named_parameters()}


def generators_of_all(processes: Processes, device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's generators as checkpoints name them; all processes call it, each with its own."""
    generators = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(device)
    meet = device if device.type == "cuda" else torch.device("cpu")
    return {
        f"{kind}.{rank}": own
        for kind, state in generators.items()
        for rank, own in enumerate(processes.gather(state, meet))
    }
