"""The loop. It is given model, data, optimizer and log; it builds none of them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing

import torch
from torch import nn

from samunet.core.batch import Batch
from samunet.core.results import BEST, LATEST
from samunet.data.loader import naming_dead_workers
from samunet.machine.hardware import autocast
from samunet.machine.progress import bar
from samunet.models.segmenter import SlabSegmenter
from samunet.training.accumulate import backward, split
from samunet.training.curves import DICE
from samunet.training.log import TrainingLog, epoch_line
from samunet.training.not_finite import refuse_not_finite
from samunet.training.optimizer import rates_of, set_rates
from samunet.training.pace import validation_steps
from samunet.training.processes import Processes
from samunet.training.run import Run, Sources
from samunet.training.saving import Saver
from samunet.training.schedule import epochs_of, factor_at, schedule_of
from samunet.training.state import TrainingState
from samunet.training.stopping import StopRequest
from samunet.training.validation import epochs_without_better, mean_of_present, smoothed, to_device, validate_patches

ALONE = Processes()


class SAMTrainer:
    """Train a variant and keep the fold's folder up to date.

    A step is a function of the weights, the optimizer, torch's generators and the step's number; all of that is saved,
    so a training may end after any step and go on as if it had not.

    Args:
        model: on its device.
        optimizer: from `make_optimizer`.
        log: of the fold.
        stopping: asks for an end.
    """

    def __init__(
        self,
        *,
        run: Run,
        model: SlabSegmenter,
        optimizer: torch.optim.Optimizer,
        sources: Sources,
        log: TrainingLog,
        stopping: StopRequest,
        processes: Processes = ALONE,
    ) -> None:
        self.run, self.model, self.sources, self.log = run, model, sources, log
        self.stopping, self.processes = stopping, processes
        self.trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.state = TrainingState(run, model, optimizer)
        saved = run.resume.state if run.resume is not None else None
        self.schedule = schedule_of(run.config, run.device, saved, run)
        if run.resume is not None:
            self.state.take_up(run.resume, processes.rank)
            # What the log says of an epoch that was killed after its last step.
            set_rates(optimizer, factor_at(max(0, self.state.step - 1), self.schedule, run.config))
        self.taken_up_at = self.state.step
        self.saver = Saver(run, processes)

    def train(self) -> bool:
        """Train to the last epoch; returns False when asked to stop before, with everything saved."""
        state, config = self.state, self.run.config
        self.schedule.start()
        with (
            naming_dead_workers(),
            closing(self.sources.training(state.step, self.schedule.ahead(state.step))) as batches,
        ):
            while state.epoch < self.schedule.last_epoch:
                if 0 < config.patience <= epochs_without_better(self.log.values, state.patient_from):
                    self.log.line(
                        f"No better Dice for {config.patience} epochs; training ends after epoch {state.epoch}."
                    )
                    break
                began = time.monotonic()
                waited = self._train_epoch(batches)
                if waited is None:
                    return False
                loss, dice = self._validate()
                self._finish_epoch(loss, dice, began, waited)
        return True

    def finish(self) -> None:
        """Write checkpoint_final, which takes the place of what a finished training before left in the folder."""
        self.saver.finish(self.state, self.log, self.schedule)

    def _train_epoch(self, batches: Iterator[Batch]) -> float | None:
        """Run the rest of the epoch; returns the seconds spent waiting for data, None when asked to stop."""
        self.model.train()
        self.model.progress = self.schedule.epoch / epochs_of(self.schedule, self.run.config)
        state, schedule, waited = self.state, self.schedule, 0.0
        left = range(schedule.first_step + schedule.steps - state.step)
        for _ in bar(left, title=f"Epoch {state.epoch + 1}", quiet=not self.processes.first):
            asked = time.monotonic()
            batch = to_device(next(batches), self.run.device)
            waited += time.monotonic() - asked
            loss, stop, save = self._step(batch)
            state.step += 1
            state.epoch_loss += loss
            forecast = schedule.after_step(state.step)
            if forecast is not None:
                self.log.line(forecast)
            if stop or save:
                self.saver.save(LATEST, state, self.log, schedule)
            if stop:
                of = f" of {schedule.total}" if schedule.total is not None else ""
                reason = self.stopping.reason() or "another process"
                self.log.line(f"Stopped after step {state.step}{of} by {reason}; --c continues.")
                return None
        return waited

    def _step(self, batch: Batch) -> tuple[float, bool, bool]:
        """Return the loss of the whole batch, and whether to stop and to save, as all processes agree."""
        config, optimizer, scaler = self.run.config, self.state.optimizer, self.state.scaler
        set_rates(optimizer, factor_at(self.state.step, self.schedule, config))
        optimizer.zero_grad(set_to_none=True)
        several = self.processes.count > 1
        loss = backward(
            self.model,
            split(batch, config.accumulate),
            autocast=lambda: autocast(self.run.device, self.run.precision),
            scale=scaler.scale,
            reduce=self.processes.sum if several else None,
            samples=config.batch_size if several else None,
        )
        asked_to_stop, due = self.stopping.reason() is not None, self.saver.is_due(self.state.step + 1)
        numbers = [float(loss), float(asked_to_stop), float(due)]
        total, stop, save = self.processes.sum_gradients(self.trained, numbers)
        scaler.unscale_(optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.trained, config.gradient_clip or math.inf))
        refuse_not_finite(total, norm, batch, state=self.state, sources=self.sources, processes=self.processes)
        scaler.step(optimizer)  # which skips a step whose gradient is not finite, and lowers its scale
        scaler.update()
        if self.state.average is not None:
            self.state.average.update(self.state.step)
        return total, stop > 0, save > 0

    def _validate(self) -> tuple[float, list[float]]:
        """Return the mean loss and the Dice of each foreground class or region over all validation patches together."""
        count = validation_steps(self.schedule.steps, self.run.config.validation_iterations)
        with self.state.averaged():
            return validate_patches(
                self.model,
                self.sources.validation(0, count),
                self.run.spec.labels,
                device=self.run.device,
                precision=self.run.precision,
                processes=self.processes,
            )

    def _finish_epoch(self, val_loss: float, dice: list[float], began: float, waited: float) -> None:
        state, log, schedule = self.state, self.log, self.schedule
        mean = mean_of_present(dice)
        deciding = smoothed(mean, log.values.get("ema_fg_dice", []))
        values = {"train_loss": state.epoch_loss / schedule.steps, "val_loss": val_loss}
        values |= {"mean_fg_dice": mean, "ema_fg_dice": deciding}
        if self.sources.whole is not None:
            with state.averaged():
                whole = self.sources.whole() if self.processes.first else 0.0
            # The first process's for all, lest rounding divides them over what is best.
            deciding = values["whole_dice"] = self.processes.of_first(whole, self.run.device)
        of_class = {name: value for (name, _), value in zip(self.run.spec.labels.foreground, dice, strict=True)}
        if len(of_class) > 1:
            values |= {f"{DICE}{name}": value for name, value in of_class.items()}
        values |= rates_of(state.optimizer)
        state.epoch, state.epoch_loss = state.epoch + 1, 0.0
        schedule.begin_epoch(state.epoch)
        seconds = time.monotonic() - began
        log.epoch(values, {"seconds": seconds, "waiting_seconds": waited})
        left = schedule.seconds_left if state.epoch < schedule.last_epoch else None
        number = f"{state.epoch}/{epochs_of(schedule, self.run.config)}"
        log.line(epoch_line(number, values, of_class, seconds=seconds, waited=waited, left=left))
        better, state.best_dice = deciding > state.best_dice, max(state.best_dice, deciding)
        for checkpoint in (BEST, LATEST) if better else (LATEST,):
            self.saver.save(checkpoint, state, log, schedule)
