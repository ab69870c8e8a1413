"""The optimizer of every training, and the learning rates of its parameter groups."""

from __future__ import annotations

import torch

from samunet.models.segmenter import SlabSegmenter
from samunet.training.config import TrainingConfig


def make_optimizer(model: SlabSegmenter, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW with one peak rate a parameter group; biases and norms are not decayed."""
    peaks = {"head": config.learning_rate, "backbone": config.backbone_learning_rate}
    groups = []
    for group in model.parameter_groups():
        peak = peaks[group.part] * group.scale
        for decayed in (True, False):
            parameters = [parameter for parameter in group.parameters if (parameter.ndim > 1) == decayed]
            if parameters:
                groups.append(
                    {
                        "params": parameters,
                        "part": group.part,
                        "peak": peak,
                        "lr": peak,
                        "weight_decay": config.weight_decay * (decayed or config.decay_all),
                    }
                )
    return torch.optim.AdamW(groups, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its peak rate times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def rates_of(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the learning rates as logs name them, the largest of each part."""
    return {
        "learning_rate" if group["part"] == "head" else f"{group['part']}_learning_rate": group["lr"]
        for group in sorted(optimizer.param_groups, key=lambda group: group["lr"])
    }
