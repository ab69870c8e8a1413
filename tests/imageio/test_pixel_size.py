"""Sizes of pixels that TIFFs tell, written by tifffile and Pillow, against sizes worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from samunet.core.dataset import Case, read_dataset_json
from samunet.errors import DatasetError
from samunet.imageio import READERS
from samunet.imageio.case import read_case

NATURAL = next(reader for reader in READERS if reader.name == "NaturalImage2DIO")
TIFF3D = next(reader for reader in READERS if reader.name == "Tiff3DIO")
PLANE, STACK = np.arange(80, dtype=np.uint8).reshape(8, 10), np.arange(320, dtype=np.uint16).reshape(4, 8, 10)
MICRO = "\N{MICRO SIGN}m"


def size_of(reader, path):
    """Return the spacing, None where there is none; header and whole file must agree."""
    read, peeked = reader.read_image([path]).geometry, reader.peek(path).geometry
    assert (read.spacing, read.measured, read.planar) == (peeked.spacing, peeked.measured, peeked.planar)
    return read.spacing if read.measured else None


@pytest.mark.parametrize(
    ("unit", "resolution", "size"),
    [
        ("um", 2, 0.0005),
        ("micron", 2, 0.0005),
        ("\\u00B5m", 4, 0.00025),
        ("nm", 0.01, 0.0001),
        ("mm", 10, 0.1),
        ("inch", 254, 0.1),
        ("pixel", 2, None),
        ("", 2, None),
        ("um", 1e-9, None),  # a pixel of a thousand kilometers
    ],
)
def test_imagejs_unit_and_resolution_give_the_size(unit, resolution, size, tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        PLANE,
        imagej=True,
        resolution=(resolution, resolution / 2),
        metadata={"unit": unit} if unit else {},
    )
    assert size_of(NATURAL, tmp_path / "a.tif") == (
        None if size is None else pytest.approx((1, 2 * size, size), rel=1e-6)
    )


def test_imagejs_spacing_is_the_distance_of_slices_and_1_where_it_is_not_written(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        STACK,
        imagej=True,
        resolution=(2, 4),
        metadata={"unit": "um", "spacing": 3.0, "axes": "ZYX"},
    )
    tifffile.imwrite(tmp_path / "b.tif", STACK, imagej=True, resolution=(2, 4), metadata={"unit": "um", "axes": "ZYX"})
    tifffile.imwrite(tmp_path / "c.tif", STACK, imagej=True, resolution=(2, 4), metadata={"unit": "um", "axes": "TYX"})
    assert size_of(TIFF3D, tmp_path / "a.tif") == pytest.approx((0.003, 0.00025, 0.0005))
    assert size_of(TIFF3D, tmp_path / "b.tif") == pytest.approx((0.001, 0.00025, 0.0005))
    assert size_of(TIFF3D, tmp_path / "c.tif") is None  # seconds are no distance


def test_omes_physical_sizes_are_read_with_their_units(tmp_path):
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": MICRO, "PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        STACK,
        ome=True,
        metadata={"axes": "ZYX", **sizes, "PhysicalSizeZ": 0.002, "PhysicalSizeZUnit": "mm"},
    )
    assert size_of(TIFF3D, tmp_path / "a.ome.tif") == pytest.approx((0.002, 0.00025, 0.0005))
    tifffile.imwrite(tmp_path / "b.ome.tif", STACK, ome=True, metadata={"axes": "ZYX", **sizes})
    assert size_of(TIFF3D, tmp_path / "b.ome.tif") is None  # nothing tells how far its slices lie apart
    tifffile.imwrite(
        tmp_path / "c.ome.tif", PLANE, ome=True, metadata={"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    )
    assert size_of(NATURAL, tmp_path / "c.ome.tif") == pytest.approx(
        (1, 0.0005, 0.0005)
    )  # micrometers are OME's default
    tifffile.imwrite(
        tmp_path / "d.ome.tif",
        PLANE,
        ome=True,
        metadata={"axes": "YX", "PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "pixel"},
    )
    assert size_of(NATURAL, tmp_path / "d.ome.tif") is None


@pytest.mark.parametrize(
    ("resolution", "unit", "size"),
    [
        (20000, "CENTIMETER", 0.0005),
        (50800, "INCH", 0.0005),
        (2540, "INCH", 0.01),
        (72, "INCH", None),
        (96, "INCH", None),
        (300, "INCH", None),
        (1200, "INCH", None),
        (118.11, "CENTIMETER", None),  # 300 dpi
        (20000, "NONE", None),
        (4e9, "CENTIMETER", None),
    ],
)
def test_bare_resolutions_count_where_only_microscopes_have_them(resolution, unit, size, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PLANE, resolution=(resolution, resolution), resolutionunit=unit)
    assert size_of(NATURAL, tmp_path / "a.tif") == (None if size is None else pytest.approx((1, size, size)))


@pytest.mark.parametrize("ending", [".tif", ".png", ".jpg", ".bmp"])
def test_the_dpi_of_pillow_are_no_size(ending, tmp_path):
    Image.fromarray(PLANE).save(tmp_path / f"a{ending}", dpi=(300, 300))
    assert size_of(NATURAL, tmp_path / f"a{ending}") is None


def test_a_spacing_file_wins_over_the_tags_of_a_stack(tmp_path):
    tifffile.imwrite(
        tmp_path / "a_0000.tif",
        STACK,
        imagej=True,
        resolution=(2, 2),
        metadata={"unit": "um", "spacing": 3.0, "axes": "ZYX"},
    )
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [5, 2, 1]}))
    assert size_of(TIFF3D, tmp_path / "a_0000.tif") == (5, 2, 1)


def test_segmentations_keep_the_size_of_their_image_and_get_none_from_one_without(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PLANE, imagej=True, resolution=(2, 4), metadata={"unit": "um"})
    NATURAL.write_segmentation(PLANE[None], NATURAL.read_image([tmp_path / "a.tif"]).geometry, tmp_path / "seg.tif")
    assert size_of(NATURAL, tmp_path / "seg.tif") == pytest.approx((1, 0.00025, 0.0005))
    tifffile.imwrite(tmp_path / "b.tif", STACK, photometric="minisblack")
    (tmp_path / "seg3.json").write_text(json.dumps({"spacing": [5, 2, 1]}))  # of an earlier segmentation
    TIFF3D.write_segmentation(STACK, TIFF3D.read_image([tmp_path / "b.tif"]).geometry, tmp_path / "seg3.tif")
    assert size_of(TIFF3D, tmp_path / "seg3.tif") is None


def test_a_label_and_a_channel_without_a_size_take_that_of_the_image(tmp_path):
    tifffile.imwrite(tmp_path / "a_0000.tif", PLANE)
    tifffile.imwrite(tmp_path / "a_0001.tif", PLANE, imagej=True, resolution=(2, 2), metadata={"unit": "um"})
    tifffile.imwrite(tmp_path / "a_0002.tif", PLANE, imagej=True, resolution=(1, 1), metadata={"unit": "um"})
    Image.fromarray((PLANE > 40).astype(np.uint8)).save(tmp_path / "label.png")
    text = {
        "channel_names": {"0": "A", "1": "B"},
        "labels": {"background": 0, "cell": 1},
        "numTraining": 1,
        "file_ending": ".tif",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(text))
    spec = read_dataset_json(tmp_path / "dataset.json")
    case = Case(identifier="a", images=(tmp_path / "a_0000.tif", tmp_path / "a_0001.tif"), label=tmp_path / "label.png")
    volume, label = read_case(case, spec, NATURAL)
    assert (
        volume.geometry.measured
        and volume.geometry.spacing == pytest.approx((1, 0.0005, 0.0005))
        and label.sum() == (PLANE > 40).sum()
    )
    with pytest.raises(DatasetError, match=r"share one spacing: .*a_0001.tif has .* mm, .*a_0002.tif has"):
        NATURAL.read_image([tmp_path / f"a_000{channel}.tif" for channel in range(3)])
