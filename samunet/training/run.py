"""One training of one fold, settled: the same frozen `Run` goes from what was asked for to the loop."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from samunet.checkpoints.file import Checkpoint
from samunet.core.batch import Batch
from samunet.core.dataset import DatasetSpec
from samunet.core.plan import Configuration, Plan
from samunet.core.workspace import dataset_id
from samunet.machine.hardware import PRECISION_NAMES
from samunet.planning.splits import Split
from samunet.training.config import RunConfig, TrainingConfig, deciding_settings

Batches = Callable[[int, int], Generator[Batch, None, None]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is trained, on what, how, where it lands, and what it goes on from."""

    plan: Plan
    name: str
    """The configuration's name in the plan, e.g. 3d_adapter."""
    spec: DatasetSpec
    fold: str
    split: Split
    data: Path
    """The folder of the preprocessed cases."""
    folder: Path
    """The fold's folder, which gets logs and checkpoints."""
    config: TrainingConfig
    """The settings, in which the batch size is that of all processes together and never 0."""
    control: RunConfig
    device: torch.device
    precision: torch.dtype | None
    """The autocast type; None for fp32."""
    saves: bool = True
    """False writes no checkpoints."""
    resume: Checkpoint | None = None
    """Where the training goes on."""
    extended: bool = False
    """The training that goes on gets more epochs; earlier ones do not count for patience."""
    pretrained: Path | None = None
    """A checkpoint whose weights a new training starts from, as far as they fit."""
    made_of: dict[str, str] = field(default_factory=dict)
    """Hashes of the split, of the labels' meaning, of the cases' files and of the plan; checkpoints hold them."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Of a pretraining: what its network is and learns; checkpoints hold it."""
    command: tuple[str, ...] = ()
    """What the user typed, for debug.json."""

    @property
    def configuration(self) -> Configuration:
        """The plan's configuration that is trained."""
        return self.plan.configuration(self.name)

    @property
    def weights_sha256(self) -> str | None:
        """The SHA-256 of the file of pretrained weights; None without."""
        return self.configuration.weights_sha256

    @property
    def precision_name(self) -> str:
        """The number format's name: bf16, fp16 or fp32."""
        return PRECISION_NAMES[self.precision]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as files of equal trainings hold them."""
        return deciding_settings(self.config, self.precision_name)

    def again(self, flags: Mapping[str, object], without: Collection[str] = ()) -> str:
        """Return the command that was typed with other values of some flags and without others, to copy; the flags
        alone where there was none.
        """
        kept: list[str] = []
        left_out = {*flags, *without}
        words = iter(self.command)
        for word in words:
            name, equals, _ = word.partition("=")
            if name in left_out:
                _ = equals or next(words, None)
            elif word == "--set" and f"--{(value := next(words, '')).partition('=')[0]}" not in left_out:
                kept += [word, value]
            elif word not in ("--c", "--set"):
                kept.append(word)
        return shlex.join([*kept, *(str(part) for flag in flags.items() for part in flag)])

    @property
    def smaller(self) -> str:
        """How to plan and train smaller, in commands; "" where the plan is no dataset's."""
        number = dataset_id(self.plan.dataset)
        if not number:  # scenes have number 0
            return ""
        name, gib = f"{self.plan.plans_name}_small", min(1.0, self.plan.memory_gib / 2)
        return (
            f"plan smaller (samunet_plan_and_preprocess -d {number} -c {self.name} -gpu_memory_target {gib:g} "
            f"-overwrite_plans_name {name}, then {self.again({'-p': name})})"
        )


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
