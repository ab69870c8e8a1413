"""Masks in a file for each structure become one label map a case, whatever way they lie beside their image."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from PIL import Image

from samunet.checking.run import check_dataset
from samunet.cli import import_dataset
from samunet.core.workspace import Workspace
from samunet.errors import ConfigError, DatasetError
from samunet.importing.proposal import propose
from samunet.importing.repair import Repairs

CASES = ("s0001", "s0002", "s0003")
PARTS = {"liver": 2, "kidney_left": 4, "vertebrae_L5": 6}  # plane x of each
AFFINE = np.diag([-1.5, -1.0, 3.0, 1.0])
SHAPE = (9, 8, 5)
TOTAL = ("{case}/ct", "{case}/segmentations/{part}")
LAYOUTS = {
    "TotalSegmentator's": TOTAL,
    "told by content": ("{case}", "{case}_{part}"),
    "told by a word": ("{case}", "{case}_{part}_mask"),
    "a folder a case": ("images/{case}_0000", "masks/{case}/{part}"),
    "a folder a structure": ("images/{case}", "labels/{part}/{case}"),
    "a folder a structure, channels": ("images/T2/{case}", "labels/{part}/{case}"),
    "names that repeat the case": ("images/{case}", "masks/{case}/{case}_{part}"),
}


@pytest.fixture
def raw(tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return tmp_path / "raw"


def save(path, values, shift=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = AFFINE.copy()
    affine[0, 3] += shift
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def mask_of(part, case=None):
    """The structure's plane of x, 255 as in pictures of masks, and what is beyond it, which moves with the case."""
    values = np.zeros(SHAPE, np.uint8)
    values[PARTS[part], : 4 + CASES.index(case or CASES[0])] = 255
    return values


def lay(folder, image=TOTAL[0], mask=TOTAL[1], *, cases=CASES, parts=tuple(PARTS)):
    """Write images, and a mask of every structure but the last case's kidney."""
    for number, case in enumerate(cases):
        values = np.random.default_rng(number).normal(0, 300, SHAPE).astype(np.float32)
        save(folder / f"{image.format(case=case)}.nii.gz", values)
        for part in parts:
            if (case, part) != (CASES[-1], "kidney_left"):
                save(folder / f"{mask.format(case=case, part=part)}.nii.gz", mask_of(part, case))
    return folder


def look(folder, given=None, **repairs):
    return propose(folder, Workspace(raw_folder=None), given=given, repairs=Repairs(**repairs), threads=1, quiet=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_are_structures_of_the_image_that_they_name(tmp_path, layout):
    found = look(lay(tmp_path / "mine", *LAYOUTS[layout]))
    assert found.labels == {"kidney_left": 1, "liver": 2, "vertebrae_L5": 3} and found.left_out == {}
    assert [case.identifier for case in found.cases] == list(CASES) and not any(case.label for case in found.cases)
    for case in found.cases:
        assert list(case.masks) == [
            part for part in sorted(PARTS) if (case.identifier, part) != (CASES[-1], "kidney_left")
        ]
        for part, path in case.masks.items():
            expected = LAYOUTS[layout][1].format(case=case.identifier, part=part)
            assert path.relative_to(tmp_path / "mine").as_posix() == f"{expected}.nii.gz"
    assert "  united    8 masks of 3 structures become 3 label maps; kidney_left in 2 of them" in found.lines()


def test_the_copy_is_one_label_map_on_the_images_grid(raw, tmp_path, capsys):
    folder = lay(tmp_path / "Task09_Mine")
    save(folder / "s0004/ct.nii.gz", np.zeros(SHAPE, np.float32))
    assert import_dataset.main([str(folder), "--no_pbar", "--yes"]) == 0
    said = capsys.readouterr().out
    assert "cases     3 with a label, 1 without" in said
    assert "labels    0 background, 1 kidney_left, 2 liver, 3 vertebrae_L5 (a mask file for each)" in said
    assert "s0001/segmentations/kidney_left.nii.gz, ... -> labelsTr/s0001.nii.gz" in said
    target = raw / "Dataset009_Mine"
    for case in CASES:
        expected = np.zeros(SHAPE, np.uint8)
        for value, part in enumerate(sorted(PARTS), 1):
            if (case, part) != (CASES[-1], "kidney_left"):
                expected[mask_of(part, case) > 0] = value
        copy = nibabel.load(target / f"labelsTr/{case}.nii.gz")
        assert np.array_equal(copy.dataobj, expected) and copy.get_data_dtype() == np.uint8
        assert np.array_equal(copy.affine, nibabel.load(folder / f"{case}/ct.nii.gz").affine)
    assert not (target / "repairs.json").exists() and (target / "imagesTs/s0004_0000.nii.gz").is_file()
    report = check_dataset(target, threads=1, quiet=True)
    assert [finding for finding in report.findings if finding.severity == "error"] == []


def test_labels_keep_some_structures_and_say_their_values(raw, tmp_path, capsys):
    folder = lay(tmp_path / "mine")
    words = [str(folder), "--no_pbar", "--yes", "-d", "Dataset012_K", "--labels", "vertebrae_L5=1", "kidney_left=2"]
    assert import_dataset.main(words) == 0
    said = capsys.readouterr().out
    assert "1 vertebrae_L5, 2 kidney_left (as given; a mask file for each)" in said
    assert "left out  3 files of structures that no label names: s0001/segmentations/liver.nii.gz" in said
    copies = [np.unique(nibabel.load(raw / f"Dataset012_K/labelsTr/{case}.nii.gz").dataobj).tolist() for case in CASES]
    assert copies == [[0, 1, 2], [0, 1, 2], [0, 1]]
    found = look(folder, given={"kidney_left": 1})  # a case without any of them has no label
    assert [case.training for case in found.cases] == [True, True, False]
    with pytest.raises(ConfigError, match="No mask is one of 'kidney'. Did you mean 'kidney_left'"):
        look(folder, given={"kidney": 1})
    with pytest.raises(ConfigError, match="No mask is one of 'spleen'"):
        look(folder, priority=("liver", "spleen"))
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "vertebrae_L5": 2, "kidney_left": 3},
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    assert look(folder).labels == {"liver": 1, "vertebrae_L5": 2, "kidney_left": 3}


def test_overlaps_of_pictures_are_refused_until_an_order_is_given(raw, tmp_path, capsys):
    cell, nucleus = np.zeros((9, 8), np.uint8), np.zeros((9, 8), np.uint8)
    cell[2:8, 1:7], nucleus[4:6, 3:5] = 255, 1
    for name in "ab":
        for path, values in (
            (f"images/{name}.jpg", np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)),
            (f"masks/{name}/nucleus.png", nucleus),
            (f"masks/{name}/cell.png", cell),
        ):
            (tmp_path / "p" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / "p" / path)
    words = [str(tmp_path / "p"), "--no_pbar", "--yes", "-d", "Dataset012_P"]
    assert import_dataset.main(words) == 2 and list(raw.iterdir()) == []
    error = capsys.readouterr().err
    assert "Case 'a': the masks of cell and nucleus share 4 voxels; " in error and "--priority cell nucleus" in error
    for order, kept in (("cell nucleus", 32), ("nucleus cell", 36)):
        assert import_dataset.main([*words[:-1], f"Dataset{kept:03d}_P", "--priority", *order.split()]) == 0
        below, above = order.split()
        said = capsys.readouterr().out
        assert f"  overlaps  {above} over {below}: 8 voxels in 2 cases" in said and f" --priority {order}\n" in said
        target = raw / f"Dataset{kept:03d}_P"
        with Image.open(target / "labelsTr/b.png") as copy:
            assert (np.asarray(copy) == 1).sum() == kept and copy.mode == "L"
        overlap = {"repair": "overlap", "below": below, "above": above, "voxels": 4}
        assert json.loads((target / "repairs.json").read_text()) == [
            {"file": f"labelsTr/{name}.png", **overlap} for name in "ab"
        ]


def test_masks_that_are_none_or_lie_elsewhere_are_refused_by_name(raw, tmp_path, capsys):
    folder = lay(tmp_path / "mine")
    path = folder / "s0002/segmentations/liver.nii.gz"
    for values, shift, message in (
        (
            mask_of("liver") + np.eye(9, 8, dtype=np.uint8)[..., None],
            0,
            "liver.nii.gz holds 3 values, up to 255; the mask",
        ),
        (mask_of("liver")[1:], 0, r"liver.nii.gz has shape \(5, 8, 8\), image has \(5, 8, 9\)"),
        (mask_of("liver"), 1.0, "liver.nii.gz and image lie 1 mm .1 voxels. apart at a corner"),
    ):
        save(path, values, shift)
        with pytest.raises(DatasetError, match=rf"Case 's0002': mask .*{message}"):
            look(folder)
    assert import_dataset.main([str(folder), "--no_pbar", "--yes", "-d", "Dataset012_G", "--copy_grid"]) == 0
    assert json.loads((raw / "Dataset012_G/repairs.json").read_text()) == [
        {"file": "labelsTr/s0002.nii.gz", "structure": "liver", "repair": "grid of the image", "mm": 1.0, "voxels": 1.0}
    ]
    copy = nibabel.load(raw / "Dataset012_G/labelsTr/s0002.nii.gz")
    assert np.array_equal(copy.affine, AFFINE)


def test_several_labels_that_are_no_structures_are_refused(tmp_path):
    raters = lay(tmp_path / "raters", "{case}", "{case}_seg_{part}", parts=())
    ids = lay(tmp_path / "ids", "images/{case}", "masks/{case}/{part}", parts=())
    whole = lay(tmp_path / "whole", "{case}", "{case}_{part}_mask")
    for number, case in enumerate(CASES):
        save(whole / f"{case}_mask.nii.gz", mask_of("liver"))
        for rater in (1, 2):
            save(raters / f"{case}_seg_{rater}.nii.gz", mask_of("liver"))
            save(ids / f"masks/{case}/{'abcdef'[2 * number + rater - 1]}.nii.gz", mask_of("liver"))
    for folder in (raters, ids, whole):
        with pytest.raises(
            DatasetError, match="3 cases of .* have several label files, whose names tell no structures"
        ):
            look(folder)
    plain = lay(tmp_path / "plain", "images/{case}", "labels/{case}", parts=("liver",))
    with pytest.raises(ConfigError, match="have one label file each, in which nothing overlaps; leave out --priority"):
        look(plain, priority=("a", "b"))
