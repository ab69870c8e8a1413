"""What may be asked of a training; free of torch, so that the command line can show it at once.

Annotations say how a field is written there, see `samunet.cli.fields`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.core.names import DEFAULT_PLANS_NAME
from samunet.training.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Which training, and what to do around it."""

    configuration: Annotated[str, "configuration"]
    """Configuration of the plan, e.g. 3d_adapter or 2d_adapter."""
    fold: Annotated[str, "fold"]
    """Fold of the cross-validation, 0 to 4, or all."""
    plans_name: Annotated[str, "-p NAME"] = DEFAULT_PLANS_NAME
    """Plan."""
    device: Annotated[str | None, "-device NAME"] = None
    """cuda, cuda:1, mps or cpu (default: the best one present)."""
    resume: Annotated[bool, "--c"] = False
    """Continue the training in the fold's folder, with its settings."""
    extend: Annotated[int, "--extend EPOCHS"] = 0
    """With --c: train this many epochs more than planned."""
    overwrite: bool = False
    """Train a finished fold again; its model stays until the new one is there."""
    pretrained: Annotated[Path | None, "-pretrained_weights FILE"] = None
    """Start from the weights of another training, or of samunet_pretrain, as far as they fit; "seed" for those that
    come with samunet."""
    variation: Annotated[str, ""] = ""
    """Added to the name of the fold's folder, so that a fold can be trained more than once."""
    proposals: bool = False
    """Train on labels too that samunet_fewshot proposed and nobody has corrected, as dataset.json names them."""
    only_validate: Annotated[bool, "--val"] = False
    """Only validate a finished training."""
    validate_best: Annotated[bool, "--val_best"] = False
    """Validate checkpoint_best instead of checkpoint_final, into validation_best."""
    save_checkpoints: Annotated[bool, "--disable_checkpointing"] = True
    """Write checkpoints, which validation needs; without them for timing."""
    validate: Annotated[bool, "--skip_validation"] = True
    """Predict and score the validation cases at the end, which --val can do later."""
    save_probabilities: Annotated[bool, "--npz"] = False
    """Also save the probabilities of the validation cases."""
    run: Annotated[RunConfig, ""] = RunConfig()
    rank: Annotated[int, ""] = 0
    """Number of this process, where several train one model."""
    processes: Annotated[int, ""] = 1
    command: Annotated[tuple[str, ...], ""] = ()
    """What the user typed, for debug.json."""
