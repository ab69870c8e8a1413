"""Shape and spacing of a file from its header."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from samunet.errors import ImageFileError
from samunet.imageio import READERS, reader_for


@pytest.mark.parametrize("ending", sorted({ending for reader in READERS for ending in reader.endings} - {".tiff"}))
def test_a_peek_tells_what_reading_tells(tmp_path, ending):
    reader = reader_for(ending)
    planar = reader.name == "NaturalImage2DIO"
    image = sitk.GetImageFromArray(np.arange(1, 61, dtype=np.uint8).reshape((5, 12) if planar else (3, 4, 5)))
    if not planar and ending != ".tif":
        image.SetSpacing((0.5, 0.75, 3.0))
    path = tmp_path / f"case{ending}"
    sitk.WriteImage(image, str(path))
    seen, whole = reader.peek(path), reader.load(path)[1]
    assert seen.shape == whole.shape and seen.planar == whole.planar
    assert np.allclose(seen.spacing, whole.spacing)


def test_a_flat_medical_image_is_planar(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((4, 5), np.uint8))
    sitk.WriteImage(image, str(tmp_path / "case.mha"))
    assert reader_for(".mha").peek(tmp_path / "case.mha").planar


def test_a_header_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "case.nrrd").write_text("nothing")
    with pytest.raises(ImageFileError, match="case.nrrd cannot be read"):
        reader_for(".nrrd").peek(tmp_path / "case.nrrd")
    with pytest.raises(ImageFileError, match="absent.nii.gz"):
        reader_for(".nii.gz").peek(tmp_path / "absent.nii.gz")
