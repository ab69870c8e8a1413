"""Go on with a training: from which checkpoint, with which settings, and whether it is still the same training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from samunet.checkpoints.file import Checkpoint, check_frozen_weights, load_checkpoint
from samunet.core.codec import decode, encode
from samunet.core.plan import Plan, changed_for_training, load_plan
from samunet.core.results import BEST, FINAL, LATEST
from samunet.errors import CheckpointError, ConfigError
from samunet.training.config import TrainingConfig

logger = logging.getLogger(__name__)

FREE = ("workers", "compile")  # settings on which the weights do not depend but for rounding


def resumable(folder: Path) -> Checkpoint | None:
    """Return the latest, final or best checkpoint, the first that is there; None, with a word, when there is nothing to continue.

    Beside a final one, the latest is of a training that is to replace or extend it.
    """
    for name in (LATEST, FINAL, BEST):
        if (folder / name).is_file():
            return load_checkpoint(folder / name)
    logger.info("Nothing to continue in %s; training starts from the beginning.", folder)
    return None


def refuse_trained(folder: Path, *, overwrite: bool) -> None:
    """Raise ConfigError where a training from the beginning would replace a finished one that nobody said may go; say so where it may."""
    latest = (folder / LATEST).is_file()
    if (folder / FINAL).is_file():
        if not overwrite:
            goes_on = (
                "--c continues the training that was to replace or extend it"
                if latest
                else "--c --extend EPOCHS adds epochs"
            )
            raise ConfigError(f"{folder} is trained; {goes_on}, --val validates it, --overwrite trains it again.")
        logger.info(
            "This training replaces the finished one in %s, whose model stays until the new one is there.", folder
        )
    elif latest:
        logger.info("This training replaces the unfinished one in %s; --c would continue it.", folder)


def settings_to_train(
    settings: TrainingConfig | Mapping[str, Any], resume: Checkpoint | None, folder: Path, *, extend: int = 0
) -> TrainingConfig:
    """Return the settings of a training.

    Args:
        settings: all of them; or only those that were given, the others being the defaults, or those of the training that continues.
        extend: epochs to add to a training that continues.

    Raises:
        CheckpointError: a setting differs from that of the training that continues.
        ConfigError: there is nothing to extend.
    """
    if resume is None:
        if extend:
            raise ConfigError(f"There is no training in {folder} to extend; train it first.")
        return settings if isinstance(settings, TrainingConfig) else TrainingConfig(**settings)
    before = decode(
        TrainingConfig,
        {**resume.state.training, "precision": resume.state.precision},
        f"{folder.name}: training settings",
    )
    given, known = encode(settings), encode(before)
    changed = [
        key
        for key, value in given.items()
        if value != known[key] and key not in FREE and (key, value) != ("precision", "auto")
    ]
    if changed:
        was = ", ".join(f"{key} {known[key]} (now {given[key]})" for key in changed)
        more = given["epochs"] - known["epochs"] if changed == ["epochs"] else 0
        way_out = (
            f"To train {more} epoch{'s' if more > 1 else ''} more, give --c --extend {more} instead of --epochs."
            if more > 0 and not before.minutes
            else ""
        )
        same = "Continue with the same settings, or start again without --c."
        raise CheckpointError(f"{folder} was trained with other settings: {was}. {way_out or same}")
    if before.minutes and extend:
        raise ConfigError(
            f"{folder} was trained for {before.minutes:g} minutes, which are over; train again with more instead of --extend."
        )
    free = {key: given[key] for key in FREE if key in given}
    return replace(
        before, epochs=before.epochs + extend, stop_epoch=before.stop_epoch + extend if before.stop_epoch else 0, **free
    )


def check_resume(resume: Checkpoint, folder: Path, plan: Plan, name: str) -> None:
    """Raise CheckpointError when the plan or the frozen weights are no longer those of the training that continues."""
    what = changed_for_training(load_plan(folder.parent / "plans.json"), plan, name)
    if what is not None:
        raise CheckpointError(
            f"{folder} was trained by another plan: {what} changed since. Restore the plan, or start again without --c."
        )
    check_frozen_weights(resume.state, plan.configuration(name), folder)
