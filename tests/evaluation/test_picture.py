"""A case as a picture: which slice, hung how, in which colors."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_plane import geometry, stored

import samunet
from samunet.core.geometry import Geometry
from samunet.errors import ShapeError
from samunet.evaluation.colors import label_color
from samunet.evaluation.picture import CasePicture, draw_case

NAMES = {1: "liver & bile", 2: "<script>alert(1)</script>"}


def undirected(shape, spacing=(1.0, 1.0, 1.0)) -> Geometry:
    return Geometry(shape=shape, spacing=spacing, directed=False)


def case_picture(image, reference, prediction, spacing, names) -> CasePicture:
    return draw_case(
        "a", image, {"reference": reference, "prediction": prediction}, undirected(image.shape, spacing), names
    )


def volume(shape=(4, 20, 30)):
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    label = np.zeros(shape, np.uint8)
    label[2 % shape[0], 5:10, 5:10] = 1
    label[2 % shape[0], 12:15, 5:10] = 2
    return image, label


def size(picture: CasePicture):
    return np.asarray(Image.open(io.BytesIO(picture.png))).shape


def test_the_slice_with_most_classes_is_shown_across_the_thick_axis():
    image, label = volume()
    label[0, :] = 1  # more voxels, one class
    assert case_picture(image, label, label, (3.0, 1.0, 1.0), NAMES).caption.startswith(
        "Slice 3 of 4 across the D axis"
    )
    caption = case_picture(image.T, label.T, label.T, (1.0, 1.0, 3.0), {1: "liver"}).caption
    assert caption.startswith("Slice 3 of 4 across the W axis") and "liver, label 2" in caption


def test_an_empty_reference_shows_the_prediction():
    image, label = volume()
    assert case_picture(image, np.zeros_like(label), label, (3.0, 1.0, 1.0), NAMES).caption.startswith("Slice 3 of 4")
    nothing = case_picture(image, np.zeros_like(label), np.zeros_like(label), (3.0, 1.0, 1.0), NAMES)
    assert "no structure" in nothing.caption


def test_pixels_keep_their_proportions():
    image, label = volume((3, 20, 20))
    square, tall = (case_picture(image, label, label, (5.0, height, 1.0), NAMES) for height in (1.0, 1.5))
    assert size(square)[1] == size(tall)[1]
    assert size(tall)[0] - size(square)[0] == pytest.approx(0.5 * size(square)[1] / 3, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 16, 20), (3, 16, 16), (1, 1, 1), (2, 400, 3)])
@pytest.mark.parametrize("fill", [0.0, -1000.0, np.nan])
def test_constant_and_planar_images_are_drawn(shape, fill):
    label = np.zeros(shape, np.int64)
    assert case_picture(np.full(shape, fill), label, label, (1.0, 1.0, 1.0), {}).png.startswith(b"\x89PNG")


def test_forty_classes_have_different_colors_and_a_legend():
    label = np.arange(41).repeat(41).reshape(1, 41, 41)
    names = {i: f"structure ${i}$" for i in range(41)}
    assert case_picture(label.astype(float), label, label, (1.0, 1.0, 1.0), names).png
    assert len({label_color(value) for value in range(1, 41)}) == 40


def test_inputs_are_not_modified_and_shapes_are_checked():
    image, label = volume()
    for array in (image, label):
        array.setflags(write=False)
    case_picture(image, label, label, (3.0, 1.0, 1.0), NAMES)
    with pytest.raises(ShapeError, match=r"'a'.*\(4, 20, 30\).*\(3, 20, 30\)"):
        case_picture(image, label[:3], label, (3.0, 1.0, 1.0), NAMES)


def test_air_around_the_body_does_not_set_the_grey_window():
    image = np.full((1, 40, 40), -1000.0)
    image[0, 10:30, 10:30] = np.random.default_rng(0).uniform(0, 100, (20, 20))
    label = np.zeros(image.shape, np.uint8)
    label[0, 17:23, 17:23] = 1
    darker = image.copy()
    darker[image == -1000.0] = -9000.0
    pictures = [case_picture(array, label, label, (1.0, 1.0, 1.0), {}).png for array in (image, darker)]
    assert pictures[0] == pictures[1]


def test_files_of_one_patient_in_any_orientation_give_one_picture():
    label = (np.arange(120).reshape(4, 6, 5) % 7 == 0).astype(np.uint8)
    pictures = []
    for orientation, tilt in (("SPL", 0.0), ("SAR", 0.0), ("RSA", 0.0), ("SAR", 8.0)):
        image, grid = stored(orientation, tilt=(tilt, 0.0, 0.0))
        pictures.append(draw_case("a", image, {"reference": label.ravel()[image]}, grid, {1: "liver"}))
    assert len({picture.png for picture in pictures}) == 1
    assert {picture.caption for picture in pictures} == {
        "Axial slice 1 of 4 from I to S, R on the left and A at the top; it shows liver."
    }


def test_letters_are_drawn_where_the_sides_are_known():
    image = np.zeros((2, 20, 20))
    with_letters = draw_case("a", image, {}, geometry(image.shape, (3.0, 1.0, 1.0), "SPL"), {})
    assert with_letters.png != draw_case("a", image, {}, undirected(image.shape, (3.0, 1.0, 1.0)), {}).png


def test_a_2d_image_counts_no_slices():
    flat = Geometry(shape=(1, 8, 8), spacing=(1.0, 1.0, 1.0), planar=True)
    label = np.eye(8, dtype=np.uint8)[None]
    assert draw_case("a", label * 1.0, {"label": label}, flat, {1: "cell"}).caption == "It shows cell."


def test_every_picture_of_a_case_is_hung_by_one_rule():
    package = Path(samunet.__file__).parent
    drawing = [path for path in package.rglob("*.py") if "imshow(" in path.read_text(encoding="utf-8")]
    assert drawing == [package / "evaluation" / "picture.py"]
