"""The procedural datasets: reproducible, complete, valid, and oriented as their files say."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from tiny import write_tiny_dataset

from samunet.core.dataset import read_dataset_json, training_cases
from samunet.errors import ConfigError, DatasetError
from samunet.phantom.abdomen import ORGANS, waves
from samunet.phantom.dataset import write_phantom_dataset


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def arrays(folder, pattern):
    return {path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in sorted(folder.glob(pattern))}


@pytest.fixture(scope="module")
def abdomen(tmp_path_factory):
    return write_phantom_dataset(tmp_path_factory.mktemp("raw"), num_training=7, num_test=1)


def test_equal_seeds_give_equal_bytes_and_others_do_not(abdomen, tmp_path):
    (tmp_path / "again").mkdir()
    again = write_phantom_dataset(tmp_path / "again", num_training=7, num_test=1)
    assert contents(again) == contents(abdomen)
    other = write_phantom_dataset(tmp_path / "other", seed=18, num_training=1, num_test=0)
    assert contents(other)["labelsTr/abdomen_000.nii.gz"] != contents(abdomen)["labelsTr/abdomen_000.nii.gz"]


def test_the_dataset_is_one_that_nnunet_describes(abdomen):
    spec = read_dataset_json(abdomen / "dataset.json")
    cases = training_cases(abdomen, spec)
    assert spec.channels == ("CT",) and spec.num_training == len(cases) == 7
    assert spec.labels.all_values == (0, 1, 2, 3, 4, 5)
    assert {path.name for path in (abdomen / "labelsTs").iterdir()} == {"abdomen_007.nii.gz"}
    assert not list(abdomen.parent.glob(".part-*"))


def test_every_case_holds_every_organ_in_plausible_size(abdomen):
    for part in ("Tr", "Ts"):
        for path in sorted((abdomen / f"labels{part}").iterdir()):
            image = sitk.ReadImage(str(path))
            milliliters = np.bincount(sitk.GetArrayFromImage(image).ravel()) * np.prod(image.GetSpacing()) / 1000
            assert len(milliliters) == len(ORGANS) + 1
            liver, spleen, kidneys, gallbladder, aorta = milliliters[1:]
            assert (
                400 < liver < 1000
                and 50 < spleen < 200
                and 60 < kidneys < 220
                and 4 < gallbladder < 30
                and 8 < aorta < 35
            ), path.name


def test_slices_are_thick_and_the_air_is_air(abdomen):
    for array in arrays(abdomen, "imagesTr/*").values():
        assert (
            array.dtype == np.int16
            and 18 <= array.shape[0] <= 26
            and 80 <= array.shape[1] <= 112
            and 96 <= array.shape[2] <= 128
        )
        assert abs(float(np.median(array[:, :3, :3])) + 1000) < 15
        assert 0.3 < float(np.mean(array > -300)) < 0.8


def test_the_liver_is_on_the_right_and_in_front_of_the_spine_however_stored(abdomen):
    codes = set()
    for path in sorted((abdomen / "labelsTr").iterdir()):
        image = nib.load(path)
        codes.add("".join(nib.aff2axcodes(image.affine)))
        label = np.asarray(image.dataobj)
        world = {
            name: nib.affines.apply_affine(image.affine, np.argwhere(label == value)).mean(0)
            for name, value in ORGANS.items()
        }
        assert world["liver"][0] > world["spleen"][0] + 60  # RAS+: x grows to the right
    assert {"LPS", "RAS", "LAS", "LPI"} <= codes


def test_image_and_label_share_one_grid(abdomen):
    for path in sorted((abdomen / "labelsTr").iterdir()):
        image = abdomen / "imagesTr" / path.name.replace(".nii.gz", "_0000.nii.gz")
        ours, theirs = sitk.ReadImage(str(path)), sitk.ReadImage(str(image))
        assert ours.GetSize() == theirs.GetSize() and ours.GetSpacing() == theirs.GetSpacing()
        assert ours.GetDirection() == theirs.GetDirection() and ours.GetOrigin() == theirs.GetOrigin()


def test_organs_have_intensities_of_their_own(abdomen):
    pairs = zip(arrays(abdomen, "imagesTr/*").values(), arrays(abdomen, "labelsTr/*").values(), strict=True)
    medians = [[np.median(image[label == value]) for value in ORGANS.values()] for image, label in pairs]
    liver, spleen, kidney, gallbladder, aorta = np.mean(medians, axis=0)
    assert gallbladder + 50 < liver < spleen - 15 < kidney - 30 < aorta - 40


def test_a_complete_dataset_is_left_alone_and_another_is_refused(abdomen):
    before = {path: path.stat().st_mtime_ns for path in abdomen.rglob("*")}
    assert write_phantom_dataset(abdomen.parent, num_training=7, num_test=1) == abdomen
    assert {path: path.stat().st_mtime_ns for path in abdomen.rglob("*")} == before
    with pytest.raises(DatasetError, match="not the phantom asked for"):
        write_phantom_dataset(abdomen.parent, seed=18, num_training=7, num_test=1)


def test_an_incomplete_dataset_is_named_not_overwritten(tmp_path):
    folder = write_tiny_dataset(tmp_path)
    (folder / "imagesTr" / "tiny_001_0000.nii.gz").unlink()
    with pytest.raises(DatasetError, match="tiny_001_0000.nii.gz"):
        write_tiny_dataset(tmp_path)


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError):  # SimpleITK knows no such format
        write_tiny_dataset(tmp_path, file_ending=".nonsense")
    assert list(tmp_path.iterdir()) == []


def test_waves_have_unit_variance():
    points = np.stack(np.meshgrid(*[np.arange(40, dtype=np.float32)] * 3, indexing="ij"))
    assert np.std(waves(np.random.default_rng(0), points, wavelength=(8, 12))) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("file_ending", [".nii.gz", ".mha", ".nrrd"])
def test_tiny_volumes_hold_every_label_and_two_channels(tmp_path, file_ending):
    labels = {"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 4}
    folder = write_tiny_dataset(tmp_path, channels=2, labels=labels, cases=3, file_ending=file_ending)
    cases = training_cases(folder, read_dataset_json(folder / "dataset.json"))
    assert [len(case.images) for case in cases] == [2, 2, 2]
    for label in arrays(folder, "labelsTr/*").values():
        assert set(np.unique(label)) == {0, 1, 2, 3, 4} and label.ndim == 3


def test_tiny_blobs_differ_from_their_mirror_images(tmp_path):
    label = arrays(write_tiny_dataset(tmp_path, cases=1, num_test=0), "labelsTr/*")["tiny_000.nii.gz"]
    assert all(np.mean((label > 0) & (np.flip(label, axis) > 0)) < 0.8 * np.mean(label > 0) for axis in range(3))


def test_tiny_regions_are_described_as_nnunet_does(tmp_path):
    folder = write_tiny_dataset(
        tmp_path, labels={"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=[1, 2], cases=2
    )
    spec = read_dataset_json(folder / "dataset.json")
    assert spec.labels.has_regions and spec.labels.outputs == 2
    assert json.loads((folder / "dataset.json").read_text())["regions_class_order"] == [1, 2]


def test_tiny_png_is_one_rgb_file_or_one_file_a_channel(tmp_path):
    rgb = write_tiny_dataset(
        tmp_path, name="Dataset901_RGB", dimensions=2, channels=3, size=(1, 32, 40), file_ending=".png"
    )
    assert all(
        array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3
        for array in arrays(rgb, "imagesTr/*").values()
    )
    assert len(list((rgb / "imagesTr").iterdir())) == 4 and read_dataset_json(rgb / "dataset.json").channels == (
        "R",
        "G",
        "B",
    )
    grey = write_tiny_dataset(
        tmp_path, name="Dataset902_Grey", dimensions=2, channels=2, size=(1, 32, 40), file_ending=".png"
    )
    assert len(list((grey / "imagesTr").iterdir())) == 8
    assert all(set(np.unique(array)) == {0, 1, 2} for array in arrays(grey, "labelsTr/*").values())


@pytest.mark.parametrize("wrong", [{"dimensions": 2}, {"file_ending": ".png"}, {"dimensions": 3, "size": (1, 8, 8)}])
def test_dimensions_that_do_not_fit_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="not possible"):
        write_tiny_dataset(tmp_path, **wrong)
