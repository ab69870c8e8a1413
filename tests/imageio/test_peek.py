"""Shape and spacing of a file from its header."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from samunet.core import memory
from samunet.errors import ImageFileError
from samunet.imageio import READERS, reader_for
from samunet.imageio.sitk import SimpleITKIO


@pytest.mark.parametrize("ending", sorted({ending for reader in READERS for ending in reader.endings} - {".tiff"}))
def test_a_peek_tells_what_reading_tells(tmp_path, ending):
    reader = reader_for(ending)
    planar = reader.name == "NaturalImage2DIO"
    image = sitk.GetImageFromArray(np.arange(1, 61, dtype=np.uint8).reshape((5, 12) if planar else (3, 4, 5)))
    if not planar and ending != ".tif":
        image.SetSpacing((0.5, 0.75, 3.0))
    path = tmp_path / f"case{ending}"
    sitk.WriteImage(image, str(path))
    peek, (array, whole) = reader.peek(path), reader.load(path)
    seen = peek.geometry
    assert seen.shape == whole.shape and seen.planar == whole.planar
    assert np.allclose(seen.spacing, whole.spacing)
    assert (peek.channels, peek.loaded) == (len(array), array.nbytes) and peek.loading >= peek.loaded


@pytest.mark.parametrize("slope", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["int8", "int16", "uint32", "float32", "float64"])
def test_a_peek_tells_the_bytes_of_stored_numbers_and_of_scaled_ones(tmp_path, kind, slope):
    for shape in ((3, 4), (3, 4, 5), (3, 4, 5, 2)):
        image = nibabel.Nifti1Image(np.ones(shape, kind), np.eye(4))
        image.header.set_slope_inter(slope, 0)
        nibabel.save(image, tmp_path / "case.nii.gz")
        peek, (array, geometry) = (
            of(tmp_path / "case.nii.gz") for of in (reader_for(".nii.gz").peek, reader_for(".nii.gz").load)
        )
        assert (peek.channels, peek.loaded, peek.loading) == (len(array), array.nbytes, array.nbytes)
        assert (peek.geometry.shape, peek.geometry.planar) == (geometry.shape, geometry.planar)


def test_a_peek_counts_colors_components_and_points_of_time(tmp_path):
    rgb = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb.nii.gz")
    sitk.WriteImage(sitk.Image([5, 4, 3], sitk.sitkVectorFloat32, 2), str(tmp_path / "vector.mha"))
    sitk.WriteImage(sitk.Image([5, 4, 3, 6], sitk.sitkInt16), str(tmp_path / "time.nrrd"))
    flat = {"grey": "L", "color": "RGB", "opaque": "RGBA", "palette": "P", "deep": "I;16"}
    for name, mode in flat.items():
        image = Image.new(mode, (5, 4))
        if mode == "RGBA":
            image.putalpha(255)
        image.save(tmp_path / f"{name}.png")
    tifffile.imwrite(tmp_path / "color.tif", np.zeros((4, 5, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(
        tmp_path / "palette.tif",
        np.zeros((4, 5), np.uint8),
        photometric="palette",
        colormap=np.zeros((3, 256), np.uint16),
    )
    files = ["rgb.nii.gz", "vector.mha", "time.nrrd", *(f"{name}.png" for name in flat), "color.tif", "palette.tif"]
    for name in files:
        reader = reader_for("." + name.partition(".")[2])
        peek, (array, geometry) = reader.peek(tmp_path / name), reader.load(tmp_path / name)
        assert (peek.channels, peek.geometry.shape) == (len(array), geometry.shape), name
        assert peek.loading >= peek.loaded >= array.nbytes, name


def test_a_flat_medical_image_is_planar(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((4, 5), np.uint8))
    sitk.WriteImage(image, str(tmp_path / "case.mha"))
    assert reader_for(".mha").peek(tmp_path / "case.mha").geometry.planar


def test_a_header_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "case.nrrd").write_text("nothing")
    with pytest.raises(ImageFileError, match="case.nrrd has a header that cannot be read: it does not begin with NRRD"):
        reader_for(".nrrd").peek(tmp_path / "case.nrrd")
    with pytest.raises(ImageFileError, match="absent.nii.gz"):
        reader_for(".nii.gz").peek(tmp_path / "absent.nii.gz")


def test_a_reader_is_chosen_by_the_header_of_what_does_not_fit_into_memory(tmp_path, monkeypatch):
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 5), np.int16), np.eye(4)), tmp_path / "case.nii.gz")
    monkeypatch.setattr(memory, "available_memory", lambda: 100)
    monkeypatch.setattr(SimpleITKIO, "load", lambda *_: pytest.fail("it was read"))
    assert reader_for(".nii.gz", example=tmp_path / "case.nii.gz").name == "SimpleITKIO"
