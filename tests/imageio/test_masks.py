"""Masks beside images are told from images by their names and by what they hold."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from samunet.imageio.masks import case_of, masks_among


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
        ("case_01", "case_01_liver"),
        ("case_01", "case_01_liver_mask"),
        ("case_01_0000", "case_01"),
        ("case_01_0000", "case_01_gt"),
        ("case_0001", "case_0001_seg"),
    ],
)
def test_a_file_of_few_whole_numbers_on_the_grid_of_an_image_of_its_name_is_a_mask(tmp_path, image, mask):
    files = [write(tmp_path, image), write(tmp_path, mask, mask=True), write(tmp_path, "other_02")]
    assert masks_among(files) == {files[1]: files[0]}
    assert case_of(files[1], files[0]) == image.removesuffix("_0000")


@pytest.mark.parametrize(
    ("names", "masks"),
    [
        (("case_01", "case_01_mask"), ()),  # called so, and an image all the same
        (("case_01", "case_01_T2"), ()),
        (("case_01_seg", "case_02_seg"), ("case_01_seg", "case_02_seg")),  # nothing they could be masks of
        (("case_01", "case_02_mask"), ("case_02_mask",)),
        (("case_01", "case_01_2"), ("case_01", "case_01_2")),  # labels of one case
        (("case_01_0000", "case_01_0001"), ("case_01_0001",)),  # a channel is an image whatever it holds
    ],
)
def test_images_stay_whatever_they_are_called(tmp_path, names, masks):
    assert masks_among([write(tmp_path, name, mask=name in masks) for name in names]) == {}


def test_another_grid_and_damaged_files_are_no_masks(tmp_path):
    image = write(tmp_path, "case_01")
    small = write(tmp_path, "case_01_mask", mask=True, shape=(6, 5, 3))
    damaged = tmp_path / "case_01_seg.nii.gz"
    damaged.write_bytes(image.read_bytes()[:100])
    assert masks_among([image, small, damaged]) == {}
