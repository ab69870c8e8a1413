"""Pictures, tables and colors beside predictions."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from samunet.cli import predict
from samunet.core.geometry import Geometry
from samunet.core.labels import parse_labels
from samunet.core.volume import Volume
from samunet.inference.extras import color_table, measure

LABELS = parse_labels({"background": 0, "left kidney": 1, "tumor": 2})


def test_volumes_are_in_ml_and_intensities_those_of_the_file():
    image = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)
    segmentation = np.zeros((2, 3, 4), np.uint8)
    segmentation[1, :, :2] = 1
    found = measure(
        Volume(array=image, geometry=Geometry(shape=(2, 3, 4), spacing=(5.0, 2.0, 0.5))), segmentation, LABELS
    )
    assert found["left kidney"]["voxels"] == 6 and found["left kidney"]["volume_ml"] == pytest.approx(6 * 5 / 1000)
    assert found["left kidney"]["mean_intensity_1"] == pytest.approx(image[1][segmentation == 1].mean())
    assert found["tumor"] == {
        "voxels": 0,
        "volume_ml": 0.0,
        "area_mm2": None,
        "mean_intensity_0": None,
        "mean_intensity_1": None,
    }
    flat = Geometry(shape=(1, 3, 4), spacing=(1.0, 2.0, 0.5), planar=True)
    found = measure(Volume(array=image[:, :1], geometry=flat), segmentation[1:], LABELS)
    assert found["left kidney"]["volume_ml"] is None and found["left kidney"]["area_mm2"] == pytest.approx(6.0)

    found = measure(
        Volume(array=image[:, :1], geometry=replace(flat, spacing=(1.0, 1.0, 1.0), measured=False)),
        segmentation[1:],
        LABELS,
    )
    assert (found["left kidney"]["area_mm2"], found["left kidney"]["area_pixels"]) == (None, 6)
    stack = Geometry(shape=(2, 3, 4), spacing=(1.0, 1.0, 1.0), measured=False)
    found = measure(Volume(array=image, geometry=stack), segmentation, LABELS)
    assert (
        found["left kidney"]["volume_ml"] is found["left kidney"]["area_mm2"] is None
        and found["left kidney"]["voxels"] == 6
    )


def test_the_color_table_names_every_value_once():
    lines = color_table(LABELS).splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [["0", "background"], ["1", "left_kidney"], ["2", "tumor"]]
    assert all(len(line.split()) == 6 for line in lines)
    regions = parse_labels({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    assert [line.split()[:2] for line in color_table(regions).splitlines()[2:]] == [["1", "whole"], ["2", "core"]]


def test_the_command_writes_them_all_and_says_where(environment, project, trained, tmp_path, capsys):
    images = project.workspace.raw / project.dataset / "imagesTs"
    words = [
        "-i",
        str(images),
        "-o",
        str(tmp_path / "out"),
        "-d",
        "901",
        "-c",
        "3d_adapter",
        "-device",
        "cpu",
        "--disable_tta",
        "--disable_progress_bar",
    ]
    assert predict.main([*words, "--preview", "--view", "--statistics", "--report", str(tmp_path / "run.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"Wrote pictures to look at to {tmp_path / 'out' / 'previews'}" in lines
    assert f"Wrote pages to look at to {tmp_path / 'out' / 'view'}" in lines
    references = images.with_name("labelsTs")
    assert lines[-1] == f"Next: samunet_evaluate_folder {references} {tmp_path / 'out'}"
    report = json.loads((tmp_path / "run.json").read_text())
    cases = [entry["case"] for entry in report["cases"]]
    assert cases and all(entry["failed"] is None for entry in report["cases"]) and report["options"]["flips"] is False
    assert report["precision"] in ("bf16", "fp32") and report["options"]["precision"] == "auto"
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "statistics.csv").read_text().splitlines()))
    assert list(statistics) == sorted(cases) and len(rows) == 3 * len(cases)
    for case in cases:
        assert (tmp_path / "out" / "previews" / f"{case}.png").read_bytes().startswith(b"\x89PNG")
        assert f"<title>{case}</title>" in (tmp_path / "out" / "view" / f"{case}.html").read_text(encoding="utf-8")
    assert "large" in (tmp_path / "out" / "colors.ctbl").read_text()
