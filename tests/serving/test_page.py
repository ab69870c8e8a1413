"""The page in a browser without a window: load a phantom, click, see the mask, correct, undo, save, reload."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from skimage.io import imread

from samunet.core.codec import write_json

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SOFTWARE = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
WAIT = 120_000  # ms; pictures in three dimensions are slow without a graphics card
ON_SCREEN = """voxel => {
    const page = grid.page(voxel), place = page.map((index, side) => (index + 0.5) / grid.size[side]);
    nv.scene.crosshairPos = page.map((index, side) => (index + 6.5) / grid.size[side]);  // off the voxel
    nv.scene.crosshairPos[2] = place[2];
    nv.drawScene();
    const [x, y] = nv.frac2canvasPosWithTile(place, 0).pos, box = $("gl").getBoundingClientRect();
    return [box.left + x * box.width / $("gl").width, box.top + y * box.width / $("gl").width];
}"""
"""Where a voxel of the file lies in the axial picture, which is brought to its plane."""
RIGHT, LEFT = (20, 40, 6), (76, 40, 6)  # voxels of a file whose x grows to the patient's left


@pytest.fixture
def phantom(tmp_path):
    """A bright ball on the patient's right, a dark one on the left, in noise."""
    x, y, z = np.ogrid[:96, :80, :12]
    array = np.random.default_rng(0).normal(100, 10, (96, 80, 12))
    for (i, j, k), value in ((RIGHT, 100), (LEFT, -90)):
        array += value * (((x - i) ** 2 + (y - j) ** 2) / 14**2 + ((z - k) / 4) ** 2 < 1)
    affine = np.diag([-1.5, -1.5, 4, 1])
    nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), affine), tmp_path / "phantom_0000.nii.gz")
    return tmp_path / "phantom_0000.nii.gz"


@contextlib.contextmanager
def serving(*words):
    pytest.importorskip("fastapi", reason="the extra annotate is not installed")
    command = [sys.executable, "-m", "samunet", "annotate", *map(str, words), "--no_browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield re.search(r"http\S+", process.stdout.readline())[0]
        process.terminate()


@pytest.fixture
def address(phantom, tmp_path):
    with serving("-i", phantom, "-o", tmp_path / "case.nii.gz", "--labels", "ball=1") as address:
        yield address


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE)
        yield browser
        browser.close()


def test_a_ball_is_clicked_seen_corrected_taken_back_saved_and_found_again(address, browser, tmp_path):
    page, requests, faults = browser.new_page(viewport={"width": 1280, "height": 720}), [], []
    page.set_default_timeout(WAIT)
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: faults.append(error))
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)

    def settled(action=lambda: None):
        action()
        page.wait_for_selector("body[data-case][data-busy='0']")
        page.wait_for_timeout(500)

    def color(voxel):
        """Mean color of 5 x 5 pixels near a voxel, as it is seen, off the mark that a click leaves."""
        x, y = (round(place) + 15 for place in page.evaluate(ON_SCREEN, voxel))
        picture = imread(io.BytesIO(page.screenshot()))[..., :3].astype(float)
        return picture[y - 2 : y + 3, x - 2 : x + 3].mean((0, 1))

    def click(voxel):
        settled(lambda: page.mouse.click(*page.evaluate(ON_SCREEN, voxel)))

    def is_orange(seen):
        return seen[0] > seen[2] + 60

    page.goto(address)
    settled()
    assert page.evaluate(ON_SCREEN, RIGHT)[0] < page.evaluate(ON_SCREEN, LEFT)[0], "the patient's right is on the left"
    assert color(RIGHT).mean() > color(LEFT).mean() + 80 and not is_orange(color(RIGHT))
    for button in ("save", "undo"):
        box = page.locator(f"#{button}").bounding_box()
        assert box["y"] + box["height"] <= 720, "it is in sight without scrolling"

    click(RIGHT)
    assert is_orange(color(RIGHT)) and not is_orange(color(LEFT))
    assert page.inner_text("#draft").startswith("1 prompt for ball; the model expects an IoU of 0.")
    page.keyboard.down("Shift")
    click((48, 40, 6))  # a correction: not of the object
    page.keyboard.up("Shift")
    assert "2 prompts" in page.inner_text("#draft") and is_orange(color(RIGHT))
    for _ in range(2):
        settled(lambda: page.keyboard.press("Control+z"))
    assert not is_orange(color(RIGHT)) and page.locator("#undo").is_disabled()

    click(RIGHT)
    settled(lambda: page.click("#save"))
    assert "saved to" in page.inner_text("#note") and page.inner_text("#save") == "Saved"
    labels = nibabel.load(tmp_path / "case.nii.gz").get_fdata()
    assert labels[RIGHT] == 1 and labels[LEFT] == 0 and set(np.argwhere(labels)[:, 2]) == {6}

    page.reload()
    settled()
    assert is_orange(color(RIGHT)) and "Going on" in page.inner_text("#note")
    assert all(url.startswith((address, "data:", "blob:")) for url in requests) and not faults


def test_what_is_pressed_while_the_next_case_opens_is_done_to_none(browser, phantom, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    folder = tmp_path / "Dataset001_Balls"
    (folder / "imagesTr").mkdir(parents=True)
    for name in ("first", "second"):
        shutil.copy(phantom, folder / "imagesTr" / f"{name}_0000.nii.gz")
    described = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "ball": 1}, "numTraining": 0}
    write_json(folder / "dataset.json", described | {"file_ending": ".nii.gz"})
    with serving("-d", 1) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(WAIT)
        page.goto(address)
        page.wait_for_selector("body[data-case='first'][data-busy='0']")
        page.mouse.click(*page.evaluate(ON_SCREEN, RIGHT))
        page.wait_for_selector("body[data-busy='0']")
        pressed = """() => {
            $("next").onclick();
            for (const id of ["save", "undo", "add"]) $(id).onclick();
            for (const key of ["z", "s"]) window.dispatchEvent(new KeyboardEvent("keydown", { key, ctrlKey: true }));
        }"""
        page.evaluate(pressed)
        page.wait_for_selector("body[data-case='second'][data-busy='0']")
        assert page.locator("#undo").is_disabled() and not (folder / "labelsTr" / "second.nii.gz").exists()
        page.click("#previous")
        page.wait_for_selector("body[data-case='first'][data-busy='0']")
        assert page.inner_text("#draft").startswith("1 prompt for ball")
