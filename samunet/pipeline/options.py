"""What a user may ask of a training besides its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from samunet.core.plan import DEFAULT_PLANS_NAME
from samunet.training.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Which training, and what to do around it."""

    configuration: str
    fold: str
    plans_name: str = DEFAULT_PLANS_NAME
    device: str | None = None
    resume: bool = False
    extend: int = 0
    """Epochs to add to a training that is continued."""
    overwrite: bool = False
    """A training from the beginning may replace a finished one, whose model stays until the new one is there."""
    pretrained: Path | None = None
    """A checkpoint of samunet whose weights training starts from, as far as they fit."""
    variation: str = ""
    """Added to the name of the fold's folder, so that a fold can be trained more than once."""
    only_validate: bool = False
    validate_best: bool = False
    """Validate checkpoint_best instead of checkpoint_final."""
    save_checkpoints: bool = True
    validate: bool = True
    """Predict and score the validation cases at the end; needs checkpoints."""
    save_probabilities: bool = False
    run: RunConfig = RunConfig()
    rank: int = 0
    """Of this process, where several train one model."""
    processes: int = 1
    command: tuple[str, ...] = ()
    """What the user typed, for debug.json."""
