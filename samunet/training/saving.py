"""Checkpoints of a training: when the next is due, and what takes the place of what."""

from __future__ import annotations

import shutil
import time

from samunet.checkpoints.file import save_checkpoint
from samunet.core.results import FINAL, LATEST, VALIDATION, VALIDATION_BEST
from samunet.training.log import TrainingLog
from samunet.training.processes import Processes
from samunet.training.run import Run
from samunet.training.schedule import Schedule
from samunet.training.state import TrainingState, generators_of_all


class Saver:
    """Writes a fold's checkpoints, where the run writes any; of several processes the first does."""

    def __init__(self, run: Run, processes: Processes) -> None:
        self.run, self.processes = run, processes
        self.saved_at = time.monotonic()
        self.replaces = run.resume is None and (run.folder / FINAL).is_file()
        """A finished training, which --c would take for this one until it is saved."""

    def is_due(self, step: int) -> bool:
        """Tell whether this process is to save checkpoint_latest after a step, counted from 1."""
        control = self.run.control
        late = 0 < 60 * control.save_every_minutes <= time.monotonic() - self.saved_at
        counted = control.save_every_steps > 0 and step % control.save_every_steps == 0
        return self.processes.first and self.run.saves and (late or counted or (self.replaces and step == 1))

    def save(self, name: str, state: TrainingState, log: TrainingLog, schedule: Schedule) -> None:
        """Write a checkpoint; all processes call it, since each has generators of its own."""
        if not self.run.saves:
            return
        random = generators_of_all(self.processes, self.run.device)
        if self.processes.first:
            save_checkpoint(self.run.folder / name, state.checkpoint(log, schedule, random))
            self.saved_at = time.monotonic()

    def finish(self, state: TrainingState, log: TrainingLog, schedule: Schedule) -> None:
        """Write checkpoint_final, which takes the place of what a finished training before left in the folder."""
        self.save(FINAL, state, log, schedule)
        if self.run.saves and self.processes.first and (self.run.folder / LATEST).is_file():
            for name in (VALIDATION, VALIDATION_BEST):  # by the model that was here before
                shutil.rmtree(self.run.folder / name, ignore_errors=True)
            (self.run.folder / LATEST).unlink()
