"""What a training took: cost.json of a fold, samunet's or nnU-Net's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.core.codec import decode, read_json
from samunet.core.ranges import Count, Within

COST = "cost.json"
Measured = Annotated[float, Within(0, 1e15)]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a whole training took."""

    minutes: Measured | None
    """Time from the first step to the end of the last epoch; None where the training was not told its minutes."""
    wall_minutes: Measured
    epochs: Count
    steps: Count
    last_learning_rate: Measured
    """The learning rate of the last epoch's last step."""
    memory_mib: Measured | None
    """The most RAM that the training process held; None where it is not told."""
    device_memory_mib: Measured | None
    """The most memory of the GPU; None on a CPU."""
    device: str
    threads: Count
    """Threads of the CPU that the training used."""


def read_cost(fold: Path) -> Cost | None:
    """Read what a fold's training took; None where nobody wrote it down.

    Raises ConfigError when the file has another form.
    """
    path = fold / COST
    return decode(Cost, read_json(path), str(path)) if path.is_file() else None
