"""PNG, BMP and TIFF, flat and as stacks; and the choice of a reader."""

import json
import logging

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from samunet.core.geometry import Geometry
from samunet.errors import ConfigError, DatasetError, ImageFileError
from samunet.imageio import READERS, reader_for

NATURAL = next(reader for reader in READERS if reader.name == "NaturalImage2DIO")
TIFF3D = next(reader for reader in READERS if reader.name == "Tiff3DIO")
ENDINGS = pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
PLANAR = Geometry(shape=(1, 6, 8), spacing=(1, 1, 1), planar=True)


def grey() -> np.ndarray:
    return np.arange(48, dtype=np.uint8).reshape(6, 8)


def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)


@ENDINGS
def test_rgb_image_gives_three_channels_on_a_planar_grid(ending, tmp_path):
    Image.fromarray(rgb()).save(tmp_path / f"in{ending}")
    volume = NATURAL.read_image([tmp_path / f"in{ending}"])
    np.testing.assert_array_equal(volume.array, np.moveaxis(rgb(), -1, 0)[:, None])
    assert volume.array.dtype == np.float32
    assert volume.geometry == PLANAR


@ENDINGS
def test_grey_segmentation_comes_back(ending, tmp_path):
    NATURAL.write_segmentation(grey()[None], PLANAR, tmp_path / f"out{ending}")
    label, geometry = NATURAL.read_label(tmp_path / f"out{ending}")
    np.testing.assert_array_equal(label, grey()[None])
    assert (label.dtype, geometry) == (np.int16, PLANAR)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_sixteen_bit_segmentation_comes_back(ending, tmp_path):
    NATURAL.write_segmentation(grey()[None].astype(np.uint16) * 1000, PLANAR, tmp_path / f"out{ending}")
    np.testing.assert_array_equal(NATURAL.read_label(tmp_path / f"out{ending}")[0], grey()[None].astype(np.int32) * 1000)


def test_bmp_refuses_sixteen_bits(tmp_path):
    with pytest.raises(ImageFileError, match="BMP holds 8 bits"):
        NATURAL.write_segmentation(grey()[None].astype(np.uint16), PLANAR, tmp_path / "out.bmp")


def test_grey_and_rgb_files_of_one_case_stack(tmp_path):
    Image.fromarray(rgb()).save(tmp_path / "case_0000.png")
    Image.fromarray(grey()).save(tmp_path / "case_0001.png")
    assert NATURAL.read_image([tmp_path / "case_0000.png", tmp_path / "case_0001.png"]).array.shape == (4, 1, 6, 8)


@ENDINGS
def test_a_palette_gives_colors_in_an_image_and_indices_in_a_label(ending, tmp_path):
    picture = Image.fromarray(rgb()).convert("P", palette=Image.Palette.ADAPTIVE, colors=20)
    picture.save(tmp_path / f"in{ending}")
    volume = NATURAL.read_image([tmp_path / f"in{ending}"])
    np.testing.assert_array_equal(volume.array[:, 0], np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0))
    label, _ = NATURAL.read_label(tmp_path / f"in{ending}")
    np.testing.assert_array_equal(label[0], np.asarray(picture))


@pytest.mark.parametrize("mode,channels", [("RGBA", 3), ("LA", 1)])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_an_opaque_alpha_is_dropped_and_another_refused(mode, channels, ending, tmp_path):
    picture = Image.fromarray(rgb()).convert(mode)
    picture.save(tmp_path / f"in{ending}")
    volume = NATURAL.read_image([tmp_path / f"in{ending}"])
    np.testing.assert_array_equal(volume.array[:, 0], np.moveaxis(np.asarray(picture), -1, 0)[:channels])
    picture.putalpha(Image.fromarray(grey()))
    picture.save(tmp_path / f"in{ending}")
    with pytest.raises(ImageFileError, match=f"in{ending} has {channels + 1} channels a pixel.*remove the alpha"):
        NATURAL.read_image([tmp_path / f"in{ending}"])


def test_a_stack_with_a_palette_is_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "in.tif", np.zeros((5, 6, 8), np.uint8), photometric="palette", colormap=np.zeros((3, 256), np.uint16), metadata={"axes": "ZYX"}
    )
    with pytest.raises(ImageFileError, match="with a palette, expected a grey stack"):
        TIFF3D.read_image([tmp_path / "in.tif"])


def test_black_and_white_png_holds_zero_and_one(tmp_path):
    Image.fromarray(grey() > 20).save(tmp_path / "in.png")
    np.testing.assert_array_equal(NATURAL.read_label(tmp_path / "in.png")[0][0], grey() > 20)


def test_label_in_rgb_is_refused(tmp_path):
    Image.fromarray(rgb()).save(tmp_path / "in.png")
    with pytest.raises(ImageFileError, match="3 channels, expected one"):
        NATURAL.read_label(tmp_path / "in.png")


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_png_is_refused(damage, tmp_path):
    path = tmp_path / "in.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    with pytest.raises(ImageFileError, match="in.png cannot be read"):
        NATURAL.read_image([path])


def test_stack_takes_its_spacing_from_the_file_beside_it(tmp_path):
    stack = np.random.default_rng(0).integers(0, 999, (5, 6, 8), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "case_0000.tif", stack, photometric="minisblack")
    (tmp_path / "case.json").write_text(json.dumps({"spacing": [3, 1.5, 0.5]}))
    volume = TIFF3D.read_image([tmp_path / "case_0000.tif"])
    np.testing.assert_array_equal(volume.array[0], stack)
    assert volume.geometry == Geometry(shape=(5, 6, 8), spacing=(3.0, 1.5, 0.5))


def test_stack_without_spacing_is_reported_and_read_with_one_mm(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "case_0000.tif", np.zeros((5, 6, 8), np.uint8), photometric="minisblack")
    with caplog.at_level(logging.WARNING):
        assert TIFF3D.read_image([tmp_path / "case_0000.tif"]).geometry.spacing == (1.0, 1.0, 1.0)
    assert "case.json" in caplog.text


@pytest.mark.parametrize("text", ['{"spacing": [1, 2]}', '{"spacing": [1, 0, 2]}', '{"spacing": "1"}', "{}", "[", "[1]"])
def test_bad_spacing_file_is_refused(text, tmp_path):
    tifffile.imwrite(tmp_path / "case.tif", np.zeros((5, 6, 8), np.uint8), photometric="minisblack")
    (tmp_path / "case.json").write_text(text)
    with pytest.raises(ImageFileError, match="three positive numbers"):
        TIFF3D.read_label(tmp_path / "case.tif")


@pytest.mark.parametrize("shape", [(5, 6, 8), (5, 6, 3), (1, 6, 8)])
def test_stack_segmentation_comes_back_with_spacing(shape, tmp_path):
    labels = np.random.default_rng(0).integers(0, 9, shape, dtype=np.uint8)
    geometry = Geometry(shape=shape, spacing=(3.0, 1.5, 0.5))
    TIFF3D.write_segmentation(labels, geometry, tmp_path / "out.tif")
    read, grid = TIFF3D.read_label(tmp_path / "out.tif")
    np.testing.assert_array_equal(read, labels)
    assert grid == geometry


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.9])
def test_truncated_stack_is_refused(compression, described, keep, tmp_path):
    path = tmp_path / "case.tif"
    stack = np.random.default_rng(0).integers(0, 255, (20, 32, 40), dtype=np.uint8)
    with tifffile.TiffWriter(path) as writer:
        for page in [stack] if described else stack:
            writer.write(page, compression=compression, photometric="minisblack", contiguous=False, metadata={} if described else None)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    for reader in (TIFF3D, NATURAL):
        with pytest.raises(ImageFileError, match="case.tif"):
            reader.read_label(path)


def test_reader_is_chosen_by_ending_name_or_example(tmp_path):
    assert reader_for(".nii.gz").name == "SimpleITKIO"
    assert reader_for(".PNG").name == "NaturalImage2DIO"
    assert reader_for(".nii.gz", name="NibabelIO").name == "NibabelIO"
    assert reader_for(".tif").name == "NaturalImage2DIO"
    tifffile.imwrite(tmp_path / "case_0000.tif", np.zeros((5, 6, 8), np.uint8), photometric="minisblack")
    assert reader_for(".tif", example=tmp_path / "case_0000.tif").name == "Tiff3DIO"


def test_unknown_reader_and_ending_name_what_is_known(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'NibabelIO'"):
        reader_for(".nii.gz", name="NibabellIO")
    with pytest.raises(DatasetError, match=r"'\.jpg'; known are \.bmp, \.gipl, \.mha, \.nii"):
        reader_for(".jpg")


def test_example_that_no_reader_opens_gives_their_reasons(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.full((2, 2, 2), np.nan), np.eye(4)), tmp_path / "in.nii.gz")
    with pytest.raises(ImageFileError, match="SimpleITKIO: .*NaN.*NibabelIO: .*NaN"):
        reader_for(".nii.gz", example=tmp_path / "in.nii.gz")
