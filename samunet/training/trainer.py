"""The loop. It is given model, data, optimizer and log; it builds none of them."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from samunet.checkpoints.file import (
    FORMAT,
    Checkpoint,
    CheckpointState,
    load_optimizer_state,
    load_trainable_state,
    optimizer_state,
    save_checkpoint,
    save_tensors,
    trainable_state,
)
from samunet.core.batch import Batch
from samunet.core.cost import COST
from samunet.core.labels import Labels
from samunet.core.results import BEST, FINAL, LATEST, VALIDATION, VALIDATION_BEST
from samunet.data.loader import naming_dead_workers
from samunet.errors import CheckpointError, SamunetError
from samunet.machine.hardware import PRECISION_NAMES, autocast
from samunet.machine.progress import bar, readable_seconds
from samunet.models.losses import region_targets
from samunet.models.segmenter import SlabSegmenter
from samunet.training.accumulate import backward, split
from samunet.training.average import WeightAverage
from samunet.training.config import RunConfig, TrainingConfig, deciding_settings
from samunet.training.forecast import Forecast, seconds_left
from samunet.training.log import DICE, TrainingLog
from samunet.training.pace import UNLIMITED, Pace, training_clock, validation_steps, write_cost
from samunet.training.processes import Processes
from samunet.training.schedule import rate_factor
from samunet.training.stopping import StopRequest

SMOOTHING = 0.9  # nnU-Net's, of the Dice that chooses checkpoint_best
Batches = Callable[[int, int], Generator[Batch, None, None]]
ALONE = Processes()


@dataclass(frozen=True, kw_only=True)
class Job:
    """What identifies a training in its checkpoints."""

    configuration: str
    trainer: str
    weights_sha256: str | None
    batch_size: int
    """Of all processes together."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where patches come from."""

    training: Batches
    """(first step, number of steps) to batches, in the order of the steps."""
    validation: Batches
    """Likewise; called with (0, validation steps) every epoch."""
    cases: Callable[[int], Sequence[str]]
    """Step to the cases of its training batch."""
    whole: Callable[[], float] | None = None
    """Mean Dice of some validation cases that are predicted whole; None chooses checkpoint_best by patches."""


class SAMTrainer:
    """Train a variant and keep the fold's folder up to date.

    A step is a function of the weights, the optimizer, torch's generators and the step's number; all of that is saved, so
    a training may end after any step and go on as if it had not.

    Args:
        model: on its device.
        optimizer: from `make_optimizer`.
        labels: what the label values mean.
        log: of the fold.
        folder: the fold's folder; gets checkpoints.
        precision: autocast type, None for fp32.
        stopping: asks for an end.
        save: False writes no checkpoints.
        resume: where to go on.
        extended: the training that goes on gets more epochs; earlier ones do not count for patience.
    """

    def __init__(
        self,
        *,
        model: SlabSegmenter,
        optimizer: torch.optim.Optimizer,
        sources: Sources,
        config: TrainingConfig,
        run: RunConfig,
        labels: Labels,
        job: Job,
        log: TrainingLog,
        folder: Path,
        device: torch.device,
        precision: torch.dtype | None,
        stopping: StopRequest,
        processes: Processes = ALONE,
        save: bool = True,
        resume: Checkpoint | None = None,
        extended: bool = False,
    ) -> None:
        self.model, self.optimizer, self.sources, self.log = model, optimizer, sources, log
        self.config, self.run_config, self.labels, self.job, self.folder = config, run, labels, job, folder
        self.device, self.precision, self.stopping, self.processes, self.saves = (
            device,
            precision,
            stopping,
            processes,
            save,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.step, self.epoch, self.epoch_loss, self.best_dice = 0, 0, 0.0, -1.0
        self.average = WeightAverage(model, config.ema) if config.ema else None
        self.saved_at = time.monotonic()
        pace = resume.state.pace if resume is not None else None
        self.pace = Pace(config.minutes, config.last_epoch, training_clock(device), pace) if config.minutes else None
        if resume is not None:
            self._take_up(resume)
            self._set_rates(max(0, self.step - 1))  # what the log says of an epoch that was killed after its last step
        self.taken_up_at = self.step
        self.whole_epochs: list[float] = []  # seconds of those that this run trained from their first step to their end
        self.forecast = Forecast()
        self.patient_from = self.epoch if extended else 0

    def run(self) -> bool:
        """Train to the last epoch and write checkpoint_final; returns False when asked to stop before, with everything saved."""
        if self.pace is not None:
            self.pace.start()
        ahead = UNLIMITED if self.pace else self.config.last_epoch * self.config.iterations - self.step
        with naming_dead_workers(), closing(self.sources.training(self.step, ahead)) as batches:
            while self.epoch < self.config.last_epoch and not self._out_of_patience():
                began = time.monotonic()
                waited = self._train_epoch(batches)
                if waited is None:
                    return False
                loss, dice = self._validate()
                self._finish_epoch(loss, dice, began, waited)
        if self.processes.first and (
            self.step > self.taken_up_at or not any((self.folder / name).is_file() for name in (COST, FINAL))
        ):
            self._write_cost()  # also when the run before was killed after the last step
        if self.saves:
            self._save(FINAL)
            if self.processes.first and (self.folder / LATEST).is_file():
                for name in (VALIDATION, VALIDATION_BEST):  # by the model that was here before
                    shutil.rmtree(self.folder / name, ignore_errors=True)
                (self.folder / LATEST).unlink()
        return True

    @property
    def _epoch_steps(self) -> tuple[int, int]:
        """The first step of the epoch that runs, and how many it has."""
        if self.pace is not None:
            return self.pace.first_step, self.pace.steps
        return self.epoch * self.config.iterations, self.config.iterations

    def _write_cost(self) -> None:
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        seconds = sum(self.log.times.get("seconds", []))
        write_cost(
            self.folder,
            self.device,
            self.pace,
            wall_seconds=seconds,
            epochs=self.epoch,
            steps=self.step,
            last_learning_rate=rate,
        )

    def _train_epoch(self, batches: Iterator[Batch]) -> float | None:
        """Run the rest of the epoch; returns the seconds spent waiting for data, None when asked to stop."""
        self.model.train()
        waited, left = 0.0, sum(self._epoch_steps) - self.step
        for _ in bar(range(left), title=f"Epoch {self.epoch + 1}", quiet=not self.processes.first):
            asked = time.monotonic()
            batch = self._to_device(next(batches))
            waited += time.monotonic() - asked
            loss, stop, save = self._step(batch)
            self.step += 1
            self.epoch_loss += loss
            self._look_ahead()
            if stop:
                self._save(LATEST)
                of = "" if self.pace else f" of {self.config.steps}"
                self.log.line(
                    f"Stopped after step {self.step}{of} by {self.stopping.reason() or 'another process'}; --c continues."
                )
                return None
            if save:
                self._save(LATEST)
        return waited

    def _step(self, batch: Batch) -> tuple[float, bool, bool]:
        """Return the loss of the whole batch, and whether to stop and to save, as all processes agree."""
        self._set_rates(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        several = self.processes.count > 1
        loss = backward(
            self.model,
            split(batch, self.config.accumulate),
            autocast=lambda: autocast(self.device, self.precision),
            scale=self.scaler.scale,
            reduce=self.processes.sum if several else None,
            samples=self.job.batch_size if several else None,
        )
        asked = [
            float(loss),
            float(self.stopping.reason() is not None),
            float(self.processes.first and self._save_is_due()),
        ]
        total, stop, save = self.processes.sum_gradients(self.trained, asked)
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.trained, self.config.gradient_clip or math.inf))
        if not math.isfinite(total) or not (
            math.isfinite(norm) or self.scaler.is_enabled()
        ):  # the scaler skips such steps and lowers its scale
            self._refuse_not_finite(total, norm, batch)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.step)
        return total, stop > 0, save > 0

    def _set_rates(self, step: int) -> None:
        """Give the optimizer the learning rates of a step of the epoch that runs."""
        first, count = self._epoch_steps  # all epochs are taken to have as many; only the share that is over matters
        position, steps = self.epoch * count + step - first, self.config.epochs * count
        factor = rate_factor(position, steps, warmup=self.config.warmup, power=self.config.decay_power)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor

    def _look_ahead(self) -> None:
        """Say after the first steps how long the training will take; a training of fixed minutes ends there when they do not hold it."""
        if self.pace is not None:
            self.pace.after_step(self.step, compiled=self.config.compile)
            return
        left = sum(self._epoch_steps) - self.step
        said = self.forecast.after_step(self.config, left, self.config.last_epoch - self.epoch, self.device.type)
        if said is not None:
            self.log.line(said)

    def _save_is_due(self) -> bool:
        """Tell whether checkpoint_latest is to be saved after the step that runs."""
        every = self.run_config.save_every_steps
        late = 0 < 60 * self.run_config.save_every_minutes <= time.monotonic() - self.saved_at
        return self.saves and (late or bool(every and (self.step + 1) % every == 0))

    @torch.no_grad()
    def _validate(self) -> tuple[float, list[float]]:
        """Return the mean loss and the Dice of each foreground class or region over all validation patches together."""
        self.model.eval()
        losses, counts = torch.zeros(2), torch.zeros(3, len(self.labels.foreground))
        with self.average.applied() if self.average else nullcontext():
            for batch in map(
                self._to_device,
                self.sources.validation(0, validation_steps(self._epoch_steps[1], self.config.validation_iterations)),
            ):
                with autocast(self.device, self.precision):
                    loss = torch.stack(list(self.model.loss(batch).values())).sum()
                    logits = self.model.answer(batch)
                losses += torch.tensor([float(loss), 1.0]) * len(batch.image)
                counts += self._counts(logits.float(), batch.label).cpu()
        summed = self.processes.sum({"losses": losses.to(self.device), "counts": counts.to(self.device)})
        both, predicted, reference = summed["counts"].cpu()
        return float(summed["losses"][0] / summed["losses"][1]), (2 * both / (predicted + reference)).tolist()

    def _counts(self, logits: Tensor, label: Tensor) -> Tensor:
        """Voxels in both, in the prediction and in the reference, each foreground class or region: (3, R)."""
        reference = region_targets(label, self.labels)
        known = 1.0 if self.labels.ignore is None else (label != self.labels.ignore).unsqueeze(1)
        predicted = (logits > 0).float() if self.labels.has_regions else region_targets(logits.argmax(1), self.labels)
        axes = (0, 2, 3, 4)
        return torch.stack([(part * known).sum(axes) for part in (predicted * reference, predicted, reference)])

    def _finish_epoch(self, val_loss: float, dice: list[float], began: float, waited: float) -> None:
        train_loss = self.epoch_loss / self._epoch_steps[1]
        known = [value for value in dice if not math.isnan(value)]
        mean = sum(known) / len(known) if known else 0.0
        earlier = self.log.values.get("ema_fg_dice", [])
        smoothed = SMOOTHING * earlier[-1] + (1 - SMOOTHING) * mean if earlier else mean
        values = {"train_loss": train_loss, "val_loss": val_loss, "mean_fg_dice": mean, "ema_fg_dice": smoothed}
        deciding = smoothed
        if self.sources.whole is not None:
            with self.average.applied() if self.average else nullcontext():
                found = self.sources.whole() if self.processes.first else 0.0
            deciding = values["whole_dice"] = self.processes.of_first(
                found, self.device
            )  # lest rounding divides them over what is best
        values |= (
            {f"{DICE}{name}": value for (name, _), value in zip(self.labels.foreground, dice, strict=True)}
            if len(dice) > 1
            else {}
        )
        rates = {
            group["part"]: group["lr"] for group in sorted(self.optimizer.param_groups, key=lambda group: group["lr"])
        }
        values |= {{"head": "learning_rate"}.get(part, f"{part}_learning_rate"): rate for part, rate in rates.items()}
        whole = self.taken_up_at <= self._epoch_steps[0]
        self.epoch, self.epoch_loss = self.epoch + 1, 0.0
        if self.pace is not None:
            self.pace.begin_epoch(self.epoch)
        seconds = time.monotonic() - began
        self.forecast.over = True  # this line tells
        self.log.epoch(values, {"seconds": seconds, "waiting_seconds": waited})
        self.whole_epochs += [seconds] if whole else []
        classes = ", ".join(
            f"{name} {value:.3f}" for (name, _), value in zip(self.labels.foreground, dice, strict=True)
        )
        self.log.line(
            f"epoch {self.epoch}/{self.config.epochs}: training loss {train_loss:.4f}, validation loss {val_loss:.4f}, Dice {mean:.3f} ({classes}), "
            f"{seconds:.1f} s, {100 * waited / seconds:.0f} % waiting for data{self._time_left()}"
        )
        better = deciding > self.best_dice
        self.best_dice = max(self.best_dice, deciding)
        if self.saves and better:
            self._save(BEST)
        if self.saves:
            self._save(LATEST)

    def _time_left(self) -> str:
        """Return ", 41 min left" for the end of an epoch's line; nothing where it is not known, and after the last epoch."""
        epochs = self.config.last_epoch - self.epoch
        left = self.pace.seconds_left if self.pace is not None else seconds_left(self.whole_epochs, epochs)
        return f", {readable_seconds(left)} left" if epochs and left is not None else ""

    def _out_of_patience(self) -> bool:
        """Tell whether the best Dice lies as many epochs back as the settings allow."""
        dice = self.log.values.get("whole_dice") or self.log.values.get("ema_fg_dice", [])
        if (
            not self.config.patience
            or not dice
            or len(dice) - max(dice.index(max(dice)) + 1, self.patient_from) < self.config.patience
        ):
            return False
        self.log.line(f"No better Dice for {self.config.patience} epochs; training ends after epoch {self.epoch}.")
        return True

    def _refuse_not_finite(self, loss: float, norm: float, batch: Batch) -> NoReturn:
        """End at a loss or gradient that is not a number, before it reaches a weight, and leave the batch for whoever looks into it."""
        what = f"loss became {loss}" if not math.isfinite(loss) else f"gradient's norm became {norm}"
        path = (
            self.folder
            / f"not_finite_step_{self.step}{f'_process_{self.processes.rank}' if self.processes.count > 1 else ''}.safetensors"
        )
        try:
            save_tensors(path, {"image": batch.image, "label": batch.label})
            left = f"; its batch is in {path}"
        except CheckpointError:
            left = ""
        raise SamunetError(
            f"The training {what} in step {self.step} (epoch {self.epoch + 1}), on cases {', '.join(self.sources.cases(self.step))}{left}. "
            f"Lower --learning_rate or use --precision fp32; checkpoints in {self.folder} are from before."
        )

    def _take_up(self, resume: Checkpoint) -> None:
        state = resume.state
        load_trainable_state(self.model, resume.model, self.folder, pretrained=self.job.weights_sha256 is not None)
        load_optimizer_state(self.optimizer, self.names, resume.optimizer)
        self.step, self.epoch, self.epoch_loss, self.best_dice = (
            state.step,
            state.epoch,
            state.epoch_loss,
            state.best_dice,
        )
        self.scaler.load_state_dict(state.scaler)
        if self.average is not None:
            for name, value in resume.average.items():
                self.average.averages[name].copy_(value)
        rank = self.processes.rank
        if f"cpu.{rank}" in resume.random:
            torch.set_rng_state(resume.random[f"cpu.{rank}"])
        if f"cuda.{rank}" in resume.random and self.device.type == "cuda":
            torch.cuda.set_rng_state(resume.random[f"cuda.{rank}"], self.device)

    def _save(self, name: str) -> None:
        """Write a checkpoint; all processes call it, since each has generators of its own."""
        generators = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        meet = self.device if self.device.type == "cuda" else torch.device("cpu")
        random = {
            f"{kind}.{rank}": own
            for kind, state in generators.items()
            for rank, own in enumerate(self.processes.gather(state, meet))
        }
        if not self.saves or not self.processes.first:
            return
        state = CheckpointState(
            format=FORMAT,
            configuration=self.job.configuration,
            trainer=self.job.trainer,
            step=self.step,
            epoch=self.epoch,
            epoch_loss=self.epoch_loss,
            best_dice=self.best_dice,
            weights_sha256=self.job.weights_sha256,
            scaler=self.scaler.state_dict(),
            training=deciding_settings(self.config, PRECISION_NAMES[self.precision]),
            precision=PRECISION_NAMES[self.precision],
            history=self.log.history,
            pace=self.pace.state() if self.pace else {},
        )
        save_checkpoint(
            self.folder / name,
            Checkpoint(
                state=state,
                model=trainable_state(self.model, pretrained=self.job.weights_sha256 is not None),
                optimizer=optimizer_state(self.optimizer, self.names),
                random=random,
                average=self.average.averages if self.average else {},
            ),
        )
        self.saved_at = time.monotonic()

    def _to_device(self, batch: Batch) -> Batch:
        return Batch(
            image=batch.image.to(self.device, non_blocking=True), label=batch.label.to(self.device, non_blocking=True)
        )


def make_optimizer(model: SlabSegmenter, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW with one peak rate a parameter group; biases and norms are not decayed."""
    peaks = {"head": config.learning_rate, "backbone": config.backbone_learning_rate}
    groups = []
    for group in model.parameter_groups():
        peak = peaks[group.part] * group.scale
        for decayed in (True, False):
            chosen = [parameter for parameter in group.parameters if (parameter.ndim > 1) == decayed]
            if chosen:
                groups.append(
                    {
                        "params": chosen,
                        "part": group.part,
                        "peak": peak,
                        "lr": peak,
                        "weight_decay": config.weight_decay * (decayed or config.decay_all),
                    }
                )
    return torch.optim.AdamW(groups, fused=True)
