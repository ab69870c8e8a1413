"""dataset.json and the files of a raw dataset."""

from __future__ import annotations

import json

import pytest
from tiny import write_tiny_dataset

from samunet.core.dataset import group_channels, read_dataset_json, training_cases
from samunet.errors import ConfigError, DatasetError, SamunetError

PLAIN = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "a": 1},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def write(folder, **changes):
    description = {**PLAIN, **changes}
    (folder / "dataset.json").write_text(
        json.dumps({key: value for key, value in description.items() if value is not None})
    )
    return folder / "dataset.json"


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_free_keys_are_kept_and_channels_are_in_order(tmp_path):
    channels = {str(i): f"c{i}" for i in reversed(range(12))}  # "10" sorts before "2" as text
    spec = read_dataset_json(
        write(tmp_path, channel_names=channels, licence="CC-BY", overwrite_image_reader_writer="NibabelIO")
    )
    assert (
        spec.channels == tuple(f"c{i}" for i in range(12))
        and spec.raw["licence"] == "CC-BY"
        and spec.reader == "NibabelIO"
    )
    assert spec.name == tmp_path.name and spec.file_ending == ".nii.gz" and spec.num_training == 2


def test_the_old_key_modality_and_the_reader_none_are_understood(tmp_path):
    spec = read_dataset_json(
        write(tmp_path, channel_names=None, modality={"0": "CT"}, overwrite_image_reader_writer="None")
    )
    assert spec.channels == ("CT",) and spec.reader is None


@pytest.mark.parametrize("key", ["channel_names", "labels", "file_ending"])
def test_a_missing_key_is_named(tmp_path, key):
    with pytest.raises(DatasetError, match=rf"dataset\.json: key '{key}' is missing"):
        read_dataset_json(write(tmp_path, **{key: None}))


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"channel_names": ["CT"]}, r"channel_names must map \"0\", \"1\", \.\.\. to names; got \['CT'\]"),
        ({"channel_names": {"1": "CT"}}, "channel_names must map"),
        ({"channel_names": {"0": "T1", "2": "T2"}}, "channel_names must map"),
        ({"labels": ["background"]}, "labels must map names to values"),
        ({"numTraining": "many"}, "numTraining must be the number of training cases; got 'many'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        read_dataset_json(write(tmp_path, **changes))


def test_an_absent_folder_is_named_and_not_its_files(tmp_path):
    with pytest.raises(
        DatasetError,
        match=rf"Folder {tmp_path / 'raw'} does not exist, so .*correct the path, or the variable nnUNet_raw",
    ):
        read_dataset_json(tmp_path / "raw" / "Dataset004_X" / "dataset.json")


def test_an_absent_or_broken_file_is_named(tmp_path):
    with pytest.raises(
        DatasetError, match=r"dataset\.json does not exist; a dataset needs a dataset\.json with channel_names"
    ):
        read_dataset_json(tmp_path / "dataset.json")
    (tmp_path / "dataset.json").write_text("[1]")
    with pytest.raises(DatasetError, match="expected a JSON object; got list"):
        read_dataset_json(tmp_path / "dataset.json")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(SamunetError, match="not valid JSON") as raised:
        read_dataset_json(tmp_path / "dataset.json")
    assert isinstance(raised.value, (ConfigError, DatasetError))


def test_cases_are_sorted_and_each_has_its_channels_in_order(tmp_path):
    folder = touch(tmp_path, *(f"imagesTr/{case}_{c:04d}.nii.gz" for case in ("b", "a_0001", "a") for c in (1, 0)))
    touch(
        folder,
        *(f"labelsTr/{case}.nii.gz" for case in ("a", "a_0001", "b", "extra")),
        "imagesTr/notes.txt",
        "imagesTr/.hidden.nii.gz",
    )
    cases = training_cases(folder, read_dataset_json(write(folder)))
    assert [case.identifier for case in cases] == ["a", "a_0001", "b"]
    assert [path.name for path in cases[1].images] == ["a_0001_0000.nii.gz", "a_0001_0001.nii.gz"]
    assert cases[1].label == folder / "labelsTr" / "a_0001.nii.gz"


def test_a_missing_label_file_is_named(tmp_path):
    folder = touch(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz")
    with pytest.raises(
        DatasetError,
        match=r"Case 'b': label file .*labelsTr/b\.nii\.gz is missing; add it, or remove the case's images",
    ):
        training_cases(folder, read_dataset_json(write(folder)))


@pytest.mark.parametrize("numbers", [(0, 2), (1,), (1, 2)])
def test_a_gap_in_the_channels_is_named(tmp_path, numbers):
    touch(tmp_path, *(f"a_{number:04d}.nii.gz" for number in numbers))
    with pytest.raises(
        DatasetError,
        match=rf"Case 'a' .* has channels \[{', '.join(map(str, numbers))}\]; they must count up from 0000",
    ):
        group_channels(tmp_path, ".nii.gz")


@pytest.mark.parametrize("name", ["a.nii.gz", "a_0.nii.gz", "a_00000.nii.gz", "a_000x.nii.gz", "_0000.nii.gz"])
def test_a_misnamed_file_is_named_with_the_form(tmp_path, name):
    touch(tmp_path, "good_0000.nii.gz", name)
    with pytest.raises(DatasetError, match=rf"{name} is not named <case>_<4-digit channel>\.nii\.gz; rename it"):
        group_channels(tmp_path, ".nii.gz")


@pytest.mark.parametrize("present", ["imagesTr", "labelsTr"])
def test_a_missing_folder_is_named(tmp_path, present):
    touch(tmp_path, f"{present}/a_0000.nii.gz")
    absent = {"imagesTr": "labelsTr", "labelsTr": "imagesTr"}[present]
    with pytest.raises(DatasetError, match=f"{absent} does not exist"):
        training_cases(tmp_path, read_dataset_json(write(tmp_path)))


def test_images_of_another_ending_do_not_count(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.mha", "labelsTr/a.mha")
    with pytest.raises(DatasetError, match=r"holds no file named <case>_0000\.nii\.gz; check file_ending"):
        training_cases(tmp_path, read_dataset_json(write(tmp_path)))


def test_the_key_dataset_lists_files_anywhere(tmp_path, monkeypatch):
    touch(tmp_path, "own/x1.nii.gz", "own/x2.nii.gz", "far/y1.nii.gz", "far/y2.nii.gz", "far/y.nii.gz", "own/x.nii.gz")
    monkeypatch.setenv("SAMUNET_TEST_FAR", str(tmp_path / "far"))
    listed = {
        "y": {
            "images": ["$SAMUNET_TEST_FAR/y2.nii.gz", "${SAMUNET_TEST_FAR}/y1.nii.gz"],
            "label": str(tmp_path / "far" / "y.nii.gz"),
        },
        "x": {"images": ["own/x1.nii.gz", "own/../own/x2.nii.gz"], "label": "own/x.nii.gz"},
    }
    cases = training_cases(tmp_path, read_dataset_json(write(tmp_path, dataset=listed)))
    assert [case.identifier for case in cases] == ["x", "y"]
    assert [path.resolve() for path in cases[0].images] == [
        (tmp_path / "own" / name).resolve() for name in ("x1.nii.gz", "x2.nii.gz")
    ]
    assert cases[1].images == (
        tmp_path / "far" / "y2.nii.gz",
        tmp_path / "far" / "y1.nii.gz",
    )  # in the order listed: these are channels
    assert cases[1].label == tmp_path / "far" / "y.nii.gz"


def test_a_listed_file_that_is_absent_or_hangs_on_an_unset_variable_is_named(tmp_path):
    touch(tmp_path, "x.nii.gz")
    for wrong in ("gone.nii.gz", "$SAMUNET_TEST_UNSET/x.nii.gz"):
        spec = read_dataset_json(write(tmp_path, dataset={"x": {"images": [wrong], "label": "x.nii.gz"}}))
        with pytest.raises(
            DatasetError, match=r"Case 'x': file .*nii\.gz named in dataset\.json does not exist"
        ) as raised:
            training_cases(tmp_path, spec)
        assert wrong in str(raised.value)


@pytest.mark.parametrize(
    "listed,message",
    [
        ({}, r"dataset must map case identifiers to their files; got \{\}"),
        (["x"], "dataset must map case identifiers to their files"),
        ({"x": {"image": ["x.nii.gz"], "label": "x.nii.gz"}}, "Case 'x' in dataset.json must have the form"),
        ({"x": {"images": "x.nii.gz", "label": "x.nii.gz"}}, "Case 'x' in dataset.json must have the form"),
        ({"x": {"images": ["x.nii.gz"]}}, "Case 'x' in dataset.json must have the form"),
    ],
)
def test_a_malformed_list_of_cases_is_named(tmp_path, listed, message):
    with pytest.raises(DatasetError, match=message):
        training_cases(tmp_path, read_dataset_json(write(tmp_path, dataset=listed)))


def test_a_real_folder_is_read(tmp_path):
    folder = write_tiny_dataset(tmp_path, channels=2, cases=3, num_test=1)
    spec = read_dataset_json(folder / "dataset.json")
    cases = training_cases(folder, spec)
    assert spec.name == "Dataset999_Tiny" and [case.identifier for case in cases] == [
        "tiny_000",
        "tiny_001",
        "tiny_002",
    ]
    assert all(path.is_file() for case in cases for path in (*case.images, case.label))


def test_endings_in_capitals_are_endings(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.NII.GZ", "imagesTr/a_0001.nii.gz", "labelsTr/a.Nii.Gz")
    spec = read_dataset_json(write(tmp_path, file_ending=".NII.GZ"))
    (case,) = training_cases(tmp_path, spec)
    assert spec.file_ending == ".nii.gz" and case.identifier == "a" and case.label == tmp_path / "labelsTr/a.Nii.Gz"
    assert [path.name for path in case.images] == ["a_0000.NII.GZ", "a_0001.nii.gz"]
    touch(tmp_path, "imagesTr/a_0000.nii.gz")
    with pytest.raises(
        DatasetError, match=r"imagesTr/a_0000\.NII\.GZ and a_0000\.nii\.gz differ in capitals only; remove one"
    ):
        training_cases(tmp_path, spec)
