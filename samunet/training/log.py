"""What a training leaves for people: a text log and a picture of its progress."""

from __future__ import annotations

import io
import logging
import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from samunet.core.codec import atomic_path

logger = logging.getLogger(__name__)


class TrainingLog:
    """Values of each epoch, written to training_log.txt and progress.png in the fold's folder.

    Args:
        folder: the fold's folder.
        history: values of earlier epochs when a training continues.
    """

    def __init__(self, folder: Path, history: dict[str, tuple[float | None, ...]] | None = None) -> None:
        self.folder = folder
        self.values: dict[str, list[float]] = {
            name: [math.nan if value is None else value for value in values] for name, values in (history or {}).items()
        }

    @property
    def history(self) -> dict[str, tuple[float | None, ...]]:
        """All values so far, one an epoch, for the checkpoint; None where a value was not a number."""
        return {name: tuple(None if math.isnan(value) else value for value in values) for name, values in self.values.items()}

    def line(self, text: str) -> None:
        """Show a line and add it to the text log."""
        logger.info(text)
        with open(self.folder / "training_log.txt", "a", encoding="utf-8") as file:
            file.write(text + "\n")

    def epoch(self, **values: float) -> None:
        """Record one epoch's values and redraw the picture."""
        for name, value in values.items():
            self.values.setdefault(name, []).append(float(value))
        with atomic_path(self.folder / "progress.png") as path:
            path.write_bytes(self._picture())

    def _picture(self) -> bytes:
        figure = Figure(figsize=(9, 7), layout="constrained")
        FigureCanvasAgg(figure)
        losses, dice, rates = figure.subplots(3, 1, sharex=True)
        epochs = range(1, len(self.values["train_loss"]) + 1)
        losses.plot(epochs, self.values["train_loss"], label="training loss")
        losses.plot(epochs, self.values["val_loss"], label="validation loss")
        losses.set_ylabel("loss")
        losses.legend()
        dice.plot(epochs, self.values["mean_fg_dice"], label="mean foreground Dice of validation patches", alpha=0.5)
        dice.plot(epochs, self.values["ema_fg_dice"], label="smoothed")
        dice.set(ylabel="Dice", ylim=(0, 1))
        dice.legend(loc="lower right")
        rates.plot(epochs, self.values["learning_rate"])
        rates.set(ylabel="learning rate", xlabel="epoch")
        for axes in (losses, dice, rates):
            axes.grid(alpha=0.3)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()
