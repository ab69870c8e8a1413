"""One HTML file that shows how good a model is: tables, a picture per case, the learning curve of every fold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from samunet.core.codec import write_text
from samunet.core.labels import Labels
from samunet.core.values import known_mean
from samunet.evaluation.colors import as_hex, class_colors
from samunet.evaluation.page import render, score_text
from samunet.evaluation.picture import CasePicture
from samunet.evaluation.score import names_from_labels
from samunet.evaluation.summary import BACKGROUND, CaseScore, Metrics, Summary, Target, target_key

SURFACES = {"nsd", "hd95", "assd"}


def write_report(
    path: Path,
    *,
    title: str,
    summary: Summary,
    labels: Labels,
    file_ending: str,
    pictures: Sequence[CasePicture],
    curves: Mapping[str, bytes] = {},
    sections: Mapping[str, Sequence[str]] = {},
) -> None:
    """Write the report as one self-contained HTML file, atomically; cases run from the worst to the best.

    Args:
        labels: names and colors of what was scored; a target without a name is shown by its key in summary.json.
        file_ending: of the predictions, e.g. ".nii.gz", which the names of cases are shown without.
        pictures: from `samunet.evaluation.picture.draw_case`, in the order wanted.
        curves: which training it is, e.g. "Fold 0", to the PNG of its learning curve.
        sections: heading to paragraphs; a paragraph that starts with "$ " is shown as a command.
    """
    names, colors = names_from_labels(labels), class_colors(labels)
    targets = {target: names.get(target_key(target), target_key(target)) for target in _targets(summary)}
    surfaces = _surface_columns(summary)
    html = render(
        "comparison",
        "score_page.html.j2",
        title=title,
        mean_dice=summary.foreground_mean.dice,
        num_cases=len(summary.cases),
        measured=surfaces[:2],
        class_columns=["Class", "Mean Dice", "Lowest", "Highest", "Mean IoU", *surfaces, "Cases counted"],
        classes=[
            {
                "name": name,
                "color": as_hex(colors[name]) if name in colors else None,
                "dice": summary.mean[target].dice,
                "more": _class_cells(summary, target),
            }
            for target, name in targets.items()
        ],
        case_columns=["Case", "Mean Dice", *targets.values()],
        cases=[
            {
                "name": case_name(case, file_ending),
                "mean": mean_dice(case),
                "cells": [_case_cell(case.metrics[target]) for target in targets],
            }
            for case in worst_first(summary.cases)
        ],
        pictures=pictures,
        curves=curves,
        sections=sections,
    )
    write_text(path, html)


def worst_first(cases: Sequence[CaseScore]) -> list[CaseScore]:
    """Return cases by mean Dice, lowest first; those where there was nothing to find and nothing was found, last."""
    return sorted(cases, key=lambda case: (math.isnan(mean := mean_dice(case)), mean))


def mean_dice(case: CaseScore) -> float:
    """Return the mean Dice over the foreground targets that have one; NaN where none has."""
    return known_mean(metrics.dice for target, metrics in case.metrics.items() if target != BACKGROUND)


def case_name(case: CaseScore, file_ending: str) -> str:
    """Return the name of a case, which is its file's without the ending."""
    return case.name.removesuffix(file_ending)


def _targets(summary: Summary) -> list[Target]:
    return [target for target in summary.mean if target != BACKGROUND]


def _surface_columns(summary: Summary) -> list[str]:
    """Return the headings of what was measured on surfaces: NSD, HD95 and ASSD, or none."""
    if not set(summary.measured) >= SURFACES:
        return []
    at = "" if summary.tolerance is None else f" at {summary.tolerance:g} {summary.unit}"
    return [f"NSD{at}", f"HD95, {summary.unit}", f"ASSD, {summary.unit}"]


def _class_cells(summary: Summary, target: Target) -> list[str]:
    """Return what the table of classes shows of one behind its mean Dice."""
    dice, mean = summary.dice(target), summary.mean[target]
    cells = [score_text(value) for value in (min(dice, default=math.nan), max(dice, default=math.nan), mean.iou)]
    if set(summary.measured) >= SURFACES:
        cells += [score_text(mean.nsd), score_text(mean.hd95, 2), score_text(mean.assd, 2)]
    return [*cells, f"{len(dice)} of {len(summary.cases)}"]


def _case_cell(metrics: Metrics) -> str:
    """Return Dice, and below it NSD and HD95 where they were measured."""
    if metrics.nsd is None or metrics.hd95 is None or math.isnan(metrics.dice):
        return score_text(metrics.dice)
    below = f"{score_text(metrics.nsd)} · {score_text(metrics.hd95, 2)}"
    return Markup("{} <small>{}</small>").format(score_text(metrics.dice), below)
