"""DICOM series are read on the grid and with the numbers they were written with; incomplete ones are refused."""

from __future__ import annotations

import locale

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from samunet.cli import import_dataset
from samunet.core.dataset import DatasetSpec
from samunet.core.labels import parse_labels
from samunet.errors import DatasetError, ImageFileError
from samunet.fewshot.examples import read_references
from samunet.imageio import itk_pool, reader_for
from samunet.imageio.sitk import SimpleITKIO
from samunet.pipeline import cases_to_predict

READER = reader_for(".nii.gz")
SPEC = DatasetSpec(
    name="Dataset001_X",
    channels=("CT",),
    labels=parse_labels({"background": 0, "a": 1}),
    file_ending=".nii.gz",
    num_training=1,
    reader=None,
    raw={},
)


def oblique(depth=5) -> sitk.Image:
    """An asymmetric volume whose slices lean towards the feet."""
    values = np.random.default_rng(0).integers(-1000, 1000, (depth, 12, 16)).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-50.0, 12.5, 30.0))
    angle = np.radians(20)
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    image.SetDirection((1, 0, 0, 0, cosine, -sine, 0, sine, cosine))
    return image


def write_series(image: sitk.Image, folder, uid="1.2.826.0.1.3680043.2.1125.1", skip=()):
    """Write one file per slice, named against their order."""
    folder.mkdir(parents=True, exist_ok=True)
    writer, direction = sitk.ImageFileWriter(), image.GetDirection()
    writer.KeepOriginalImageUIDOn()
    for index in range(image.GetDepth()):
        if index in skip:
            continue
        plane = image[:, :, index]
        position = image.TransformIndexToPhysicalPoint((0, 0, index))
        for key, value in {
            "0008|0060": "CT",
            "0020|000e": uid,
            "0020|000d": f"{uid}.9",
            "0008|0018": f"{uid}.{index + 1}",
            "0020|0013": str(index),
            "0020|0032": "\\".join(f"{part:.6f}" for part in position),
            "0020|0037": "\\".join(f"{direction[place]:.6f}" for place in (0, 3, 6, 1, 4, 7)),
            "0018|0050": "2.5",
        }.items():
            plane.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"slice{90 - index}.dcm"))
        writer.Execute(plane)
    return folder


def test_a_series_gives_its_numbers_on_its_grid(tmp_path):
    image = oblique()
    sitk.WriteImage(image, str(tmp_path / "same.nii.gz"))
    series, same = (
        READER.read_image([write_series(image, tmp_path / "series")]),
        READER.read_image([tmp_path / "same.nii.gz"]),
    )
    np.testing.assert_array_equal(series.array, same.array)
    assert series.geometry.corner_distance_mm(same.geometry) < 1e-3 and series.geometry.spacing == pytest.approx(
        (2.5, 0.8, 0.7)
    )
    assert len(READER.files(tmp_path / "series")) == 5


@pytest.mark.parametrize("depth", [5, 1])
def test_a_peek_tells_shape_and_spacing(tmp_path, depth):
    folder = write_series(oblique(depth), tmp_path / "series")
    seen, whole = READER.peek(folder).geometry, READER.load(folder)[1]
    assert seen.shape == whole.shape and seen.planar == whole.planar
    np.testing.assert_allclose(seen.spacing, whole.spacing, rtol=1e-4)


@pytest.mark.parametrize("separate", [True, False])
def test_reading_leaves_the_locale_alone(tmp_path, monkeypatch, separate):
    monkeypatch.setattr(itk_pool, "SEPARATE", separate and itk_pool.SEPARATE)
    folder, before = write_series(oblique(), tmp_path / "series"), "C.UTF-8"
    locale.setlocale(locale.LC_ALL, before)
    READER.peek(folder)
    READER.read_image([folder])
    assert locale.setlocale(locale.LC_ALL) == before and (tmp_path / "ü.txt").write_text("ü") == 1


def test_incomplete_mixed_and_absent_series_are_refused(tmp_path):
    with pytest.raises(ImageFileError, match="holds slices 2.5 to 5 mm apart; slices are missing or there twice"):
        READER.read_image([write_series(oblique(), tmp_path / "gap", skip=(2,))])
    write_series(oblique(), tmp_path / "two")
    other = tmp_path / "two" / "other"
    for path in write_series(oblique(), other, uid="1.2.826.0.1.3680043.2.1125.2").iterdir():
        path.rename(tmp_path / "two" / f"other_{path.name}")
    with pytest.raises(
        ImageFileError, match="holds 2 DICOM series, expected one \\(1: no description, CT, 5 files, 1.2.826"
    ):
        READER.read_image([tmp_path / "two"])
    tilted = write_series(oblique(), tmp_path / "tilted")
    for number, path in enumerate(sorted(tilted.iterdir(), reverse=True)):
        data = pydicom.dcmread(path)
        data.ImagePositionPatient[0] += 0.3 * number
        data.save_as(path)
    with pytest.raises(ImageFileError, match="slices that are shifted against each other, by 1.2 mm in all, as a tilt"):
        READER.read_image([tilted])
    (tmp_path / "none").mkdir()
    with pytest.raises(ImageFileError, match="holds no DICOM file"):
        READER.read_image([tmp_path / "none"])
    for kept in (1229, 1030, 700):
        damaged = sorted(write_series(oblique(), tmp_path / "cut").iterdir())[0]  # the last slice, so no gap shows
        damaged.write_bytes(damaged.read_bytes()[:kept])
        with pytest.raises(
            ImageFileError,
            match="slice86.dcm (is truncated|is a DICOM file that cannot be read|has no readable header)",
        ):
            READER.read_image([tmp_path / "cut"])


def test_series_are_imported_beside_their_labels(tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir(), (tmp_path / "labels").mkdir()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    for name in ("p.1", "p.2"):
        write_series(oblique(), tmp_path / "images" / name)
        sitk.WriteImage(sitk.Cast(oblique() > 0, sitk.sitkUInt8), str(tmp_path / "labels" / f"{name}.nii.gz"))
    command = [
        "folders",
        "-i",
        str(tmp_path / "images"),
        "-l",
        str(tmp_path / "labels"),
        "-d",
        "Dataset080_Dicom",
        "--no_pbar",
    ]
    assert import_dataset.main([*command, "--channels", "CT", "--labels", "bright=1"]) == 0
    made = READER.read_image([tmp_path / "raw/Dataset080_Dicom/imagesTr/p.2_0000.nii.gz"])
    np.testing.assert_array_equal(made.array[0], sitk.GetArrayFromImage(oblique()))
    (tmp_path / "raw/Dataset080_Dicom").rename(tmp_path / "by names")
    (tmp_path / "mine").mkdir()
    for part in ("images", "labels"):
        (tmp_path / part).rename(tmp_path / "mine" / part)
    assert import_dataset.main([str(tmp_path / "mine"), "-d", "Dataset081_Any", "--yes", "--no_pbar"]) == 0
    for path in (tmp_path / "by names").glob("*/*.nii.gz"):
        assert (tmp_path / "raw/Dataset081_Any" / path.parent.name / path.name).read_bytes() == path.read_bytes()


def test_a_series_with_a_label_in_another_format_is_a_reference(tmp_path):
    write_series(oblique(), tmp_path / "images" / "p.1")
    (tmp_path / "labels").mkdir()
    sitk.WriteImage(sitk.Cast(oblique() > 0, sitk.sitkUInt8), str(tmp_path / "labels" / "p.1.nii.gz"))
    found = read_references(tmp_path)
    assert found.spec.file_ending == ".nii.gz" and found.cases[0].images == (tmp_path / "images" / "p.1",)
    np.testing.assert_array_equal(found.examples[0].volume.array[0] > 0, found.examples[0].label)


def test_folders_of_series_are_cases_to_predict(tmp_path):
    write_series(oblique(), tmp_path / "in" / "anna"), write_series(oblique(), tmp_path / "in" / "bert")
    cases = cases_to_predict(tmp_path / "in", SPEC, tmp_path / "out")
    assert [(case.identifier, case.images) for case in cases] == [
        (name, (tmp_path / "in" / name,)) for name in ("anna", "bert")
    ]
    (alone,) = cases_to_predict(tmp_path / "in" / "anna", SPEC, tmp_path / "out")
    assert alone.identifier == "anna" and READER.read_image(alone.images).array.shape == (1, 5, 12, 16)
    for name in ("anna", "bert"):
        (tmp_path / "in" / name).rename(tmp_path / "in" / f"one_000{int(name == 'bert')}")
    (case,) = cases_to_predict(tmp_path / "in", SPEC, tmp_path / "out")
    assert case.identifier == "one" and len(case.images) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no image"):
        cases_to_predict(tmp_path / "empty", SPEC, tmp_path / "out")


def change(folder, edit, index=0):
    """Edit the header of one file, or with `index` None of all."""
    for path in sorted(folder.iterdir())[slice(index, None if index is None else index + 1)]:
        header = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            edit(header)
            header.save_as(path)
    return folder


@pytest.mark.parametrize(
    "edit,message",
    [
        (
            lambda header: setattr(header, "PixelData", header.PixelData[:100]),
            "100 bytes of pixels are there, rows and columns need 384",
        ),
        (lambda header: setattr(header, "Rows", 65535), "rows and columns need 2097120"),
        (lambda header: setattr(header, "Columns", 0), "has 12 x 0 pixels of 1 sample, expected one or more"),
        (
            lambda header: header.pop("PixelSpacing"),
            "says nothing of its PixelSpacing, so the size of its pixels is not known",
        ),
        (
            lambda header: setattr(header, "PixelSpacing", [0, 0.7]),
            r"has PixelSpacing \[0.0, 0.7\], expected two positive numbers",
        ),
        (lambda header: setattr(header, "PixelSpacing", ["nan", "0.7"]), "has PixelSpacing"),
        (lambda header: setattr(header, "NumberOfFrames", 3), "holds 3 frames, expected one slice per file"),
        (lambda header: header.pop("ImagePositionPatient"), "has no readable header or position"),
        (
            lambda header: setattr(header, "RescaleSlope", "nan"),
            "position, orientation or rescale values are no finite numbers",
        ),
    ],
)
def test_what_a_header_lacks_or_cannot_mean_is_named(tmp_path, edit, message):
    folder = change(write_series(oblique(), tmp_path / "series"), edit, None)
    with pytest.raises(ImageFileError, match=message) as refusal:
        READER.read_image([folder])
    assert "slice" in str(refusal.value)


def test_the_spacing_of_a_detector_is_not_taken_for_that_of_the_patient(tmp_path):
    def detector(header):
        header.ImagerPixelSpacing = header.pop("PixelSpacing").value

    folder = change(write_series(oblique(), tmp_path / "series"), detector, None)
    with pytest.raises(ImageFileError, match="ImagerPixelSpacing is that of the detector, not of the patient"):
        READER.read_image([folder])


def test_slices_of_another_spacing_than_the_others_are_refused(tmp_path):
    folder = change(
        write_series(oblique(), tmp_path / "series"), lambda header: setattr(header, "PixelSpacing", [0.9, 0.7]), 2
    )
    with pytest.raises(ImageFileError, match=r"slice88.dcm has .*\(0.9, 0.7\) mm, slice90.dcm has .*\(0.8, 0.7\) mm"):
        READER.read_image([folder])


def test_each_slice_is_rescaled_by_its_own_slope(tmp_path):
    """Slopes differ as in PET; ITK alone rounds the values of later slices to the number type of the first."""

    def rescale(slope, intercept):
        return lambda header: header.update({"RescaleSlope": str(slope), "RescaleIntercept": str(intercept)})

    folder = write_series(oblique(), tmp_path / "series")
    stored = sitk.GetArrayFromImage(oblique()).astype(float)
    for index, (slope, intercept) in enumerate([(1, 0), (0.37, 5.5), (2, 0), (1, 0.25), (1, 0)]):
        change(folder, rescale(slope, intercept), index)  # by name: the last slice first
        stored[4 - index] = stored[4 - index] * slope + intercept
    np.testing.assert_allclose(READER.read_image([folder]).array[0], stored, rtol=1e-6)


def test_one_of_several_series_is_chosen_by_number_uid_or_description(tmp_path):
    folder = tmp_path / "two"
    change(write_series(oblique(), folder), lambda header: setattr(header, "SeriesDescription", "T1 ax"), None)
    other = change(
        write_series(oblique(3), tmp_path / "o", uid="1.2.826.0.1.3680043.2.1125.2"), lambda header: None, None
    )
    for path in other.iterdir():
        path.rename(folder / f"other_{path.name}")
    with pytest.raises(
        ImageFileError,
        match=r"2 DICOM series, expected one \(1: T1 ax, CT, 5 files, .*; 2: no description, CT, 3 files, .*--series",
    ):
        READER.read_image([folder])
    for wanted, depth in (("1", 5), ("2", 3), ("t1 AX", 5), ("1.2.826.0.1.3680043.2.1125.2", 3)):
        assert (
            SimpleITKIO(series=wanted).load(folder)[1].shape[0]
            == SimpleITKIO(series=wanted).peek(folder).geometry.shape[0]
            == depth
        )
    with pytest.raises(ImageFileError, match="expected one that is 'T2'"):
        SimpleITKIO(series="T2").load(folder)
