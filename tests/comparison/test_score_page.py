"""The HTML report: complete, self-contained, escaped."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from samunet.comparison.score_page import write_report
from samunet.core.geometry import Geometry
from samunet.core.labels import parse_labels
from samunet.evaluation.colors import as_hex, label_color
from samunet.evaluation.picture import CasePicture, draw_case
from samunet.evaluation.summary import CaseScore, Metrics, summarize

LABELS = parse_labels({"background": 0, "liver & bile": 1, "<script>alert(1)</script>": 2})


def picture(identifier: str) -> CasePicture:
    label = np.ones((1, 8, 8), np.uint8)
    geometry = Geometry(shape=label.shape, spacing=(1.0, 1.0, 1.0), planar=True)
    return draw_case(identifier, label, {"reference": label}, geometry, LABELS.names_of_values)


def metrics(dice: float) -> Metrics:
    return Metrics(dice=dice, iou=dice / (2 - dice), tp=1, fp=1, fn=1, tn=1, n_pred=2, n_ref=2)


@pytest.fixture
def summary():
    def case(name, first, second):
        return CaseScore(
            reference_file=f"gt/{name}",
            prediction_file=f"out/{name}",
            metrics={(1,): metrics(first), (2,): metrics(second)},
        )

    return summarize([case("a.nii.gz", 0.5, 0.25), case("b.nii.gz", 0.75, math.nan)])


def write(path, summary, **options):
    usual = {"title": "Dataset <1>", "labels": LABELS, "file_ending": ".nii.gz", "pictures": ()}
    write_report(path, summary=summary, **{**usual, **options})
    return path.read_text(encoding="utf-8")


def test_the_report_shows_means_extremes_and_counts(tmp_path, summary):
    html = write(tmp_path / "report.html", summary)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    assert "0.438 mean foreground Dice over 2 classes and 2 cases" in text  # (0.625 + 0.25) / 2, by hand
    assert re.search(r"bile\s+0\.625\s+0\.500 0\.750 0\.467 2 of 2", text)  # IoU (1/3 + 0.6) / 2
    assert re.search(r"0\.250\s+0\.250 0\.250 0\.143 1 of 2", text)
    assert "a 0.375 0.500 0.250 b 0.750 0.750 –" in text and ".nii.gz" not in text  # from worst to best


def test_names_are_escaped_and_nothing_is_fetched(tmp_path, summary):
    curve = picture("x").png
    html = write(
        tmp_path / "report.html",
        summary,
        pictures=[picture("case <b>")],
        curves={"Fold 3": curve},
        sections={"Why": ["a < b", "$ samunet_train 1"]},
    )
    assert "<script" not in html and "case <b>" not in html and "case &lt;b&gt;" in html
    assert "a &lt; b" in html and "<code>samunet_train 1</code>" in html

    sources = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attributes):
            sources.extend(value for key, value in attributes if key in ("src", "href"))

    Links().feed(html)
    assert len(sources) == 2 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert base64.b64decode(sources[1].split(",")[1]) == curve and "Fold 3" in html
    assert "http" not in html and "@import" not in html and "url(" not in html


def test_equal_input_gives_equal_bytes(tmp_path, summary):
    pages = [
        write(
            tmp_path / f"{i}.html",
            summary,
            pictures=[picture("a")],
        )
        for i in (1, 2)
    ]
    assert pages[0] == pages[1]


def test_surfaces_stand_beside_dice_with_unit_and_tolerance(tmp_path):
    measured = replace(metrics(0.5), nsd=0.75, hd95=3.25, hd=5.0, assd=1.125)
    case = CaseScore(reference_file="gt/a.nii.gz", prediction_file="a.nii.gz", metrics={(1,): measured}, unit="pixels")
    html = write(tmp_path / "report.html", summarize([case], tolerance=2.0))
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    assert "NSD at 2 pixels HD95, pixels ASSD, pixels" in text
    assert "0.333 0.750 3.25 1.12 1 of 1" in text and "0.500 0.750 · 3.25" in text


def test_every_cell_says_its_column_and_every_class_its_color(tmp_path, summary):
    html = write(tmp_path / "report.html", summary)
    assert len(re.findall(r"<td ", html)) == len(re.findall(r'<td role="cell" data-label="[^"]+">[^<\s]', html))
    assert all(as_hex(label_color(value)) in html for value in (1, 2))
