"""What a training leaves for people and programs: a text log, a line of JSON per epoch, a picture of its progress."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from samunet.core.codec import atomic_path, parse_json, write_text
from samunet.errors import ConfigError
from samunet.evaluation.colors import Color
from samunet.machine.progress import readable_seconds
from samunet.training.curves import Values, draw_training, number_or_nan
from samunet.training.sinks import Sink

logger = logging.getLogger(__name__)

TEXT, RECORDS, PICTURE = "training_log.txt", "log.jsonl", "progress.png"


class TrainingLog:
    """Values of each epoch, in the fold's folder and in other logs.

    Args:
        folder: the fold's folder.
        history: values of earlier epochs when a training continues; what log.jsonl holds beyond them is dropped.
        sinks: other logs.
        colors: of the classes and regions in the picture, by name, see `samunet.evaluation.colors.class_colors`.
        active: False writes nothing, for all processes but the first.
    """

    def __init__(
        self,
        folder: Path,
        history: Mapping[str, Sequence[float | None]] | None = None,
        *,
        sinks: Sequence[Sink] = (),
        colors: Mapping[str, Color] | None = None,
        active: bool = True,
    ) -> None:
        self.folder, self.sinks, self.colors, self.active = folder, list(sinks), colors or {}, active
        self.values: Values = {
            name: [math.nan if value is None else value for value in values] for name, values in (history or {}).items()
        }
        self.times: Values = {}
        if active:
            self._take_up(max(map(len, self.values.values()), default=0))

    @property
    def history(self) -> dict[str, tuple[float | None, ...]]:
        """All values so far, one per epoch, for the checkpoint; None where a value was not a number.

        Times are not among them.
        """
        return {
            name: tuple(value if math.isfinite(value) else None for value in values)
            for name, values in self.values.items()
        }

    def line(self, text: str) -> None:
        """Show a line and add it to the text log."""
        if not self.active:
            return
        logger.info(text)
        with open(self.folder / TEXT, "a", encoding="utf-8") as file:
            file.write(text + "\n")

    def epoch(self, values: Mapping[str, float], times: Mapping[str, float]) -> None:
        """Record one epoch and redraw the picture.

        Args:
            values: what an equal training gives equally.
            times: in seconds, which differ from run to run.
        """
        for known, new in ((self.values, values), (self.times, times)):
            for name, value in new.items():
                known.setdefault(name, []).append(float(value))
        if not self.active:
            return
        number = len(self.values["train_loss"])
        record = {"epoch": number} | {
            name: value if math.isfinite(value) else None for name, value in {**values, **times}.items()
        }
        with open(self.folder / RECORDS, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        with atomic_path(self.folder / PICTURE) as path:
            path.write_bytes(draw_training(self.values, self.times, self.colors))
        for sink in tuple(self.sinks):
            try:
                sink.write(
                    number, {name: value for name, value in record.items() if name != "epoch" and value is not None}
                )
            except Exception as error:  # the network may be gone; no log is worth a training
                self.sinks.remove(sink)
                self.line(f"Logging to {type(sink).__name__} ends: {error}")

    def close(self) -> None:
        """End the other logs."""
        for sink in self.sinks:
            with suppress(Exception):  # as above
                sink.close()

    def _take_up(self, epochs: int) -> None:
        """Keep the records of the epochs that the checkpoint knows, and their times."""
        path = self.folder / RECORDS
        lines = path.read_bytes().splitlines() if path.is_file() else []
        kept = [record for record in read_records(path) if record["epoch"] <= epochs]
        if len(kept) != len(lines):
            write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        for record in kept:
            for name in ("seconds", "waiting_seconds"):
                self.times.setdefault(name, []).append(number_or_nan(record.get(name)))


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the epochs of a log.jsonl; lines that are none, as of a process that was killed while it wrote, are left
    out.
    """
    records = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ConfigError):
            record = parse_json(line, path.name)
            if isinstance(record, dict) and type(record.get("epoch")) is int:
                records.append(record)
    return records


def epoch_line(
    epoch: str,
    values: Mapping[str, float],
    of_class: Mapping[str, float],
    *,
    seconds: float,
    waited: float,
    left: float | None,
) -> str:
    """Return a line on an epoch for people.

    Args:
        epoch: its number, and of how many.
        values: what is logged of it.
        of_class: Dice of each class or region.
        seconds: that it took.
        waited: seconds of them, for data.
        left: seconds to the end of the training, where they are known.
    """
    return (
        f"epoch {epoch}: training loss {values['train_loss']:.4f}, validation loss {values['val_loss']:.4f}, Dice "
        f"{values['mean_fg_dice']:.3f} ({', '.join(f'{name} {dice:.3f}' for name, dice in of_class.items())}), "
        f"{seconds:.1f} s, {100 * waited / seconds:.0f} % waiting for data"
        + (f", {readable_seconds(left)} left" if left is not None else "")
    )
