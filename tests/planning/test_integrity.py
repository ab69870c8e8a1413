"""The integrity check lists everything that is wrong at once."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from samunet.core.dataset import read_dataset_json, training_cases
from samunet.errors import DatasetError
from samunet.imageio import reader_for
from samunet.phantom import write_tiny_dataset
from samunet.planning.integrity import verify_dataset


def verify(folder):
    spec = read_dataset_json(folder / "dataset.json")
    verify_dataset(spec, training_cases(folder, spec), reader_for(spec.file_ending), threads=2, quiet=True)


def change(path, function):
    image = sitk.ReadImage(str(path))
    changed = sitk.GetImageFromArray(function(sitk.GetArrayFromImage(image)))
    if changed.GetSize() == image.GetSize():
        changed.CopyInformation(image)
    sitk.WriteImage(changed, str(path))


def describe(folder, **changes):
    description = json.loads((folder / "dataset.json").read_text())
    description.update(changes)
    (folder / "dataset.json").write_text(json.dumps({key: value for key, value in description.items() if value is not None}))


def test_a_sound_dataset_passes(tmp_path):
    verify(write_tiny_dataset(tmp_path, channels=2, labels={"background": 0, "a": 1, "ignore": 2}))


def test_every_problem_is_listed_with_its_case(tmp_path):
    folder = write_tiny_dataset(tmp_path, cases=6)

    def with_nan(array):
        array[0, 0, 0] = np.nan
        return array

    def with_nine(array):
        array[0, 0, 0] = 9
        return array

    describe(folder, numTraining=9)
    change(folder / "imagesTr" / "tiny_000_0000.nii.gz", with_nan)
    change(folder / "labelsTr" / "tiny_001.nii.gz", lambda array: array[:-1])
    change(folder / "labelsTr" / "tiny_002.nii.gz", with_nine)
    broken = folder / "imagesTr" / "tiny_003_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:100])
    moved = sitk.ReadImage(str(folder / "labelsTr" / "tiny_004.nii.gz"))
    moved.SetOrigin([value + 5 for value in moved.GetOrigin()])
    sitk.WriteImage(moved, str(folder / "labelsTr" / "tiny_004.nii.gz"))
    with pytest.raises(DatasetError) as raised:
        verify(folder)
    head, *lines = str(raised.value).splitlines()
    assert head == "Dataset999_Tiny has 6 problem(s):" and len(lines) == 6
    assert lines[0] == "dataset.json: numTraining is 9, but 6 training cases were found."
    assert "tiny_000_0000.nii.gz holds 1 values that are NaN or infinite" in lines[1]
    assert "Case 'tiny_001': label has shape" in lines[2]
    assert "Case 'tiny_002': label file tiny_002.nii.gz holds the values [9]" in lines[3]
    assert "tiny_003_0000.nii.gz" in lines[4]
    assert "Case 'tiny_004': label and image lie 8.7 mm apart" in lines[5]  # 5 mm along each axis


def test_a_missing_count_is_named_with_the_right_one(tmp_path):
    folder = write_tiny_dataset(tmp_path, cases=3)
    describe(folder, numTraining=None)
    with pytest.raises(DatasetError, match="key 'numTraining' is missing; it should be 3"):
        verify(folder)


def test_more_than_twenty_problems_are_counted(tmp_path):
    folder = write_tiny_dataset(tmp_path, cases=23, size=(2, 16, 16))
    for path in (folder / "imagesTr").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError) as raised:
        verify(folder)
    lines = str(raised.value).splitlines()
    assert lines[0] == "Dataset999_Tiny has 23 problem(s):" and len(lines) == 22 and lines[-1] == "... and 3 more"
