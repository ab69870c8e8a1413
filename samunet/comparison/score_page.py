"""One HTML file that shows how good a model is: tables, a picture per case, the learning curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from samunet.core.codec import write_text
from samunet.errors import ConfigError
from samunet.evaluation.page import render
from samunet.evaluation.picture import CasePicture
from samunet.evaluation.summary import BACKGROUND, Summary, target_key


def write_report(
    path: Path,
    *,
    title: str,
    summary: Summary,
    class_names: Mapping[str, str],
    pictures: Sequence[CasePicture],
    curve: Path | None = None,
    sections: Mapping[str, Sequence[str]] = {},
) -> None:
    """Write the report as one self-contained HTML file, atomically.

    Args:
        class_names: key in summary.json ("1", "(1, 2)") to the name shown; a target without one is shown by its key.
        pictures: from `samunet.evaluation.picture.draw_case`, in the order wanted.
        curve: PNG file of the learning curve.
        sections: heading to paragraphs; a paragraph that starts with "$ " is shown as a command.

    Raises:
        ConfigError: `curve` does not exist.
    """
    if curve is not None and not curve.is_file():
        raise ConfigError(f"Learning curve {curve} does not exist; give the PNG file that training wrote, or none.")
    targets = [target for target in summary.mean if target != BACKGROUND]
    html = render(
        "comparison",
        "score_page.html.j2",
        title=title,
        mean_dice=summary.foreground_mean.dice,
        num_cases=len(summary.cases),
        names=[class_names.get(target_key(target), target_key(target)) for target in targets],
        classes=[
            {
                "name": class_names.get(target_key(target), target_key(target)),
                "mean": summary.mean[target].dice,
                "iou": summary.mean[target].iou,
                "low": min(summary.dice(target), default=math.nan),
                "high": max(summary.dice(target), default=math.nan),
                "counted": len(summary.dice(target)),
            }
            for target in targets
        ],
        cases=[
            {"name": case.name, "dice": [case.metrics[target].dice for target in targets]} for case in summary.cases
        ],
        pictures=pictures,
        curve=curve.read_bytes() if curve else None,
        sections=sections,
    )
    write_text(path, html)
