"""How trainings went, samunet's and nnU-Net's, from their logs."""

from __future__ import annotations

import math
import re
from pathlib import Path

from samunet.core.values import known_mean
from samunet.training.log import RECORDS, read_records

TYPES = re.compile(r"np\.float\d+\(|\)")
EPOCH = re.compile(r": Epoch (\d+)\s*$")  # lines of nnU-Net's log
PSEUDO_DICE = re.compile(r"Pseudo dice \[(.*)\]")  # [np.float32(0.91), nan]


def curve_of(fold: Path) -> tuple[float, ...]:
    """Return the mean Dice of the validation patches after each epoch, NaN where there was none; empty where no log
    tells.

    nnU-Net and samunet both sum voxels over the patches of an epoch and average over classes.
    """
    own = fold / RECORDS
    if own.is_file():
        values = [record.get("mean_fg_dice") for record in read_records(own)]
        return tuple(float(value) if isinstance(value, (int, float)) else math.nan for value in values)
    logs = sorted(fold.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime)
    dice_of_epoch: dict[int, float] = {}  # of an epoch that was run again after an interruption the last counts
    epoch = 0
    for line in (line for path in logs for line in path.read_text(encoding="utf-8", errors="replace").splitlines()):
        if match := EPOCH.search(line):
            epoch = int(match[1])
        elif match := PSEUDO_DICE.search(line):
            dice_of_epoch[epoch] = known_mean(map(float, TYPES.sub("", match[1]).split(",")))
    return tuple(dice_of_epoch[number] for number in sorted(dice_of_epoch))
