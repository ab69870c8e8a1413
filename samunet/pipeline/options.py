"""What may be asked of a training and of simulated prompts; free of torch, so that the command line shows it at once.

Annotations say how a field is written there, see `samunet.cli.fields`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.core.names import DEFAULT_PLANS_NAME
from samunet.core.units import counted
from samunet.errors import ConfigError
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


@dataclass(frozen=True, kw_only=True)
class Clicking:
    """How a simulated user shows structures.

    0 points stand for one box per structure.
    """

    points: Annotated[int, "--points N"] = 1
    """Clicks inside a structure in each slice where it is: the first farthest from its border, the others
    anywhere."""
    whole: bool = False
    """Click at structures as a whole, as 3d_adapter_prompted wants it, not at each of their slices: the first time in
    the middle of the largest piece in the slice that shows most of it, then anywhere."""
    relaxation: Annotated[int, "--relaxation VOXELS"] = 0
    """Voxels by which a box is larger on every side."""
    axis: Annotated[int, "-axis AXIS"] = 0
    """Axis of the file's array, (D, H, W), along which the slices of the clicks follow each other: for NIfTI 0 is z."""
    seed: Annotated[int, "-seed N"] = 1234
    """Of the clicks after the first."""

    def __post_init__(self) -> None:
        if self.points < 0 or self.relaxation < 0 or self.axis not in (0, 1, 2):
            raise ConfigError(
                f"points and relaxation must be 0 or more, the axis 0, 1 or 2; got {self.points}, {self.relaxation} "
                f"and {self.axis}."
            )

    @property
    def origin(self) -> str:
        """What these prompts are, in words."""
        if not self.points:
            return "reference: one 3D box per structure" + (
                f", larger by {self.relaxation} voxels on every side" if self.relaxation else ""
            )
        where = "per structure" if self.whole else "per structure and slice"
        return f"reference: {counted(self.points, 'click')} {where}"
