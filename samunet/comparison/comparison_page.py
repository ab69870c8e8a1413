"""A comparison as files: one HTML page that needs no network, and tables for programs, papers and challengeR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from samunet.comparison.compare import MEAN, METRICS, Comparison, Row, case_values
from samunet.comparison.statistics import SIGNIFICANCE, is_shown
from samunet.core.codec import write_csv, write_json, write_text
from samunet.core.cost import Cost
from samunet.core.labels import Labels
from samunet.evaluation.colors import as_hex, class_colors, spare_color
from samunet.evaluation.page import render, score_text
from samunet.evaluation.picture import CasePicture, as_png
from samunet.evaluation.summary import MORE_KEYS, target_key

POINT, SHOWN, LINE = "#0b6e99", "#b3470a", "#9aa4ad"
DPI = 110
STROKES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))  # of folds
DIGITS = {"dice": 3, "nsd": 3, "hd95": 2}


@dataclass(frozen=True, kw_only=True)
class Training:
    """How one fold of a method was trained."""

    method: str
    fold: str
    cost: Cost | None
    """None where nobody wrote it down."""
    curve: tuple[float, ...]
    """Mean Dice of the validation patches after each epoch; empty where it is not known."""


def write_comparison(
    folder: Path,
    comparison: Comparison,
    *,
    title: str,
    labels: Labels,
    sections: Mapping[str, Sequence[str]],
    pictures: Sequence[CasePicture] = (),
    trainings: Sequence[Training] = (),
) -> Path:
    """Write report.html, comparison.json, cases.csv, table.tex and challenger.csv into a folder; returns the page.

    Args:
        labels: of the dataset, whose classes have their colors on the page.
        sections: heading to paragraphs: who was compared and how.
        pictures: of the worst and the most different cases.
        trainings: of the methods, where they are known.
    """
    metrics = [metric for metric in METRICS if any(row.metric == metric for row in comparison.rows)]
    of_cases = zip(comparison.cases, comparison.case_means("dice").tolist(), strict=True)
    page = folder / "report.html"
    html = render(
        "comparison",
        "comparison_page.html.j2",
        title=title,
        verdicts=comparison.verdicts(),
        methods=list(comparison.summaries),
        ranks=comparison.first_ranks,
        cases=len(comparison.cases),
        patients=len(set(comparison.patients)) if comparison.patients_known else None,
        tables={
            METRICS[metric]: [_cells(row) for row in comparison.rows if row.metric == metric] for metric in metrics
        },
        tolerance=comparison.tolerance,
        unit=comparison.unit,
        differences=_difference_plot(comparison),
        scatter=_scatter_plot(comparison) if len(comparison.summaries) == 2 else None,
        case_rows=[(case, list(map(score_text, values))) for case, values in sorted(of_cases, key=_lowest)],
        colors={name: as_hex(color) for name, color in class_colors(labels).items()},
        pictures=pictures,
        sections=sections,
        trainings=[training for training in trainings if training.cost],
        curves=_curves_plot(trainings, labels) if any(training.curve for training in trainings) else None,
    )
    write_text(page, html)
    write_json(folder / "comparison.json", _document(comparison) | {"trainings": trainings})
    _write_cases(folder / "cases.csv", comparison)
    write_text(folder / "table.tex", _latex(comparison))
    _write_challenger(folder / "challenger.csv", comparison)
    return page


def most_telling_cases(comparison: Comparison, count: int = 6) -> tuple[str, ...]:
    """Return cases to look at: half of them those with the lowest Dice, then those on which methods differ most."""
    table = comparison.case_means("dice")
    order = np.argsort(np.where(np.isnan(table), np.inf, table).min(axis=1))
    spread = np.argsort(-np.nan_to_num(table.max(axis=1) - table.min(axis=1)))
    telling = [comparison.cases[index] for index in order[: count // 2]]
    for index in spread:
        if len(telling) < min(count, len(comparison.cases)) and comparison.cases[index] not in telling:
            telling.append(comparison.cases[index])
    return tuple(telling)


def _lowest(row: tuple[str, list[float]]) -> float:
    """Return the lowest known mean Dice of a case, by which cases are ordered; those without any come last."""
    return min((value for value in row[1] if not math.isnan(value)), default=math.inf)


def _cells(row: Row) -> dict[str, object]:
    digits = DIGITS[row.metric]
    difference = row.difference
    return {
        "name": row.name,
        "pair": f"{row.second} against {row.first}",
        "first": score_text(row.means[0], digits),
        "second": score_text(row.means[1], digits),
        "difference": score_text(difference.mean, digits, sign="+"),
        "interval": score_text(difference.low, digits, sign="+")
        + ("" if math.isnan(difference.low) else f" to {difference.high:+.{digits}f}"),
        "p": _p(row.p_holm),
        "cases": difference.cases,
        "shown": _shown(row),
    }


def _shown(row: Row) -> bool:
    return is_shown(row.difference) and row.p_holm < SIGNIFICANCE


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else score_text(value)


def _difference_plot(comparison: Comparison) -> bytes:
    """Draw the paired differences in Dice, a dot per case, with their mean and interval, a line per class and pair."""
    rows = [row for row in comparison.rows if row.metric == "dice"]
    values = case_values(comparison.summaries, "dice")
    methods = list(comparison.summaries)
    keys = [target_key(target) for target in comparison.summaries[methods[0]].mean]
    figure = Figure(figsize=(8.5, 1.2 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    random = np.random.default_rng(0)
    for place, row in enumerate(reversed(rows)):
        pair = [methods.index(row.first), methods.index(row.second)]
        first, second = (
            comparison.case_means("dice").T[pair] if row.target == MEAN else values[pair][:, :, keys.index(row.target)]
        )
        axes.plot(
            second - first, place + random.uniform(-0.15, 0.15, len(first)), ".", color=LINE, markersize=4, zorder=1
        )
        color = SHOWN if _shown(row) else POINT
        axes.plot([row.difference.low, row.difference.high], [place, place], color=color, linewidth=3, zorder=2)
        axes.plot([row.difference.mean], [place], "o", color=color, zorder=3)
    pairs = ["" if len(methods) == 2 else f" ({row.second} - {row.first})" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), [row.name + pair for row, pair in zip(reversed(rows), pairs, strict=True)])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(
        f"difference in Dice, {methods[1]} less {methods[0]}" if len(methods) == 2 else "difference in Dice"
    )
    return _png(figure)


def _scatter_plot(comparison: Comparison) -> bytes:
    """Draw the mean Dice of each case by one method against that by the other."""
    means = comparison.case_means("dice")
    first, second = means.T
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
    axes.plot(first, second, "o", color=POINT, alpha=0.7, markersize=5)
    low = max(0.0, float(means[~np.isnan(means)].min(initial=1.0)) - 0.05)
    axes.set(xlim=(low, 1.01), ylim=(low, 1.01), aspect="equal", xlabel=f"Dice of {list(comparison.summaries)[0]}")
    axes.set_ylabel(f"Dice of {list(comparison.summaries)[1]}")
    return _png(figure)


def _curves_plot(trainings: Sequence[Training], labels: Labels) -> bytes:
    """Draw the Dice of validation patches over the training, a stroke per fold, a color no class has per method."""
    figure = Figure(figsize=(8.5, 4), layout="constrained")
    axes = figure.add_subplot()
    trainings = [training for training in trainings if training.curve]
    methods, folds = (
        list(dict.fromkeys(getattr(training, name) for training in trainings)) for name in ("method", "fold")
    )
    timed = all(training.cost for training in trainings)
    for training in trainings:
        whole = (training.cost.minutes or training.cost.wall_minutes) if timed and training.cost else 100
        over = np.arange(1, len(training.curve) + 1) / max(1, len(training.curve)) * whole
        color = as_hex(spare_color(labels, methods.index(training.method)))
        stroke = STROKES[folds.index(training.fold) % len(STROKES)]
        label = f"{training.method}, fold {training.fold}"
        axes.plot(over, training.curve, color=color, label=label, linestyle=stroke, linewidth=1.5)
        if training.curve and not math.isnan(training.curve[-1]):
            axes.annotate(f" {training.fold}", (over[-1], training.curve[-1]), color=color, fontsize=8, va="center")
    axes.set(
        xlabel="minutes of training" if timed else "% of training", ylabel="Dice of validation patches", ylim=(0, 1)
    )
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.02, 0.5))
    axes.grid(alpha=0.3)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    for axes in figure.axes:
        for text in (axes.xaxis.label, axes.yaxis.label, *axes.get_yticklabels()):
            text.set_parse_math(False)
        axes.spines[["top", "right"]].set_visible(False)
    return as_png(figure, DPI)


def _document(comparison: Comparison) -> dict[str, object]:
    return {
        "format": 1,
        "cases": comparison.cases,
        "patients": comparison.patients,
        "nsd_tolerance_mm" if comparison.unit == "mm" else "nsd_tolerance": comparison.tolerance,
        "distance_unit": comparison.unit,
        "methods": list(comparison.summaries),
        "prompts": comparison.prompts,
        "share_of_first_ranks": comparison.first_ranks,
        "verdicts": comparison.verdicts(),
        "rows": comparison.rows,
    }


def _write_cases(path: Path, comparison: Comparison) -> None:
    """A row per case, method and class, with every metric."""
    names = {row.target: row.name for row in comparison.rows}
    columns = {"dice": "Dice", "iou": "IoU", **MORE_KEYS}
    rows = [
        [case, patient, method, names[target_key(target)], *(getattr(metrics, name) for name in columns)]
        for method, summary in comparison.summaries.items()
        for case, patient, score in zip(comparison.cases, comparison.patients, summary.cases, strict=True)
        for target, metrics in score.metrics.items()
    ]
    write_csv(path, ["case", "patient", "method", "class", *columns.values()], rows)


def _write_challenger(path: Path, comparison: Comparison) -> None:
    """The table that challengeR reads: task, algorithm, case, value; one task per class, Dice."""
    values = case_values(comparison.summaries, "dice")
    names = {row.target: row.name for row in comparison.rows}
    rows = [
        [names[target_key(target)], method, case, "" if math.isnan(value) else value]
        for column, target in enumerate(next(iter(comparison.summaries.values())).mean)
        for method, table in zip(comparison.summaries, values, strict=True)
        for case, value in zip(comparison.cases, table[:, column], strict=True)
    ]
    write_csv(path, ["task", "algorithm", "case", "value"], rows)


def _latex(comparison: Comparison) -> str:
    """A table for a paper: Dice of every class and pair with interval and adjusted p."""
    lines = [
        r"\begin{tabular}{llrrrr}",
        r"\hline",
        r"class & pair & first & second & difference (95 \% interval) & $p$ (Holm) \\",
        r"\hline",
    ]
    for row in comparison.rows:
        if row.metric == "dice":
            cells = _cells(row)
            texts = [_escaped(str(cells[key])) for key in ("name", "pair", "first", "second")]
            p = str(cells["p"]).replace("<", "$<$")
            difference = f"{cells['difference']} ({cells['interval']})".replace("\N{EN DASH}", "--")
            lines.append(" & ".join([*texts, difference, p]) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def _escaped(text: str) -> str:
    special = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {"\N{EN DASH}": "--"}
    special |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    return "".join(special.get(letter, letter) for letter in text)
