"""What a user gives to predict becomes cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samunet.core.dataset import DatasetSpec
from samunet.core.labels import parse_labels
from samunet.errors import DatasetError
from samunet.imageio import output_ending, reader_of_image, writer_for
from samunet.pipeline import cases_to_predict


def spec(channels=1, ending=".nii.gz") -> DatasetSpec:
    names = tuple(f"c{number}" for number in range(channels))
    labels = parse_labels({"background": 0, "a": 1})
    return DatasetSpec(
        name="Dataset001_X", channels=names, labels=labels, file_ending=ending, num_training=1, reader=None, raw={}
    )


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(128) + b"DICM" if name.endswith(".dcm") else b"")
    return folder


def named(folder: Path, **options) -> dict[str, list[str]]:
    cases = cases_to_predict(folder, spec(**options), folder.parent / "out")
    return {case.identifier: [path.relative_to(folder).as_posix() for path in case.images] for case in cases}


def test_images_of_any_format_are_cases_with_or_without_a_channel_number(tmp_path):
    assert named(touch(tmp_path / "a", "x.nii", "y.NII.GZ", "z.nrrd", "w.mha", "notes.txt")) == {
        "w": ["w.mha"], "x": ["x.nii"], "y": ["y.NII.GZ"], "z": ["z.nrrd"]
    }  # fmt: skip
    assert named(touch(tmp_path / "b", "x_0000.nii", "y_0000.nrrd")) == {"x": ["x_0000.nii"], "y": ["y_0000.nrrd"]}
    assert named(touch(tmp_path / "c", "x_0000.nii", "x_0001.nii"), channels=2) == {"x": ["x_0000.nii", "x_0001.nii"]}


def test_what_is_not_taken_for_an_image_is_named_once(tmp_path, caplog):
    caplog.set_level("INFO", "samunet")
    assert named(touch(tmp_path / "a", "x_0000.nii.gz", "screenshot.png", "x.docx", "x.json")) == {
        "x": ["x_0000.nii.gz"]
    }
    assert (
        "not taken for images: screenshot.png, x.docx (no reader knows their ending, or their names lack _0000)"
        in caplog.text
    )


def test_several_channels_need_numbers_unless_a_file_holds_all(tmp_path):
    with pytest.raises(DatasetError, match=r"t1.nii.gz is not named <case>_<4-digit channel>.nii.gz"):
        named(touch(tmp_path / "a", "t1.nii.gz", "t2.nii.gz"), channels=2)
    (tmp_path / "b").mkdir()
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "b" / "photo.jpg")
    assert named(tmp_path / "b", channels=3, ending=".png") == {"photo": ["photo.jpg"]}
    with pytest.raises(DatasetError, match=r"x.nii.gz and x.nrrd would be one image"):
        named(touch(tmp_path / "c", "x.nii.gz", "x.nrrd"))


def test_a_folder_of_a_dataset_names_its_folders_of_images(tmp_path):
    touch(tmp_path / "d", "dataset.json", "imagesTr/x_0000.nii.gz", "imagesTs/y_0000.nii.gz", "labelsTr/x.nii.gz")
    with pytest.raises(
        DatasetError, match=r"d holds no image, .* Folders in it do: imagesTr, imagesTs, labelsTr; give one of them\."
    ):
        named(tmp_path / "d")


def test_a_tree_of_patients_studies_and_series_is_named_after_its_folders(tmp_path):
    touch(tmp_path / "d", "anna/ct/1/a.dcm", "anna/ct/2/a.dcm", "bert/mr/1/a.dcm", "bert/mr/1/.hidden")
    assert named(tmp_path / "d") == {"anna_ct_1": ["anna/ct/1"], "anna_ct_2": ["anna/ct/2"], "bert_mr_1": ["bert/mr/1"]}
    touch(tmp_path / "e", "anna/a.dcm")
    (tmp_path / "e" / "empty").mkdir()
    assert named(tmp_path / "e") == {"anna": ["anna"], "empty": ["empty"]}  # which then fails by name


def test_one_file_of_a_series_and_an_unknown_ending_are_refused_with_the_reason(tmp_path):
    touch(tmp_path, "slice.dcm", "x.docx")
    with pytest.raises(DatasetError, match="slice.dcm is one DICOM file; give the folder of its series"):
        cases_to_predict(tmp_path / "slice.dcm", spec(), tmp_path / "out")
    with pytest.raises(DatasetError, match="x.docx has an ending that no reader knows; convert it"):
        cases_to_predict(tmp_path / "x.docx", spec(), tmp_path / "out")


def test_segmentations_have_the_ending_of_their_image_but_for_jpeg_and_dicom():
    assert [output_ending(Path(name), ".nii.gz") for name in ("a.NRRD", "a.jpg", "a.nii", "folder")] == [
        ".nrrd",
        ".png",
        ".nii",
        ".nii.gz",
    ]
    assert (
        reader_of_image(Path("a.nii"), "NibabelIO").name == "NibabelIO"
        and reader_of_image(Path("a.mha"), "NibabelIO").name == "SimpleITKIO"
    )
    found = [
        writer_for(*ending, planar=planar).name
        for ending in ((".tif", "SimpleITKIO"), (".tif", "Tiff3DIO"))
        for planar in (True, False)
    ]
    assert found == ["NaturalImage2DIO", "Tiff3DIO", "Tiff3DIO", "Tiff3DIO"]


def test_a_file_name_that_is_no_utf_8_is_a_case_of_its_own_beside_the_others(tmp_path):
    name = b"M\xfcller_0000.nii.gz".decode("utf-8", "surrogateescape")
    assert named(touch(tmp_path / "a", "anna_0000.nii.gz", name)) == {"M%FCller": [name], "anna": ["anna_0000.nii.gz"]}


def test_masks_beside_images_are_left_out_and_named_but_not_where_they_are_given_themselves(tmp_path, caplog):
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(draw.integers(0, 256, (20, 30), dtype=np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(255 * draw.integers(0, 2, (20, 30), dtype=np.uint8)).save(tmp_path / f"{name}_mask.png")
    assert named(tmp_path) == {"a": ["a.png"], "b": ["b.png"]}
    why = "they hold few whole numbers on the grid of an image of their name, as a_mask.png of a.png"
    assert f"2 files left out as masks: a_mask.png, b_mask.png ({why})" in caplog.text
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    given = cases_to_predict([tmp_path / "a.png", tmp_path / "a_mask.png"], spec(), tmp_path / "out")
    assert [case.identifier for case in given] == ["a", "a_mask"]
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").rename(tmp_path / f"{name}_0000.png")
    assert named(tmp_path) == {"a": ["a_0000.png"], "b": ["b_0000.png"]}
