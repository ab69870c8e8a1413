"""nnU-Net's trainers with another length: so many epochs, and where wanted so many minutes; nothing else differs.

samunet writes a file with such a trainer, see `samunet.comparison.nnunet`, and nnU-Net finds it there by its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from samunet.training.config import TrainingConfig
from samunet.training.cost import write_cost
from samunet.training.pace import validation_steps
from samunet.training.schedule import schedule_of

CUDA = torch.device("cuda")


class Timed(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net is not typed
    """Left of one of nnU-Net's trainers among the bases of a class, which gives the numbers."""

    epochs = 1000
    minutes = 0.0
    """See `TrainingConfig.minutes`; 0 leaves nnU-Net's 250 iterations per epoch."""

    threads = 0
    """Threads of a CPU; 0 leaves nnU-Net's choice."""

    num_iterations_per_epoch: int
    num_val_iterations_per_epoch: int

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = CUDA,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)  # nnU-Net reads the names of these from here
        self.num_epochs = self.epochs
        if self.threads:
            torch.set_num_threads(self.threads)  # nnU-Net's command takes every core of a CPU
        config = TrainingConfig(epochs=self.epochs, minutes=self.minutes, iterations=self.num_iterations_per_epoch)
        self.schedule = schedule_of(config, device, None)

    def on_train_start(self) -> None:
        """Start the clock when all is set up."""
        super().on_train_start()
        self.schedule.start()

    def on_epoch_start(self) -> None:
        """Give the epoch its steps."""
        if self.schedule.steps != self.num_iterations_per_epoch:
            self.num_iterations_per_epoch = self.schedule.steps
            self.num_val_iterations_per_epoch = validation_steps(self.schedule.steps)
        super().on_epoch_start()

    def on_epoch_end(self) -> None:
        """Tell the schedule what the epoch took; the last writes the cost."""
        super().on_epoch_end()
        self.schedule.begin_epoch(self.current_epoch)
        if self.current_epoch == self.num_epochs:
            began, ended = (self.logger.get_value(f"epoch_{side}_timestamps", None) for side in ("start", "end"))
            write_cost(
                Path(self.output_folder),
                self.device,
                minutes=self.schedule.minutes,
                wall_seconds=sum(ended) - sum(began),  # of earlier runs too: the log goes into checkpoints
                epochs=self.num_epochs,
                steps=self.schedule.first_step,
                last_learning_rate=self.optimizer.param_groups[0]["lr"],
            )
