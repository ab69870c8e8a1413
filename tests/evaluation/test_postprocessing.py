"""Postprocessing is adopted where it helps, and only there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from samunet.cli import apply_postprocessing, determine_postprocessing
from samunet.core.codec import write_json
from samunet.core.labels import parse_labels
from samunet.errors import ConfigError, DatasetError
from samunet.evaluation.postprocessing import Postprocessing, Step, determine, load_postprocessing
from samunet.imageio import reader_for

LABELS = parse_labels({"background": 0, "liver": 1, "vessel": 2})
READER = reader_for(".nii.gz", "SimpleITKIO")


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 1.1, 3.0))
    image.SetOrigin((5.0, -3.0, 2.0))
    sitk.WriteImage(image, str(path))


@pytest.fixture
def folders(tmp_path):
    """One organ with a false blob in the predictions; vessels in two pieces, both true."""
    for index in range(3):
        reference = np.zeros((6, 20, 20), np.uint8)
        reference[1:5, 2:10, 2:10] = 1
        reference[2, 12:14, 2] = reference[4, 16:19, 15] = 2
        prediction = reference.copy()
        prediction[3, 15 + index, 3:6] = 1
        write(tmp_path / "references" / f"case_{index}.nii.gz", reference)
        write(tmp_path / "predictions" / f"case_{index}.nii.gz", prediction)
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "vessel": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (tmp_path / "predictions" / "dataset.json").write_text(json.dumps(description))
    return tmp_path


def chosen(folders) -> Postprocessing:
    references = {path.name: path for path in (folders / "references").iterdir()}
    return determine(
        references, folders / "predictions", labels=LABELS, file_ending=".nii.gz", reader=READER, threads=2
    )


def test_a_false_blob_goes_and_true_pieces_stay(folders):
    found = chosen(folders)
    assert [step.values for step in found.steps] == [
        (1,)
    ] and found.cases == 3  # not the vessels, and not all of the foreground
    assert found.steps[0].dice_before == pytest.approx(2 * 256 / (256 + 259)) and found.steps[0].dice_after == 1


def test_the_whole_foreground_is_cut_when_no_class_loses(folders):
    for index in range(3):
        reference = np.zeros((6, 20, 20), np.uint8)
        reference[1:5, 2:10, 2:10] = 1
        reference[2, 10:12, 2:4] = 2  # touches the liver
        prediction = reference.copy()
        prediction[3, 17, 15:18] = index % 2 + 1
        write(folders / "references" / f"case_{index}.nii.gz", reference)
        write(folders / "predictions" / f"case_{index}.nii.gz", prediction)
    assert [step.values for step in chosen(folders).steps] == [(1, 2)]


def test_nothing_is_adopted_where_nothing_helps(folders):
    for index in range(3):
        (folders / "predictions" / f"case_{index}.nii.gz").write_bytes(
            (folders / "references" / f"case_{index}.nii.gz").read_bytes()
        )
    assert chosen(folders).steps == ()


def test_the_commands_find_it_write_it_and_apply_it(folders, capsys):
    words = ["-i", str(folders / "predictions"), "-ref", str(folders / "references")]
    assert determine_postprocessing.main(words) == 0
    assert "Keep the largest component of liver: Dice 0.99" in capsys.readouterr().out
    file = folders / "predictions" / "postprocessing.json"
    assert load_postprocessing(file).steps[0].values == (1,)
    other = ["-i", str(folders / "predictions"), "-o", str(folders / "out"), "-pp_file", str(file)]
    assert apply_postprocessing.main(other) == 0
    for index in range(3):
        name = f"case_{index}.nii.gz"
        mended, reference = (sitk.ReadImage(str(folders / folder / name)) for folder in ("out", "references"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mended), sitk.GetArrayFromImage(reference))
        assert mended.GetSpacing() == pytest.approx(reference.GetSpacing()) and mended.GetOrigin() == pytest.approx(
            reference.GetOrigin()
        )
        assert (folders / "predictions" / "postprocessed" / name).read_bytes() == (folders / "out" / name).read_bytes()


def test_values_and_steps_of_other_labels_are_refused(folders, capsys):
    file = folders / "other.json"
    write_json(file, Postprocessing(steps=(Step(values=(7,), dice_before=0.1, dice_after=0.2),), cases=1))
    words = ["-i", str(folders / "predictions"), "-o", str(folders / "out"), "-pp_file", str(file)]
    assert apply_postprocessing.main(words) == 2
    assert "The postprocessing is about label 7, and dataset.json names" in capsys.readouterr().err
    write_json(file, Postprocessing(steps=(Step(values=(1,), dice_before=0.1, dice_after=0.2),), cases=1))
    path = folders / "predictions" / "case_0.nii.gz"
    image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkInt16)
    image[0, 0, 0] = -1
    sitk.WriteImage(image, str(path))
    assert apply_postprocessing.main(words) == 2
    assert "case_0.nii.gz holds the values [-1], which dataset.json does not name" in capsys.readouterr().err


def test_wrong_input_is_refused_in_one_sentence(folders, capsys):
    (folders / "references" / "case_1.nii.gz").unlink()
    with pytest.raises(DatasetError, match="1 case has no reference in"):
        chosen(folders)
    (folders / "bad.pkl").write_bytes(b"\x80\x04K\x01.")
    words = ["-i", str(folders / "predictions"), "-o", str(folders / "out"), "-pp_pkl_file", str(folders / "bad.pkl")]
    assert apply_postprocessing.main(words) == 2 and "is not valid JSON" in capsys.readouterr().err
    found = Postprocessing(steps=(Step(values=(1,), dice_before=0.1, dice_after=0.2),), cases=1, format=9)
    write_json(folders / "later.json", found)
    with pytest.raises(ConfigError, match="has format 9; this version of samunet reads format 1"):
        load_postprocessing(folders / "later.json")
    words = [
        "-i",
        str(folders / "predictions"),
        "-o",
        str(folders / "predictions"),
        "-pp_file",
        str(folders / "x.json"),
    ]
    assert apply_postprocessing.main(words) == 2 and not (folders / "out").exists()


def test_the_whole_foreground_stays_where_a_class_loses_though_the_mean_rises(folders):
    for index in range(3):
        reference = np.zeros((6, 20, 20), np.uint8)
        reference[1:5, 2:10, 2:10] = 1
        reference[1:5, 10, 2:10] = 2  # 32 voxels that touch the liver, and 2 that do not
        reference[1, 19, 18:20] = 2
        prediction = reference.copy()
        prediction[1:5, 13:17, 2:12] = 1  # 160 voxels
        write(folders / "references" / f"case_{index}.nii.gz", reference)
        write(folders / "predictions" / f"case_{index}.nii.gz", prediction)
    assert [step.values for step in chosen(folders).steps] == [
        (1,)
    ]  # the liver's Dice rises by 0.24, the vessels' falls
