"""Masks beside images are told from images by their names and by what they hold."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from samunet.imageio.masks import holds_labels, masks_among


def write(folder: Path, name: str, *, mask: bool = False, shape=(6, 5, 4)) -> Path:
    """Write noise of many values, or a mask of two."""
    draw = np.random.default_rng(0)
    values = (draw.random(shape) > 0.7).astype(np.uint8) if mask else draw.normal(100, 40, shape).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("case_01", "case_01_mask"),
        ("case_01", "case_01-seg"),
        ("case_01", "label_case_01"),
        ("scan_01", "mask_01"),
        ("image", "segmentation"),
        ("image_0000", "mask"),
        ("case_01", "case_01_liver_mask"),
        ("case_01", "case_01_lung_left_mask"),
        ("case_01_0000", "case_01_gt"),
        ("case_01_0000", "case_01_label_0000"),  # but for the word the very name
        ("case_0001", "case_0001_seg"),
    ],
)
def test_a_file_called_mask_of_few_whole_numbers_on_the_grid_of_an_image_of_its_name_is_a_mask(tmp_path, image, mask):
    files = [write(tmp_path, image), write(tmp_path, mask, mask=True), write(tmp_path, "other_02")]
    assert masks_among(files) == {files[1]: files[0]}


@pytest.mark.parametrize(
    ("image", "other"),
    [
        ("case_01", "case_01_liver"),
        ("case_01_0000", "case_01"),
        ("case_01_0000", "case_01_0001"),
        ("case_01", "case_02_mask"),
        ("clip", "clip_2"),
        ("pat1", "pat1_followup"),
        ("xray", "xray (2)"),
        ("scan", "frame_1"),  # scan says nothing of its case
        ("image", "frame_1_mask"),
        ("image", "frame_mask"),
        ("clip", "clip_seg_2"),  # segment 2
        ("case_01", "case_01_2_mask"),
        ("plate", "plate_ROI"),
        ("plate", "plate_manual"),
        ("plate_0000", "plate_ROI2_0000"),
        ("Lung_0000", "Lung_ROI_0000"),
        ("a", "a_label_0000"),
        ("a_dapi_0000", "a_label_0000"),
    ],
)
def test_a_blank_image_stays_one_where_its_name_does_not_say_mask_of_another(tmp_path, image, other):
    assert masks_among([write(tmp_path, image), write(tmp_path, other, mask=True)]) == {}


@pytest.mark.parametrize(
    ("names", "masks"),
    [
        (("case_01", "case_01_mask"), ()),  # called so, and an image all the same
        (("case_01_seg", "case_02_seg"), ("case_01_seg", "case_02_seg")),  # nothing they could be masks of
    ],
)
def test_images_stay_whatever_they_are_called(tmp_path, names, masks):
    assert masks_among([write(tmp_path, name, mask=name in masks) for name in names]) == {}


def test_masks_of_parts_of_one_image_go_with_the_longest_name_on_their_grid(tmp_path):
    image, lung, left = write(tmp_path, "c"), *(write(tmp_path, f"c_lung{x}_mask", mask=True) for x in ("", "_left"))
    assert masks_among([image, lung, left]) == {lung: image, left: image}
    crop = write(tmp_path, "c_lung", shape=(3, 5, 4))
    assert masks_among([image, crop, lung, left]) == {lung: image, left: image}
    part = write(tmp_path, "c_lung")
    assert masks_among([image, part, lung, left]) == {lung: part, left: part}


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (np.arange(120) % 3, True),
        (np.arange(120) % 3 - 1, None),  # -1 may be what nobody labeled
        (np.arange(300), None),  # numbers of objects, or intensities
        (np.arange(-100, 200), False),
        (np.arange(120) / 2, False),
    ],
)
def test_only_fractions_and_many_numbers_below_0_are_surely_no_labels(tmp_path, values, labels):
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values.reshape(-1, 5, 4).astype(np.float32), np.eye(4)), path)
    assert holds_labels(path) is labels


def test_what_cannot_be_read_or_held_may_hold_labels(tmp_path, monkeypatch):
    path = write(tmp_path, "a")
    monkeypatch.setattr("samunet.imageio.masks.is_free", lambda size: False)
    assert holds_labels(path) is holds_labels(tmp_path / "absent.nii.gz") is None


def test_another_grid_and_damaged_files_are_no_masks(tmp_path):
    image = write(tmp_path, "case_01")
    small = write(tmp_path, "case_01_mask", mask=True, shape=(6, 5, 3))
    damaged = tmp_path / "case_01_seg.nii.gz"
    damaged.write_bytes(image.read_bytes()[:100])
    assert masks_among([image, small, damaged]) == {}
