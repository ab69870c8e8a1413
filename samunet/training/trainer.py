"""The loop. It is given model, data, optimizer and log; it builds none of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from samunet.checkpoint import (
    FORMAT,
    Checkpoint,
    CheckpointState,
    load_optimizer_state,
    load_trainable_state,
    optimizer_state,
    save_checkpoint,
    trainable_state,
)
from samunet.core.batch import Batch
from samunet.core.codec import encode
from samunet.core.labels import Labels
from samunet.errors import SamunetError
from samunet.hardware import autocast
from samunet.models.losses import region_targets
from samunet.models.segmenter import SlabSegmenter
from samunet.training.accumulate import backward, split
from samunet.training.config import TrainingConfig
from samunet.training.log import TrainingLog
from samunet.training.schedule import rate_factor

SMOOTHING = 0.9  # nnU-Net's, of the Dice that chooses checkpoint_best
LATEST, BEST, FINAL = "checkpoint_latest.safetensors", "checkpoint_best.safetensors", "checkpoint_final.safetensors"
Batches = Callable[[int, int], Iterator[Batch]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What identifies a training in its checkpoints."""

    configuration: str
    trainer: str
    weights_sha256: str | None


class SAMTrainer:
    """Train a variant and keep the fold's folder up to date.

    Args:
        model: on its device.
        optimizer: from `make_optimizer`.
        training: (first step, number of steps) to batches.
        validation: likewise; called with (0, validation steps) every epoch.
        labels: what the label values mean.
        folder: the fold's folder; gets checkpoints, log and picture.
        precision: autocast type, None for fp32.
    """

    def __init__(
        self,
        *,
        model: SlabSegmenter,
        optimizer: torch.optim.Optimizer,
        training: Batches,
        validation: Batches,
        config: TrainingConfig,
        labels: Labels,
        job: Job,
        folder: Path,
        device: torch.device,
        precision: torch.dtype | None,
        save: bool = True,
        resume: Checkpoint | None = None,
    ) -> None:
        self.model, self.optimizer, self.training, self.validation = model, optimizer, training, validation
        self.config, self.labels, self.job, self.folder = config, labels, job, folder
        self.device, self.precision, self.save = device, precision, save
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.epoch, self.best_dice = 0, -1.0
        if resume is not None:
            load_trainable_state(model, resume.model, folder, pretrained=job.weights_sha256 is not None)
            load_optimizer_state(optimizer, self.names, resume.optimizer)
            self.epoch, self.best_dice = resume.state.epoch, resume.state.best_dice
            self.scaler.load_state_dict(resume.state.scaler)
            if resume.random is not None:
                torch.set_rng_state(resume.random)
        self.log = TrainingLog(folder, resume.state.history if resume else None)

    def run(self) -> None:
        """Train from the current epoch to the last, then write checkpoint_final."""
        first, epochs = self.epoch, self.config.epochs
        batches = self.training(first * self.config.iterations, (epochs - first) * self.config.iterations)
        for _ in range(first, epochs):
            began = time.monotonic()
            train_loss, waited = self._train_epoch(batches)
            val_loss, dice = self._validate()
            self._finish_epoch(train_loss, val_loss, dice, time.monotonic() - began, waited)
        if self.save:
            self._save(FINAL)
            (self.folder / LATEST).unlink(missing_ok=True)

    def _train_epoch(self, batches: Iterator[Batch]) -> tuple[float, float]:
        """Return the mean loss and the seconds spent waiting for data."""
        self.model.train()
        total, waited = torch.zeros((), device=self.device), 0.0
        for iteration in range(self.config.iterations):
            asked = time.monotonic()
            batch = self._to_device(next(batches))
            waited += time.monotonic() - asked
            total += self._step(batch, self.epoch * self.config.iterations + iteration)
        mean = float(total) / self.config.iterations
        if not math.isfinite(mean):
            raise SamunetError(
                f"The training loss became {mean} in epoch {self.epoch + 1}. Lower --learning_rate or use --precision fp32; "
                f"checkpoints in {self.folder} are from before."
            )
        return mean, waited

    def _step(self, batch: Batch, step: int) -> Tensor:
        factor = rate_factor(step, self.config.steps, warmup=self.config.warmup, power=self.config.decay_power)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss = backward(
            self.model,
            split(batch, self.config.accumulate),
            autocast=lambda: autocast(self.device, self.precision),
            scale=self.scaler.scale,
        )
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], self.config.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss

    @torch.no_grad()
    def _validate(self) -> tuple[float, list[float]]:
        """Return the mean loss and the Dice of each foreground class or region over all validation patches together."""
        self.model.eval()
        losses, counts = [], torch.zeros(3, len(self.labels.foreground))
        steps = self.config.validation_steps
        for batch in map(self._to_device, self.validation(0, steps)):
            with autocast(self.device, self.precision):
                losses.append(float(torch.stack(list(self.model.loss(batch).values())).sum()))
                logits = self.model(batch.image)
            counts += self._counts(logits.float(), batch.label).cpu()
        both, predicted, reference = counts
        return sum(losses) / len(losses), (2 * both / (predicted + reference)).tolist()

    def _counts(self, logits: Tensor, label: Tensor) -> Tensor:
        """Voxels in both, in the prediction and in the reference, each foreground class or region: (3, R)."""
        reference = region_targets(label, self.labels)
        known = 1.0 if self.labels.ignore is None else (label != self.labels.ignore).unsqueeze(1)
        predicted = (logits > 0).float() if self.labels.has_regions else region_targets(logits.argmax(1), self.labels)
        axes = (0, 2, 3, 4)
        return torch.stack([(part * known).sum(axes) for part in (predicted * reference, predicted, reference)])

    def _finish_epoch(self, train_loss: float, val_loss: float, dice: list[float], seconds: float, waited: float) -> None:
        known = [value for value in dice if not math.isnan(value)]
        mean = sum(known) / len(known) if known else 0.0
        earlier = self.log.values.get("ema_fg_dice", [])
        smoothed = SMOOTHING * earlier[-1] + (1 - SMOOTHING) * mean if earlier else mean
        self.log.epoch(
            train_loss=train_loss,
            val_loss=val_loss,
            mean_fg_dice=mean,
            ema_fg_dice=smoothed,
            learning_rate=max(group["lr"] for group in self.optimizer.param_groups),
        )
        self.epoch += 1
        classes = ", ".join(f"{name} {value:.3f}" for (name, _), value in zip(self.labels.foreground, dice, strict=True))
        self.log.line(
            f"epoch {self.epoch}/{self.config.epochs}: training loss {train_loss:.4f}, validation loss {val_loss:.4f}, Dice {mean:.3f} ({classes}), "
            f"{seconds:.1f} s, {100 * waited / seconds:.0f} % waiting for data"
        )
        better = smoothed > self.best_dice
        self.best_dice = max(self.best_dice, smoothed)
        if self.save:
            if better:
                self._save(BEST)
            self._save(LATEST)

    def _save(self, name: str) -> None:
        state = CheckpointState(
            format=FORMAT,
            configuration=self.job.configuration,
            trainer=self.job.trainer,
            step=self.epoch * self.config.iterations,
            epoch=self.epoch,
            best_dice=self.best_dice,
            weights_sha256=self.job.weights_sha256,
            scaler=self.scaler.state_dict(),
            training=encode(self.config),
            history=self.log.history,
        )
        save_checkpoint(
            self.folder / name,
            Checkpoint(
                state=state,
                model=trainable_state(self.model, pretrained=self.job.weights_sha256 is not None),
                optimizer=optimizer_state(self.optimizer, self.names),
                random=torch.get_rng_state(),
            ),
        )

    def _to_device(self, batch: Batch) -> Batch:
        return Batch(image=batch.image.to(self.device, non_blocking=True), label=batch.label.to(self.device, non_blocking=True))


def make_optimizer(model: SlabSegmenter, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW with one peak rate a parameter group; biases and norms are not decayed."""
    peaks = {"head": config.learning_rate, "backbone": config.backbone_learning_rate}
    groups = []
    for group in model.parameter_groups():
        peak = peaks[group.part] * group.scale
        for decayed in (True, False):
            chosen = [parameter for parameter in group.parameters if (parameter.ndim > 1) == decayed]
            if chosen:
                groups.append({"params": chosen, "peak": peak, "lr": peak, "weight_decay": config.weight_decay * decayed})
    return torch.optim.AdamW(groups, fused=True)
