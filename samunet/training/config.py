"""Training settings: what a model depends on, and what a run does around it. The defaults are here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from samunet.errors import ConfigError, did_you_mean

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
AUGMENTATIONS = ("default", "none")
LOGS = ("tensorboard", "mlflow", "wandb")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained."""

    epochs: int = 200
    """Number of epochs; the learning rate reaches zero at the last one."""
    iterations: int = 250
    """Optimizer steps an epoch (nnU-Net's 250)."""
    minutes: float = 0.0
    """Minutes that the epochs share, instead of having `iterations` steps each: the learning rate reaches zero when they are over. With one
    thread of a CPU they are processor time, otherwise time of day. 0 for no such limit."""
    validation_iterations: int = 50
    """Validation batches an epoch; at most a fifth of the iterations. The same patches each epoch."""
    batch_size: int = 0
    """Patches a step; 0 takes the plan's."""
    accumulate: int = 1
    """Parts into which a batch is split, one after the other, to save memory; the gradient is that of the whole batch."""
    learning_rate: float = 1e-3
    """Peak, for adapters, heads and the convolutional path."""
    backbone_learning_rate: float = 5e-4
    """Peak, for SAM's own weights where they train."""
    weight_decay: float = 0.05
    """AdamW's; biases and norms are not decayed."""
    decay_all: bool = False
    """Decay biases and norms as well."""
    warmup: float = 0.05
    """Share of all steps over which the learning rate rises linearly."""
    decay_power: float = 0.9
    """After the warm-up the rate is peak * (1 - progress)^power (nnU-Net's 0.9)."""
    gradient_clip: float = 1.0
    """Largest gradient norm; 0 leaves gradients as they are."""
    ema: float = 0.0
    """Decay of a moving average of the weights, e.g. 0.999, which then is validated and predicts; 0 for none."""
    patience: int = 0
    """Epochs without a better Dice after which training ends; 0 trains to the last epoch."""
    stop_epoch: int = 0
    """Epoch after which training ends, the learning rate still decaying toward the last; 0 trains to the last."""
    augmentation: str = "default"
    """"default": nnU-Net's; "none": patches as they are, and a frozen encoder's embeddings are kept on disk where whole planes fit the patch."""
    balance_classes: bool = False
    """Choose the class of a foreground patch first and then a case that holds it, for classes that few cases hold."""
    whole_cases: int = 0
    """Validation cases predicted whole after every epoch; their mean Dice then chooses checkpoint_best, instead of that of patches."""
    fast_fp32: bool = False
    """Let oneDNN multiply fp32 matrices on a CPU, where a check finds it as exact; last digits then differ from run to run."""
    compile: bool = False
    """Compile the network with torch.compile."""
    seed: int = 0
    """Of weights, patches and augmentation."""
    workers: int = -1
    """Processes that augment ahead; -1 chooses by device and cores, 0 augments in the training process."""
    precision: str = "auto"
    """"auto": bf16 where the hardware has it, else fp16 on CUDA, else fp32."""

    def __post_init__(self) -> None:
        for name in ("epochs", "iterations", "validation_iterations", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Training setting {name} must be 1 or more; got {getattr(self, name)}.")
        for name in ("learning_rate", "backbone_learning_rate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"Training setting {name} must be above 0; got {getattr(self, name)}.")
        for name in ("minutes", "batch_size", "gradient_clip", "weight_decay", "patience", "stop_epoch", "whole_cases"):
            if getattr(self, name) < 0:
                raise ConfigError(f"Training setting {name} must be 0 or more; got {getattr(self, name)}.")
        for name in ("warmup", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"Training setting {name} must be in [0, 1); got {getattr(self, name)}.")
        for name, known in (("precision", PRECISIONS), ("augmentation", AUGMENTATIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"Training setting {name} must be one of {', '.join(known)}; got '{getattr(self, name)}'.")

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * self.iterations

    @property
    def last_epoch(self) -> int:
        """The epoch after which training ends."""
        return min(self.epochs, self.stop_epoch or self.epochs)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """When a run saves, when it stops, and whom it tells; the weights do not depend on it."""

    max_hours: float = 0.0
    """Stop after so many hours of this run, after the step, with everything saved; --c continues. 0 for no limit."""
    save_every_minutes: float = 10.0
    """Save checkpoint_latest at least so often; it is saved after every epoch too."""
    save_every_steps: int = 0
    """Save checkpoint_latest after every so many steps; 0 for time and epochs only."""
    log: str = ""
    """Also log to tensorboard, mlflow (a local folder) or wandb; several with commas."""

    def __post_init__(self) -> None:
        for name in ("max_hours", "save_every_minutes", "save_every_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"Training setting {name} must be 0 or more; got {getattr(self, name)}.")
        for name in self.logs:
            if name not in LOGS:
                raise ConfigError(f"There is no log '{name}'.{did_you_mean(name, LOGS)}")

    @property
    def logs(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.log.split(",") if name.strip())


PRESETS: dict[str, dict[str, Any]] = {
    "ma_sam": {
        "epochs": 400,
        "stop_epoch": 300,
        "iterations": 126,
        "batch_size": 24,
        "accumulate": 8,
        "learning_rate": 8e-4,
        "backbone_learning_rate": 8e-4,
        "weight_decay": 0.1,
        "decay_all": True,
        "warmup": 250 / (400 * 126),
        "decay_power": 7.0,
        "gradient_clip": 0.0,
    }
}
"""Settings by name. ma_sam: the optimization of Chen et al. (2024), with 24 slabs on eight GPUs; their augmentation is not part of it."""
