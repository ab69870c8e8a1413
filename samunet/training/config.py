"""Training settings. The defaults are here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from samunet.errors import ConfigError

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
AUGMENTATIONS = ("default", "none")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained."""

    epochs: int = 200
    """Number of epochs; the learning rate reaches zero at the last one."""
    iterations: int = 250
    """Optimizer steps an epoch (nnU-Net's 250)."""
    validation_iterations: int = 50
    """Validation batches an epoch; at most a fifth of the iterations. The same patches each epoch."""
    batch_size: int = 0
    """Patches a step; 0 takes the plan's."""
    accumulate: int = 1
    """Parts into which a batch is split, one after the other, to save memory; exact where the loss is made of sums, as ma_sam's."""
    learning_rate: float = 1e-3
    """Peak, for adapters, heads and the convolutional path."""
    backbone_learning_rate: float = 5e-4
    """Peak, for SAM's own weights where they train."""
    weight_decay: float = 0.05
    """AdamW's; biases and norms are not decayed."""
    warmup: float = 0.05
    """Share of all steps over which the learning rate rises linearly."""
    decay_power: float = 0.9
    """After the warm-up the rate is peak * (1 - progress)^power (nnU-Net's 0.9)."""
    gradient_clip: float = 1.0
    """Largest gradient norm."""
    augmentation: str = "default"
    """"default": nnU-Net's; "none": patches as they are, and a frozen encoder's embeddings are kept on disk where whole planes fit the patch."""
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
        for name in ("learning_rate", "backbone_learning_rate", "gradient_clip"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"Training setting {name} must be above 0; got {getattr(self, name)}.")
        if self.batch_size < 0 or not 0 <= self.warmup < 1:
            raise ConfigError(f"Training settings: batch_size must be 0 or more and warmup in [0, 1); got {self.batch_size} and {self.warmup}.")
        for name, known in (("precision", PRECISIONS), ("augmentation", AUGMENTATIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"Training setting {name} must be one of {', '.join(known)}; got '{getattr(self, name)}'.")

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * self.iterations

    @property
    def validation_steps(self) -> int:
        return max(1, min(self.validation_iterations, self.iterations // 5))
