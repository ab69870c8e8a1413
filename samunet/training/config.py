"""Training settings: what a model depends on, and what a run does around it. The defaults are here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from samunet.core.codec import encode
from samunet.core.ranges import OneOf, Within, check_ranges
from samunet.errors import ConfigError, did_you_mean
from samunet.machine.precision import PRECISIONS

AUGMENTATIONS = ("default", "none")
AtLeastOne = Annotated[int, Within(1)]
NotNegative = Annotated[int, Within(0)]
Amount = Annotated[float, Within(0)]
Rate = Annotated[float, Within(0, above=True)]
Fraction = Annotated[float, Within(0, 1, below=True)]
WITHOUT_EFFECT = ("workers",)  # settings on which not a bit of a training depends
LOG_PROGRAMS = ("tensorboard", "mlflow", "wandb")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained."""

    epochs: NotNegative = 200
    """Number of epochs; the learning rate reaches zero at the last one. 0, with minutes: as many as suit them."""
    iterations: AtLeastOne = 250
    """Optimizer steps per epoch (nnU-Net's 250)."""
    minutes: Amount = 0.0
    """Minutes that the epochs share, instead of having `iterations` steps each: the learning rate reaches zero when
    they are over. Without a number of epochs, as many are chosen as suit them. With one thread of a CPU they are
    processor time, otherwise time of day. 0 for no such limit."""
    validation_iterations: AtLeastOne = 50
    """Validation batches per epoch; at most a fifth of the iterations. The same patches each epoch."""
    batch_size: NotNegative = 0
    """Patches per step; 0 takes the plan's."""
    accumulate: AtLeastOne = 1
    """Parts into which a batch is split, one after the other, to save memory; the gradient is that of the whole
    batch."""
    learning_rate: Rate = 1e-3
    """Peak, for adapters, heads and the convolutional path."""
    backbone_learning_rate: Rate = 5e-4
    """Peak, for SAM's own weights where they train."""
    weight_decay: Amount = 0.05
    """AdamW's; biases and norms are not decayed."""
    decay_all: bool = False
    """Decay biases and norms as well."""
    warmup: Fraction = 0.05
    """Share of all steps over which the learning rate rises linearly."""
    decay_power: Amount = 0.9
    """After the warm-up the rate is peak * (1 - progress)^power (nnU-Net's 0.9)."""
    gradient_clip: Amount = 1.0
    """Largest gradient norm; 0 leaves gradients as they are."""
    ema: Fraction = 0.0
    """Decay of a moving average of the weights, e.g. 0.999, which then is validated and predicts; 0 for none."""
    patience: NotNegative = 0
    """Epochs without a better Dice after which training ends; 0 trains to the last epoch."""
    stop_epoch: NotNegative = 0
    """Epoch after which training ends, the learning rate still decaying toward the last; 0 trains to the last."""
    augmentation: Annotated[str, OneOf(*AUGMENTATIONS)] = "default"
    """"default": nnU-Net's; "none": patches as they are, and a frozen encoder's embeddings are kept on disk where whole
    planes fit the patch."""
    balance_classes: bool = False
    """Choose the class of a foreground patch first and then a case that holds it, for classes that few cases hold."""
    whole_cases: NotNegative = 0
    """Validation cases predicted whole after every epoch; their mean Dice then chooses checkpoint_best, instead of that
    of patches."""
    fast_fp32: bool = False
    """Let oneDNN multiply fp32 matrices on a CPU, where a check finds it as exact; last digits then differ from run to
    run."""
    compile: bool = False
    """Compile the network with torch.compile."""
    seed: Annotated[int, Within(0, 2**63 - 1)] = 0
    """Seed of weights, patches and augmentation."""
    workers: Annotated[int, Within(-1)] = -1
    """Processes that augment ahead; -1 chooses by device and cores, 0 augments in the training process."""
    precision: Annotated[str, OneOf(*PRECISIONS)] = "auto"
    """"auto": bf16 where the hardware has it, else fp16 on CUDA, else fp32."""

    def __post_init__(self) -> None:
        check_ranges(self, "Training setting")
        if not self.epochs and (self.stop_epoch or not self.minutes):
            raise ConfigError(
                "Training setting epochs must be 1 or more; got 0, which goes with minutes and without stop_epoch."
            )

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

    max_hours: Amount = 0.0
    """Stop after this many hours of this run, after the step, with everything saved; --c continues. 0 for no limit."""
    save_every_minutes: Amount = 10.0
    """Save checkpoint_latest at least so often; it is saved after every epoch too."""
    save_every_steps: NotNegative = 0
    """Save checkpoint_latest each time after this many steps; 0 for time and epochs only."""
    log: str = ""
    """Also log to tensorboard, mlflow (a local folder) or wandb; several with commas."""

    def __post_init__(self) -> None:
        check_ranges(self, "Training setting")
        for name in self.logs:
            if name not in LOG_PROGRAMS:
                raise ConfigError(f"There is no log '{name}'.{did_you_mean(name, LOG_PROGRAMS)}")

    @property
    def logs(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.log.split(",") if name.strip())


def settings_from(given: Mapping[str, Any]) -> TrainingConfig:
    """Return the settings of a new training; minutes without a number of epochs choose it."""
    chosen = given.get("minutes") and not {"epochs", "stop_epoch"} & {*given}
    return TrainingConfig(**({**given, "epochs": 0} if chosen else given))


def deciding_settings(config: TrainingConfig, precision: str) -> dict[str, Any]:
    """Return the settings as files of equal trainings hold them: without what changes nothing in them, and with the
    number format that was taken.

    Args:
        precision: what "auto" came to.
    """
    return {name: value for name, value in encode(config).items() if name not in WITHOUT_EFFECT} | {
        "precision": precision
    }


Preset = Literal["ma_sam"]
PRESETS: dict[Preset, dict[str, Any]] = {
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
"""Settings by name. ma_sam: the optimization of Chen et al. (2024), with 24 slabs on eight GPUs; their augmentation is
not part of it."""
