"""Headers that lie are refused by name before a library sees them; real programs' are understood as by ITK."""

from __future__ import annotations

import re

import numpy as np
import pytest
import SimpleITK as sitk
from hostile import HOSTILE, values, write_sound

from samunet.core.dataset import Case
from samunet.errors import ImageFileError
from samunet.imageio import headers, reader_for
from samunet.imageio.reader import files_of

READER = reader_for(".mha")
REFUSED = [(ending, name) for ending, changes in HOSTILE.items() for name in changes]


@pytest.mark.parametrize(("ending", "name"), REFUSED, ids=[f"{ending} {name}" for ending, name in REFUSED])
def test_a_hostile_header_is_refused_by_name(tmp_path, monkeypatch, ending, name):
    monkeypatch.setattr(sitk, "ReadImage", lambda *given, **options: pytest.fail("ITK sees it"))
    (tmp_path / "other.raw").write_bytes(bytes(48))
    (tmp_path / "in").mkdir()
    path = write_sound(tmp_path / "in" / f"case{ending}")
    path.write_bytes(HOSTILE[ending][name](path.read_bytes()))
    with pytest.raises(ImageFileError, match=f"case{ending}|absent.raw") as refusal:
        READER.read_image([path])
    assert re.search("export|copy|save|correct", str(refusal.value))  # the way out


@pytest.mark.parametrize(
    ("ending", "name"), [(".nii", "one axis"), (".nii", "sform -inf"), (".mha", "NDims 100"), (".nrrd", "300 kinds")]
)
def test_a_peek_refuses_hostile_headers_by_the_same_words(tmp_path, ending, name):
    path = write_sound(tmp_path / f"case{ending}")
    path.write_bytes(HOSTILE[ending][name](path.read_bytes()))
    with pytest.raises(ImageFileError) as peeked:
        READER.peek(path)
    with pytest.raises(ImageFileError) as read:
        READER.read_image([path])
    assert str(peeked.value) == str(read.value)


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nhdr", ".gipl"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (5, 2, 3, 4), (2, 3, 4, -3), (3, 4, -3)], ids=str)
@pytest.mark.parametrize("compressed", [False, True])
def test_headers_are_understood_as_itk_does(tmp_path, ending, shape, compressed):
    components = -shape[-1] if shape[-1] < 0 else 0
    if ending == ".gipl" and components:
        pytest.skip("GIPL holds one number per voxel")
    array = np.arange(np.prod(np.abs(shape)), dtype=np.float32).reshape(np.abs(shape))
    image = sitk.GetImageFromArray(array, isVector=bool(components))
    image.SetSpacing([0.5, 1.5, 2.5, 3.5][: image.GetDimension()])
    sitk.WriteImage(image, str(tmp_path / f"case{ending}"), useCompression=compressed)
    header, read = headers.read_header(tmp_path / f"case{ending}"), sitk.ReadImage(str(tmp_path / f"case{ending}"))
    assert (
        header.size == read.GetSize()
        and header.spacing == pytest.approx(read.GetSpacing())
        and header.num_bytes == array.nbytes
    )
    found, _ = READER.load(tmp_path / f"case{ending}")
    expected = np.moveaxis(array, -1, 0) if components else array
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize(
    "kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_every_number_type_that_itk_writes_is_read(tmp_path, ending, kind):
    sitk.WriteImage(sitk.GetImageFromArray(values().astype(kind)), str(tmp_path / f"case{ending}"))
    found, _ = READER.load(tmp_path / f"case{ending}")
    assert found.dtype == kind
    np.testing.assert_array_equal(found[0], values())


@pytest.mark.parametrize(("ending", "data"), [(".mhd", "case.raw"), (".nhdr", "case.raw"), (".nhdr", "case.raw.gz")])
def test_a_data_file_beside_its_header_is_read_and_hashed(tmp_path, ending, data):
    path = write_sound(tmp_path / f"case{ending}", compressed=data.endswith(".gz"))
    np.testing.assert_array_equal(READER.read_image([path]).array[0], values())
    assert files_of(Case(identifier="case", images=(path,), label=None), READER) == (path, tmp_path / data)
    with (tmp_path / data).open("ab") as file:
        file.write(b"more")
    with pytest.raises(ImageFileError, match=r"case\.raw"):
        READER.read_image([path])
    (tmp_path / data).unlink()
    with pytest.raises(ImageFileError, match=r"case\.raw"):
        READER.read_image([path])


def test_a_data_file_may_have_letters_of_any_script(tmp_path):
    path = write_sound(tmp_path / "größe.mhd")
    np.testing.assert_array_equal(READER.read_image([path]).array[0], values())
    assert READER.files(path) == (path, tmp_path / "größe.raw")


def test_no_file_of_another_folder_is_read(tmp_path):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(range(48)))
    (tmp_path / "in").mkdir()
    for name in (str(secret), "../secret.raw", "./../secret.raw", "..\\secret.raw", "", "."):
        path = write_sound(tmp_path / "in" / "case.mhd")
        path.write_text(path.read_text().replace("case.raw", name))
        with pytest.raises(ImageFileError, match="expected one file in its own folder"):
            READER.read_image([path])
        with pytest.raises(ImageFileError):
            READER.files(path)
        path = write_sound(tmp_path / "in" / "case.nhdr")
        path.write_text(path.read_text().replace("case.raw", name))
        with pytest.raises(ImageFileError):
            READER.read_image([path])


def test_windows_line_ends_and_key_value_pairs_are_read(tmp_path):
    path = write_sound(tmp_path / "case.mha")
    head, data = path.read_bytes().split(b"LOCAL\n")
    path.write_bytes(head.replace(b"\n", b"\r\n") + b"LOCAL\r\n" + data)
    np.testing.assert_array_equal(READER.read_image([path]).array[0], values())
    path = write_sound(tmp_path / "case.nrrd")
    path.write_bytes(
        path.read_bytes().replace(b"encoding", b'Segment0_Name:=liver: left\nlabels: "x" "y" "z"\nencoding')
    )
    np.testing.assert_array_equal(READER.read_image([path]).array[0], values())


def test_other_endings_are_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(values()), str(tmp_path / "case.vtk"))
    with pytest.raises(
        ImageFileError, match=r"case.vtk has an ending that cannot be read, expected .nii, .nii.gz, .mha"
    ):
        READER.read_image([tmp_path / "case.vtk"])
