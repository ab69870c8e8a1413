"""The findings of a dataset as one HTML file, with pictures of the worst cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from samunet.checking.run import CheckReport, worst_cases
from samunet.core.codec import write_text
from samunet.core.dataset import Case
from samunet.evaluation.page import render
from samunet.evaluation.picture import CasePicture, draw_case
from samunet.imageio import ImageReader

PICTURED_CASES = 6


def write_page(path: Path, report: CheckReport) -> None:
    """Write the page, whole or not at all; it needs no other file."""
    pictures, unreadable = [], []
    if report.spec is not None and report.reader is not None:
        labels = report.spec.labels
        names = labels.names_of_values | {max(labels.expected_in_files) + 1: "unexpected value"}
        for case in worst_cases(report, PICTURED_CASES):
            picture = _picture(case, report.reader, names, labels.expected_in_files)
            if picture is None:
                unreadable.append(case.identifier)
            else:
                pictures.append(picture)
    html = render(
        "checking",
        "check.html.j2",
        title=f"Check of {report.dataset}",
        errors=len(report.errors),
        warnings=report.warnings,
        num_cases=len(report.cases),
        clean=report.clean,
        findings=report.findings,
        pictures=pictures,
        unreadable=unreadable,
    )
    write_text(path, html)


def _picture(
    case: Case, reader: ImageReader, names: dict[int, str], expected_values: Sequence[int]
) -> CasePicture | None:
    """Draw the first channel with the label on it, as far as both can be read; None where the image cannot."""
    try:
        volume = reader.read_image(case.images[:1])
    except Exception:  # damaged files make libraries raise anything
        return None
    overlays = {}
    if case.label is not None:
        try:
            label, _ = reader.read_label(case.label)
        except Exception:
            label = None
        if label is not None and label.shape == volume.geometry.shape:
            expected, other = np.isin(label, expected_values), max(expected_values) + 1  # all unexpected values as one
            if not expected.all():
                overlays["unexpected values"] = np.where(expected, 0, other)  # first, so it chooses the slice
            overlays["label"] = np.where(expected, label, other)
    return draw_case(case.identifier, volume.array[0], overlays, volume.geometry, names)
