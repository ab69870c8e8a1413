"""A case as one HTML file: what it holds, how large it is, and what a browser shows of it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import shutil

import nibabel
import numpy as np
import pytest
from skimage.io import imread

from samunet.core.geometry import Geometry
from samunet.evaluation import view
from samunet.evaluation.view import write_view

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SOFTWARE = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
WAIT = 120_000  # ms; pictures in three dimensions are slow without a graphics card
OBLIQUE = ((0.0, 0.0, -1.0), (0.6, 0.8, 0.0), (0.8, -0.6, 0.0))
NAMES = {1: "small </script> ball", 2: "large ball"}


def balls(shape, **grid):
    """An image in noise with a ball of class 2 on the side of low w and one of class 1 on the other, and its labels."""
    random = np.random.default_rng(0)
    places = np.meshgrid(*(np.linspace(-1, 1, length, dtype=np.float32) for length in shape), indexing="ij")
    labels = np.zeros(shape, np.uint8)
    for value, side, radius in ((1, 0.5, 0.2), (2, -0.5, 0.35)):
        labels[places[0] ** 2 + places[1] ** 2 + (places[2] - side) ** 2 < radius**2] = value
    image = random.normal(100, 10, shape).astype(np.float32) + 60 * labels
    return image, labels, Geometry(shape=shape, **grid)


def held(path):
    """The page's data, and its volumes as nibabel reads them."""
    text = path.read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    blocks = {"image": data["image"], **{layer["name"]: layer["data"] for layer in data["layers"]}}
    read = nibabel.Nifti1Image.from_bytes
    return data, {name: read(gzip.decompress(base64.b64decode(block))) for name, block in blocks.items()}


def test_a_small_volume_is_held_whole_where_it_lies(tmp_path):
    image, labels, grid = balls((9, 40, 50), spacing=(3, 1.5, 1), origin=(5, -6, 7), direction=OBLIQUE)
    other = np.where(labels == 1, 700, 0).astype(np.uint16)  # more than a byte holds
    write_view(tmp_path / "case.html", "case", image, {"reference": labels, "prediction": other}, grid, NAMES)
    data, files = held(tmp_path / "case.html")
    values = np.array([0, *(one["value"] for one in data["classes"])])
    assert [one["name"] for one in data["classes"]] == [*NAMES.values(), "label 700"]
    assert [one["color"] for one in data["classes"]][:2] == ["#e69f00", "#56b4e9"]
    for name, expected in (("reference", labels), ("prediction", other)):
        assert np.array_equal(values[np.asarray(files[name].dataobj)].T, expected)
    index, world = np.array([3, 2, 1]), np.array(grid.origin)  # w, h, d
    world = world + index[::-1] * grid.spacing @ np.array(grid.direction)
    for file in files.values():
        assert np.allclose((file.affine @ [*index, 1])[:3], world * (-1, -1, 1), atol=1e-4)
    window = float(files["image"].header["cal_min"]), float(files["image"].header["cal_max"])
    shown = (image > window[0]) & (image < window[1])
    assert shown.mean() > 0.5 and np.allclose(files["image"].get_fdata().T[shown], image[shown], atol=1.0)
    center = np.linalg.inv(files["image"].affine) @ [*data["center"], 1]
    assert labels[tuple(np.rint(center[2::-1]).astype(int))] > 0


def test_a_large_volume_is_cropped_to_its_structures_at_full_resolution(tmp_path, monkeypatch):
    monkeypatch.setattr(view, "VOXELS", 60_000)
    image, labels, grid = balls((40, 60, 80), spacing=(10, 10, 5), origin=(1, 2, 3))
    labels[labels == 2] = 0
    write_view(tmp_path / "case.html", "case", image, {"prediction": labels}, grid, NAMES)
    _, files = held(tmp_path / "case.html")
    found, stored = np.argwhere(labels), np.asarray(files["prediction"].dataobj).T
    first = np.maximum(0, found.min(0) - (2, 2, 4))  # 20 mm around them
    assert stored.shape == tuple(np.minimum(labels.shape, found.max(0) + (3, 3, 5)) - first)
    box = tuple(slice(at, at + length) for at, length in zip(first, stored.shape, strict=True))
    assert np.array_equal(stored, labels[box]) and labels[box].sum() == labels.sum()
    assert np.allclose(files["image"].affine[:3, 3], np.array([-1, -2, 3]) + first[::-1] * (-5, -10, 10))
    assert "Of 80 x 60 x 40 voxels of 5 x 10 x 10 mm." in (tmp_path / "case.html").read_text(encoding="utf-8")


def test_what_is_too_large_even_then_is_thinned_where_voxels_lie_densest(tmp_path, monkeypatch):
    monkeypatch.setattr(view, "VOXELS", 12_000)
    image, labels, grid = balls((10, 60, 80), spacing=(5, 1, 1))
    write_view(tmp_path / "case.html", "case", image, {"prediction": labels}, grid, NAMES)
    _, files = held(tmp_path / "case.html")
    lengths = np.linalg.norm(files["image"].affine[:3, :3], axis=0)
    assert np.allclose(lengths, (2, 2, 5)) and files["image"].shape[2] == 10
    stored = np.asarray(files["prediction"].dataobj).T
    assert set(np.unique(stored)) == {0, 1, 2}
    first = np.rint((np.linalg.inv(np.diag([-1, -1, 5])) @ files["image"].affine[:3, 3])[::-1]).astype(int)
    assert np.array_equal(stored, labels[:, first[1] :: 2, first[2] :: 2][:, : stored.shape[1], : stored.shape[2]])


def test_a_file_stays_below_its_limit(tmp_path):
    """No structure to crop to, and noise in image and labels, which hardly compresses."""
    shape, random = (70, 512, 512), np.random.default_rng(0)
    image = random.random(shape, np.float32)
    labels = random.integers(0, 255, shape, np.uint8)
    layers = {"reference": labels, "prediction": labels[::-1]}
    write_view(tmp_path / "case.html", "case", image, layers, Geometry(shape=shape, spacing=(3, 1, 1)), {})
    assert 10_000_000 < (tmp_path / "case.html").stat().st_size <= view.LARGEST


def test_a_wide_picture_without_structures_becomes_as_long_as_graphics_cards_take(tmp_path):
    grid = Geometry(shape=(1, 20, 5000), spacing=(1, 1, 1), planar=True, directed=False, measured=False)
    layers = {"prediction": np.zeros(grid.shape, np.uint8)}
    write_view(tmp_path / "case.html", "case", np.zeros(grid.shape, np.float32), layers, grid, {})
    data, files = held(tmp_path / "case.html")
    assert files["image"].shape[:2] == (1667, 20) and data["planar"] and not data["directed"]
    assert "1667 x 20 pixels. Of 5000 x 20 pixels." in (tmp_path / "case.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_browser_shows_and_hides_colors_and_asks_for_nothing(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    image, labels, grid = balls((12, 80, 96), spacing=(4, 1.5, 1.5))
    layers = {"reference": np.where(labels == 2, labels, 0), "prediction": np.where(labels == 1, labels, 0)}
    write_view(tmp_path / "case.html", "case", image, layers, grid, NAMES)
    requests, faults = [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE)
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: faults.append(error))
        page.on("console", lambda message: faults.append(message.text))

        def colored():
            """Mean column of orange and of blue pixels, more than the cross has, in the axial picture."""
            page.wait_for_timeout(500)
            seen = imread(io.BytesIO(page.screenshot()))[330:, :540, :3].astype(float)
            masks = seen[..., 0] - seen[..., 2] > 60, (seen[..., 2] - seen[..., 0] > 40) & (seen[..., 1] < 225)
            return [np.nonzero(mask)[1].mean() if mask.sum() > 4000 else None for mask in masks]

        page.goto((tmp_path / "case.html").as_uri())
        page.wait_for_selector("body[data-ready]")
        assert page.inner_text("#classes").splitlines() == list(NAMES.values())
        small, large = colored()
        assert small is not None and large is None, "the prediction is shown first"
        page.keyboard.press("1")
        small, large = colored()
        assert large is not None and large < small, "w grows to the patient's left, which is on the right"
        page.get_by_label("prediction").uncheck()
        assert colored()[0] is None and colored()[1] is not None
        page.evaluate("$('opacity').value = 0; $('opacity').oninput()")
        assert colored() == [None, None]
        browser.close()
    assert requests == [(tmp_path / "case.html").as_uri()] and not faults
