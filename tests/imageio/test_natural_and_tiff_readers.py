"""PNG, BMP and TIFF, flat and as stacks; and the choice of a reader."""

import gzip
import json
import logging
import struct

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
    np.testing.assert_array_equal(
        NATURAL.read_label(tmp_path / f"out{ending}")[0], grey()[None].astype(np.int32) * 1000
    )


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
    with pytest.raises(ImageFileError, match=f"in{ending} has {channels + 1} channels per pixel.*remove the alpha"):
        NATURAL.read_image([tmp_path / f"in{ending}"])


def test_a_stack_with_a_palette_is_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "in.tif",
        np.zeros((5, 6, 8), np.uint8),
        photometric="palette",
        colormap=np.zeros((3, 256), np.uint16),
        metadata={"axes": "ZYX"},
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


BAD = [
    '{"spacing": [1, 2]}',
    '{"spacing": "123"}',
    '{"spacing": [true, 1, 1]}',
    '{"spacing": ["1", 1, 1]}',
    '{"spacing": [1, 1, 1e300]}',
    '{"spacing": [1, 0, 2]}',
    '{"spacing": "1"}',
    "{}",
    "[",
    "[1]",
]


@pytest.mark.parametrize("text", BAD)
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
            writer.write(
                page,
                compression=compression,
                photometric="minisblack",
                contiguous=False,
                metadata={} if described else None,
            )
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    for reader in (TIFF3D, NATURAL):
        with pytest.raises(ImageFileError, match="case.tif"):
            reader.read_label(path)


@pytest.mark.parametrize("reader", [NATURAL, TIFF3D], ids=lambda reader: reader.name)
def test_pages_that_lead_in_a_circle_are_refused(reader, tmp_path):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, np.zeros((3, 5, 6), np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as file:
        first, last = file.pages[0].offset, file.pages[2]
        end = last.offset + 2 + 12 * len(last.tags)
    content = path.read_bytes()
    path.write_bytes(content[:end] + first.to_bytes(4, "little") + content[end + 4 :])
    for read in (reader.peek, reader.load):
        with pytest.raises(ImageFileError, match="in.tif has pages that lead in a circle"):
            read(path)


def test_a_tiff_that_promises_more_than_it_holds_is_refused_at_once(tmp_path):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, np.ones((5, 6), np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].tags["ImageLength"].valueoffset
    content = path.read_bytes()
    path.write_bytes(content[:place] + (2_000_000_000).to_bytes(4, "little") + content[place + 4 :])
    with pytest.raises(ImageFileError, match="in.tif lacks pixels that its header promises"):
        NATURAL.load(path)


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
    with pytest.raises(DatasetError, match=r"'\.webp'; known are \.bmp, \.gipl, \.jpeg, \.jpg, \.mha, \.nii"):
        reader_for(".webp")


def test_example_that_no_reader_opens_gives_their_reasons(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.full((2, 2, 2), np.nan), np.eye(4)), tmp_path / "in.nii.gz")
    with pytest.raises(ImageFileError, match="SimpleITKIO: .*NaN.*NibabelIO: .*NaN"):
        reader_for(".nii.gz", example=tmp_path / "in.nii.gz")


def test_jpeg_is_read_and_never_a_label(tmp_path, caplog):
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "b.JPEG")
    reader = reader_for(".jpg")
    color, grey = reader.read_image([tmp_path / "a.jpg"]), reader.read_image([tmp_path / "b.JPEG"])
    np.testing.assert_array_equal(color.array[:, 0], np.moveaxis(np.asarray(Image.open(tmp_path / "a.jpg")), -1, 0))
    assert grey.array.shape == (1, 1, 9, 7) and reader.peek(tmp_path / "a.jpg").channels == 3 and not caplog.records
    with pytest.raises(ImageFileError, match="b.JPEG is a JPEG, which changes label values; save labels as .png"):
        reader.read_label(tmp_path / "b.JPEG")
    with pytest.raises(ImageFileError, match="JPEG changes label values; write .png"):
        reader.write_segmentation(np.zeros((1, 9, 7), np.uint8), grey.geometry, tmp_path / "c.jpg")
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(pixels).save(tmp_path / "t.jpg", exif=turned)
    assert reader.load(tmp_path / "t.jpg")[0].shape == (3, 1, 9, 7)
    assert "t.jpg is turned or mirrored when shown (EXIF orientation 6)" in caplog.text


def test_forms_that_would_lose_values_are_refused(tmp_path):
    grey = np.arange(63, dtype=np.uint8).reshape(9, 7)
    Image.fromarray(grey).save(tmp_path / "frames.png", save_all=True, append_images=[Image.fromarray(grey[::-1])])
    Image.fromarray(np.dstack([grey] * 4), mode="CMYK").save(tmp_path / "inks.jpg")
    tifffile.imwrite(tmp_path / "complex.tif", grey.astype(np.complex64), photometric="minisblack")
    tifffile.imwrite(tmp_path / "inks.tif", np.full((9, 7, 4), 255, np.uint8), photometric="separated")
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([grey] * 5), photometric="minisblack")
    for name, message in {
        "frames.png": "holds 2 frames, expected one image",
        "inks.jpg": "has pixel form CMYK",
        "complex.tif": "holds complex numbers, expected real ones",
        "inks.tif": "holds colors as SEPARATED, expected grey, RGB or a palette",
        "stack.tif": r"holds a stack \(QYX of lengths \(5, 9, 7\)\), expected one 2D image",
    }.items():
        with pytest.raises(ImageFileError, match=f"{name} {message}"):
            reader_for(".png").read_image([tmp_path / name])
    with pytest.raises(ImageFileError, match="complex.tif holds complex numbers"):
        reader_for(".png").read_label(tmp_path / "complex.tif")
    with pytest.raises(ImageFileError, match="complex.tif holds complex numbers"):
        reader_for(".png").read_image([tmp_path / "stack.tif".replace("stack", "complex")] * 2)


@pytest.mark.parametrize(
    "axes,shape,reader",
    [("CYX", (3, 9, 7), 0), ("CYX", (4, 9, 7), 0), ("ZCYX", (5, 2, 9, 7), 2), ("CZYX", (2, 5, 9, 7), 2)],
)
@pytest.mark.parametrize("form", ["imagej", "ome"])
def test_channels_of_a_tiff_are_channels_and_never_slices(axes, shape, reader, form, tmp_path):
    if (form, axes) == ("imagej", "CZYX"):
        pytest.skip("ImageJ writes ZCYX")
    values = np.random.default_rng(0).integers(0, 65535, shape).astype(np.uint16)
    values[-1] = 65535  # as an opaque alpha would be
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", metadata={"axes": axes}, **{form: True})
    (tmp_path / "a.json").write_text('{"spacing": [2, 1, 1]}')
    chosen = reader_for(".tif", example=tmp_path / "a.tif")
    found, seen = chosen.read_image([tmp_path / "a.tif"]), chosen.peek(tmp_path / "a.tif")
    expected = np.moveaxis(values, axes.index("C"), 0)
    assert chosen is READERS[reader] and (seen.channels, seen.geometry.shape) == (len(expected), found.geometry.shape)
    np.testing.assert_array_equal(found.array, expected.reshape(found.array.shape))


def test_pages_written_one_by_one_are_the_slices_of_a_stack(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (5, 9, 7)).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in values:
            writer.write(plane, photometric="minisblack")
    Image.fromarray(values[0]).save(
        tmp_path / "b.tif", save_all=True, append_images=[Image.fromarray(plane) for plane in values[1:]]
    )
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).with_suffix(".json").write_text('{"spacing": [2, 1, 1]}')
        array, geometry = TIFF3D.load(tmp_path / name)
        np.testing.assert_array_equal(array[0], values)
        assert TIFF3D.peek(tmp_path / name).geometry.shape == geometry.shape == (5, 9, 7)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.nii.gz", "a.nrrd", "a.mha"])
def test_an_image_without_a_voxel_is_refused_by_name(name, tmp_path):
    Image.new("L", (4, 3)).save(tmp_path / "good.png")
    content = {
        "a.png": (tmp_path / "good.png").read_bytes().replace(b"\0\0\0\4\0\0\0\3", b"\0\0\0\0\0\0\0\3"),
        "a.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 0, 3, 1, 24, 0, 0, 0, 0, 0, 0),
        "a.nrrd": b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 0 4 4\nencoding: raw\n\n",
        "a.mha": b"ObjectType = Image\nNDims = 3\nDimSize = 0 4 4\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n",
    }
    if name in content:
        (tmp_path / name).write_bytes(content[name])
    elif name == "a.tif":
        with pytest.warns(UserWarning):
            tifffile.imwrite(tmp_path / name, np.zeros((0, 7), np.uint8), photometric="minisblack")
    else:
        header = nibabel.Nifti1Header()
        header.set_data_shape((4, 4, 4))
        header["dim"][1] = 0
        header["magic"], header["vox_offset"] = b"n+1", 352
        (tmp_path / name).write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    with pytest.raises(ImageFileError, match=name):
        reader_for(name[1:]).read_image([tmp_path / name])


def test_an_image_that_says_to_be_large_is_measured_without_a_warning(tmp_path):
    path = tmp_path / "large.bmp"
    Image.new("L", (64, 64)).save(path)
    content = bytearray(path.read_bytes())
    content[18:26] = (15_000).to_bytes(4, "little") + (10_000).to_bytes(4, "little")  # width and height
    path.write_bytes(content)
    assert NATURAL.peek(path).geometry.shape == (1, 10_000, 15_000)
    with pytest.raises(ImageFileError, match=r"large.bmp cannot be read"):
        NATURAL.read_image([path])
