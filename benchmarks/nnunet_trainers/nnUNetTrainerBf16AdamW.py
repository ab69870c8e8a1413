"""nnU-Net's network, data and loss with samunet's precision and optimizer: what of a difference these two explain."""

from __future__ import annotations

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

RATE, DECAY = 1e-3, 0.05  # TrainingConfig's


class nnUNetTrainerBf16AdamW(nnUNetTrainer):
    """nnU-Net's trainer in bf16 on a CPU too, with AdamW."""

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """AdamW with samunet's rate and nnU-Net's decay."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
        return optimizer, PolyLRScheduler(optimizer, RATE, self.num_epochs)

    def train_step(self, batch: dict) -> dict:
        """As nnU-Net's, in bf16."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return super().train_step(batch)

    def validation_step(self, batch: dict) -> dict:
        """As nnU-Net's, in bf16."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return super().validation_step(batch)
