"""The HTML report: complete, self-contained, escaped."""

from __future__ import annotations

import base64
import io
import math
import re
from html.parser import HTMLParser

import imageio.v3 as iio
import numpy as np
import pytest

from samunet.comparison.score_page import write_report
from samunet.errors import ConfigError, ShapeError
from samunet.evaluation.colors import label_color
from samunet.evaluation.picture import CasePicture, draw_case
from samunet.evaluation.summary import CaseScore, Metrics, summarize

NAMES = {"1": "liver & bile", "2": "<script>alert(1)</script>"}


def case_picture(identifier, image, reference, prediction, spacing, names) -> CasePicture:
    return draw_case(identifier, image, {"reference": reference, "prediction": prediction}, spacing, names)


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


def volume(shape=(4, 20, 30)):
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    label = np.zeros(shape, np.uint8)
    label[2 % shape[0], 5:10, 5:10] = 1
    label[2 % shape[0], 12:15, 5:10] = 2
    return image, label


def size(picture: CasePicture):
    return iio.imread(io.BytesIO(picture.png)).shape


def write(path, summary, **options):
    write_report(path, **{"title": "Dataset <1>", "summary": summary, "class_names": NAMES, "pictures": (), **options})
    return path.read_text(encoding="utf-8")


def test_the_report_shows_means_extremes_and_counts(tmp_path, summary):
    html = write(tmp_path / "report.html", summary)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    assert "0.438 mean foreground Dice over 2 classes and 2 cases" in text  # (0.625 + 0.25) / 2, by hand
    assert re.search(r"bile 0\.625 0\.500 0\.750 0\.467 2 of 2", text)  # IoU (1/3 + 0.6) / 2
    assert re.search(r"0\.250 0\.250 0\.250 0\.143 1 of 2", text)
    assert "b.nii.gz 0.750 –" in text


def test_names_are_escaped_and_nothing_is_fetched(tmp_path, summary):
    curve = tmp_path / "progress.png"
    curve.write_bytes(case_picture("x", *[volume()[0]] * 1, *[volume()[1]] * 2, (1, 1, 1), {}).png)
    picture = case_picture("case <b>", volume()[0], volume()[1], volume()[1], (3.0, 1.0, 1.0), NAMES)
    html = write(
        tmp_path / "report.html",
        summary,
        pictures=[picture],
        curve=curve,
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
    assert base64.b64decode(sources[1].split(",")[1]) == curve.read_bytes()
    assert "http" not in html and "@import" not in html and "url(" not in html


def test_equal_input_gives_equal_bytes(tmp_path, summary):
    pages = [
        write(
            tmp_path / f"{i}.html",
            summary,
            pictures=[case_picture("a", *volume(), volume()[1], (3.0, 1.0, 1.0), NAMES)],
        )
        for i in (1, 2)
    ]
    assert pages[0] == pages[1]


def test_an_absent_curve_is_named(tmp_path, summary):
    with pytest.raises(ConfigError, match="progress.png does not exist"):
        write(tmp_path / "report.html", summary, curve=tmp_path / "progress.png")


def test_the_slice_with_most_classes_is_shown_across_the_thick_axis():
    image, label = volume()
    label[0, :] = 1  # more voxels, one class
    assert case_picture("a", image, label, label, (3.0, 1.0, 1.0), NAMES).caption.startswith(
        "Slice 3 of 4 across the D axis"
    )
    caption = case_picture("a", image.T, label.T, label.T, (1.0, 1.0, 3.0), {"1": "liver"}).caption
    assert caption.startswith("Slice 3 of 4 across the W axis") and "liver, label 2" in caption


def test_an_empty_reference_shows_the_prediction():
    image, label = volume()
    assert case_picture("a", image, np.zeros_like(label), label, (3.0, 1.0, 1.0), NAMES).caption.startswith(
        "Slice 3 of 4"
    )
    nothing = case_picture("a", image, np.zeros_like(label), np.zeros_like(label), (3.0, 1.0, 1.0), NAMES)
    assert "no structure" in nothing.caption


def test_pixels_keep_their_proportions():
    image, label = volume((3, 20, 20))
    square, tall = (case_picture("a", image, label, label, (5.0, height, 1.0), NAMES) for height in (1.0, 1.5))
    assert size(square)[1] == size(tall)[1]
    assert size(tall)[0] - size(square)[0] == pytest.approx(0.5 * size(square)[1] / 3, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 16, 20), (3, 16, 16), (1, 1, 1), (2, 400, 3)])
@pytest.mark.parametrize("fill", [0.0, -1000.0, np.nan])
def test_constant_and_planar_images_are_drawn(shape, fill):
    label = np.zeros(shape, np.int64)
    assert case_picture("a", np.full(shape, fill), label, label, (1.0, 1.0, 1.0), {}).png.startswith(b"\x89PNG")


def test_forty_classes_have_different_colors_and_a_legend():
    label = np.arange(41).repeat(41).reshape(1, 41, 41)
    names = {str(i): f"structure ${i}$" for i in range(41)}
    assert case_picture("a", label.astype(float), label, label, (1.0, 1.0, 1.0), names).png
    assert len({label_color(value) for value in range(1, 41)}) == 40


def test_inputs_are_not_modified_and_shapes_are_checked():
    image, label = volume()
    for array in (image, label):
        array.setflags(write=False)
    case_picture("a", image, label, label, (3.0, 1.0, 1.0), NAMES)
    with pytest.raises(ShapeError, match=r"'a'.*\(4, 20, 30\).*\(3, 20, 30\)"):
        case_picture("a", image, label[:3], label, (3.0, 1.0, 1.0), NAMES)


def test_air_around_the_body_does_not_set_the_grey_window():
    image = np.full((1, 40, 40), -1000.0)
    image[0, 10:30, 10:30] = np.random.default_rng(0).uniform(0, 100, (20, 20))
    label = np.zeros(image.shape, np.uint8)
    label[0, 17:23, 17:23] = 1
    darker = image.copy()
    darker[image == -1000.0] = -9000.0
    pictures = [case_picture("a", array, label, label, (1.0, 1.0, 1.0), {}).png for array in (image, darker)]
    assert pictures[0] == pictures[1]
