"""A training as a picture: losses, Dice, learning rates and times over its epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from samunet.evaluation.colors import Color, as_hex, label_color
from samunet.evaluation.picture import as_png

DICE = "dice/"  # and the class name
TIMES = ("seconds", "waiting_seconds")
MOST_CLASSES = 20  # ours: a legend of more lines hides the curves
INK, SOFT = "black", "0.55"  # of what is no class
RIM = [withStroke(linewidth=2.6, foreground="0.35")]  # light colors stay visible on white

Values = dict[str, list[float]]


def draw_training(
    values: Mapping[str, Sequence[float]],
    times: Mapping[str, Sequence[float]],
    colors: Mapping[str, Color],
    *,
    title: str = "",
) -> bytes:
    """Draw losses, Dice, learning rates and times over the epochs; returns a PNG.

    Args:
        values: as log.jsonl names them, one per epoch; `train_loss` is among them.
        times: in seconds, of the last epochs where those of the first are not known.
        colors: of the classes and regions, by name; others get colors that none of these has.
        title: above the picture, e.g. "fold 0".
    """
    figure = Figure(figsize=(11, 8))
    figure.subplots_adjust(left=0.09, right=0.98, bottom=0.07, top=0.93, wspace=0.2, hspace=0.08)  # halves its time
    losses, dice, rates, clock = figure.subplots(2, 2, sharex=True).ravel()
    epochs = range(1, len(values["train_loss"]) + 1)

    def plot(axes: Axes, name: str, label: str, **style: Any) -> None:
        series = values.get(name) or times.get(name, [])
        marker = "." if len(epochs) < 30 else ""
        axes.plot(list(epochs)[-len(series) :] if series else [], series, label=label, marker=marker, **style)

    plot(losses, "train_loss", "training", color=INK)
    plot(losses, "val_loss", "validation", color=SOFT)
    losses.set(ylabel="loss")
    classes = [name.removeprefix(DICE) for name in values if name.startswith(DICE)]
    if len(classes) <= MOST_CLASSES:
        for name, color in _with_others(classes, colors).items():
            plot(dice, DICE + name, name, color=as_hex(color), linewidth=1.8, path_effects=RIM)
    if len(classes) != 1:
        plot(dice, "mean_fg_dice", "mean", color=SOFT, linewidth=1)
    plot(dice, "ema_fg_dice", "mean, smoothed", color=INK, linewidth=2)
    plot(dice, "whole_dice", "whole cases", color=INK, linewidth=2, linestyle=":")
    dice.set(ylabel="Dice of validation patches", ylim=(0, 1))
    plot(rates, "learning_rate", "adapters, heads, convolutions", color=INK)
    plot(rates, "backbone_learning_rate", "SAM's own weights", color=SOFT)
    rates.set(ylabel="learning rate", xlabel="epoch")
    plot(clock, "seconds", "whole epoch", color=INK)
    plot(clock, "waiting_seconds", "of it waiting for data", color=SOFT)
    clock.set(ylabel="seconds", xlabel="epoch", ylim=(0, None))
    figure.suptitle(title)
    for axes in (losses, dice, rates, clock):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes)
    return as_png(figure, 100)


def draw_records(records: Sequence[Mapping[str, Any]], colors: Mapping[str, Color], *, title: str) -> bytes | None:
    """Draw a training from its log.jsonl; None where no epoch of it has a loss.

    Args:
        records: one per epoch, from `samunet.training.log.read_records`.
        colors: as `draw_training` takes them.
        title: likewise.
    """
    named = dict.fromkeys(name for record in records for name in record if name != "epoch")
    series = {name: [number_or_nan(record.get(name)) for record in records] for name in named}
    if not any(map(math.isfinite, series.get("train_loss", []))):
        return None
    values = {name: numbers for name, numbers in series.items() if name not in TIMES}
    return draw_training(values, {name: series[name] for name in TIMES if name in series}, colors, title=title)


def number_or_nan(value: object) -> float:
    """Return what a record holds as a number; NaN where it holds none."""
    return float(value) if isinstance(value, (int, float)) else math.nan


def _with_others(names: Sequence[str], colors: Mapping[str, Color]) -> dict[str, Color]:
    """Return a color for every name; no two alike."""
    taken = set(colors.values())
    unused = (color for value in range(1, 2 + len(names) + len(taken)) if (color := label_color(value)) not in taken)
    return {name: colors[name] if name in colors else next(unused) for name in names}


def _legend(axes: Axes) -> None:
    drawn = [line for line in axes.lines if np.size(line.get_xdata())]
    axes.legend(handles=drawn, fontsize="small", ncols=1 + len(drawn) // 12)
