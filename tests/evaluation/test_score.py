"""Scores of files and folders against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from samunet.core.labels import parse_labels
from samunet.errors import ConfigError, DatasetError
from samunet.evaluation.score import Measures, evaluate_folder, names_from_labels, targets_from_labels
from samunet.evaluation.summary import read_summary, write_summary
from samunet.imageio import READERS, reader_for

NATURAL = next(reader for reader in READERS if reader.name == "NaturalImage2DIO")

ENDING = ".nii.gz"


def write(path, labels, spacing=(1.0, 1.0, 3.0), origin=(0.0, 0.0, 0.0)):
    path.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(np.asarray(labels, np.uint8))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))


def score(folder, targets=((1,), (2,)), ignore=None, **options):
    return evaluate_folder(
        folder / "gt",
        folder / "out",
        targets=targets,
        ignore=ignore,
        file_ending=ENDING,
        reader=reader_for(ENDING),
        **{"threads": 2, **options},
    )


@pytest.fixture
def folder(tmp_path):
    # Two slices of 2 x 3 voxels. Class 1: reference 4 voxels, predicted 3, common 2. Class 2: nowhere in case a.
    write(tmp_path / "gt" / f"a{ENDING}", [[[1, 1, 0], [1, 1, 0]], [[0, 0, 0], [0, 0, 3]]])
    write(tmp_path / "out" / f"a{ENDING}", [[[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]]])
    write(tmp_path / "gt" / f"b{ENDING}", [[[2, 2, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
    write(tmp_path / "out" / f"b{ENDING}", [[[2, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
    return tmp_path


def test_counts_dice_and_iou_are_those_worked_out_by_hand(folder):
    first = score(folder).cases[0]
    assert (first.reference_file, first.prediction_file) == (
        str(folder / "gt" / "a.nii.gz"),
        str(folder / "out" / "a.nii.gz"),
    )
    got = first.metrics[(1,)]
    assert (got.tp, got.fp, got.fn, got.tn, got.n_pred, got.n_ref) == (2, 1, 2, 7, 3, 4)
    assert (got.dice, got.iou) == (pytest.approx(4 / 7), pytest.approx(2 / 5))
    assert math.isnan(first.metrics[(2,)].dice)


def test_ignored_voxels_do_not_count(folder):
    got = score(folder, ignore=3).cases[0].metrics[(1,)]
    assert (got.tp, got.fp, got.fn, got.tn) == (2, 0, 2, 7)


def test_surfaces_do_not_follow_the_border_to_ignored_voxels(tmp_path):
    squares = np.zeros((2, 9, 20), np.uint8)
    squares[0, 1:8, 2:9] = squares[1, 2:7, 3:8] = 1  # one smaller all around
    for part, square in zip(("gt", "out"), squares, strict=True):
        sparse = np.full((21, 9, 20), 3 if part == "gt" else 1)
        sparse[[5, 10, 15]] = square
        write(tmp_path / part / f"a{ENDING}", sparse)
    got = score(tmp_path, targets=((1,),), ignore=3, measures=Measures(tolerance=0.5)).cases[0].metrics[(1,)]
    assert (got.nsd, got.n_ref, got.n_pred) == (
        0,
        3 * 49,
        3 * 25,
    )  # outlines of 24 and 16 voxels, nowhere on each other
    assert got.assd == pytest.approx((36 + 4 * 2**0.5) / 40) and got.hd == pytest.approx(2**0.5)  # 4 outer corners
    assert got.volume_pred_ml == pytest.approx(3 * 25 * 3 / 1000)


def test_a_region_unites_its_values(folder):
    got = score(folder, targets=((1, 2),)).mean[(1, 2)]
    assert got.dice == pytest.approx((4 / 7 + 1) / 2)


def test_the_number_of_threads_changes_nothing(folder):
    assert repr(score(folder, threads=1)) == repr(score(folder, threads=4))


def test_a_missing_prediction_is_named_and_left_out_when_chill(folder):
    (folder / "out" / f"b{ENDING}").unlink()
    with pytest.raises(DatasetError, match=r"1 case has no prediction .*b\.nii\.gz"):
        score(folder)
    assert [case.name for case in score(folder, chill=True).cases] == ["a.nii.gz"]


def test_a_prediction_without_reference_is_named_and_left_out_when_chill(folder):
    for name in "cdefgh":
        write(folder / "out" / f"{name}{ENDING}", np.zeros((2, 2, 3)))
    with pytest.raises(DatasetError, match=r"6 cases have no reference .*c\.nii\.gz, .*g\.nii\.gz, \.\.\."):
        score(folder)
    assert len(score(folder, chill=True).cases) == 2


def test_different_shapes_are_both_named(folder):
    write(folder / "out" / f"b{ENDING}", np.zeros((2, 3, 3)))
    with pytest.raises(DatasetError, match=r"'b\.nii\.gz'.*\(2, 3, 3\).*\(2, 2, 3\)"):
        score(folder)


@pytest.mark.parametrize("change", [{"spacing": (1.0, 1.0, 3.6)}, {"origin": (0.0, 0.6, 0.0)}])
def test_a_shifted_grid_is_refused(folder, change):
    write(folder / "out" / f"b{ENDING}", np.zeros((2, 2, 3)), **change)
    with pytest.raises(DatasetError, match=r"'b\.nii\.gz'.*voxels\) apart"):
        score(folder)


def test_a_difference_of_rounding_is_accepted(folder):
    write(folder / "out" / f"b{ENDING}", np.zeros((2, 2, 3)), origin=(0.0, 0.005, 0.0))
    assert score(folder).cases[1].metrics[(1,)].dice == 0


def test_a_tenth_of_a_voxel_is_said_and_accepted(folder, caplog):
    write(folder / "out" / f"b{ENDING}", np.zeros((2, 2, 3)), origin=(0.0, 0.1, 0.0))
    assert score(folder).cases[1].metrics[(1,)].dice == 0
    assert "Case 'b.nii.gz': prediction and reference lie 0.1 mm (0.1 voxels) apart at a corner." in caplog.messages


def test_empty_and_absent_folders_are_named(tmp_path):
    with pytest.raises(DatasetError, match="gt does not exist"):
        score(tmp_path)
    (tmp_path / "gt").mkdir()
    (tmp_path / "out").mkdir()
    with pytest.raises(DatasetError, match="No file ending in .nii.gz"):
        score(tmp_path)


def test_nothing_to_score_is_refused(folder):
    with pytest.raises(ConfigError, match="at least one"):
        score(folder, targets=())


def test_targets_are_foreground_classes_or_regions():
    classes = parse_labels({"background": 0, "cyst": 2, "kidney": 1, "ignore": 3})
    assert targets_from_labels(classes) == ((2,), (1,))
    assert names_from_labels(classes) == {"2": "cyst", "1": "kidney"}
    regions = parse_labels({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    assert targets_from_labels(regions) == ((1, 2), (2,))
    assert names_from_labels(regions) == {"(1, 2)": "whole", "2": "core"}


@pytest.mark.parametrize("part", ["gt", "out"])
def test_a_value_that_dataset_json_does_not_name_is_refused_with_its_file(folder, part):
    assert score(folder, ignore=3, expected=(0, 1, 2, 3)).cases
    write(folder / part / f"b{ENDING}", [[[255, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
    with pytest.raises(
        DatasetError, match=rf"{part}/b\.nii\.gz holds the values \[255\], which dataset\.json does not name"
    ):
        score(folder, ignore=3, expected=(0, 1, 2, 3))


HALF_MICROMETER = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}


@pytest.mark.parametrize(("tags", "unit", "hd"), [({}, "pixels", 3.0), (HALF_MICROMETER, "mm", 0.0015)])
def test_distances_are_in_pixels_where_the_reference_tells_no_size(tags, unit, hd, tmp_path):
    for name, column in (("gt", 2), ("out", 5)):  # 3 pixels apart
        label = np.zeros((6, 8), np.uint8)
        label[3, column] = 1
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a.tif", label, **tags)
    folders = {
        "targets": ((1,),),
        "ignore": None,
        "file_ending": ".tif",
        "reader": NATURAL,
        "threads": 1,
        "measures": Measures(tolerance=1.0),
    }
    summary = evaluate_folder(tmp_path / "gt", tmp_path / "out", **folders)
    write_summary(tmp_path / "summary.json", summary)
    assert read_summary(tmp_path / "summary.json").unit == summary.unit == unit
    assert summary.mean[(1,)].hd == pytest.approx(hd)


def intensities(folder, name):
    noise = sitk.GetImageFromArray(np.random.default_rng(0).normal(100, 40, (2, 2, 3)))
    noise.SetSpacing((1.0, 1.0, 3.0))
    sitk.WriteImage(noise, str(folder / "gt" / f"{name}{ENDING}"))


def test_channels_beside_references_are_left_out_and_their_masks_take_the_names_of_predictions(folder, caplog):
    before = score(folder)
    (folder / "gt" / f"a{ENDING}").rename(folder / "gt" / f"a_seg{ENDING}")
    for channel in ("a_0000", "a_0001"):
        intensities(folder, channel)
    assert score(folder).foreground_mean == before.foreground_mean
    said = "2 files left out, as images beside which their masks lie: a_0000.nii.gz, a_0001.nii.gz."
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{folder / 'gt'}: {said}"
    ]


def test_a_file_whose_name_is_in_the_other_folder_is_scored_whatever_lies_beside_it(folder):
    (folder / "gt" / f"a{ENDING}").rename(folder / "gt" / f"a_seg{ENDING}")
    intensities(folder, "a")
    with pytest.raises(DatasetError, match=r"1 case has no prediction .*: a_seg\.nii\.gz\. "):
        score(folder)
    with pytest.raises(DatasetError, match=r"a\.nii\.gz holds .* expected whole numbers"):
        score(folder, chill=True)


def test_references_that_may_be_ones_do_not_vanish_beside_masks(folder):
    gt = folder / "gt"
    write(gt / f"c_seg{ENDING}", np.zeros((2, 2, 3)))
    write(gt / f"c{ENDING}", np.arange(12).reshape(2, 2, 3))
    write(gt / f"d_seg{ENDING}", np.zeros((20, 4, 3)))
    write(gt / f"d{ENDING}", np.arange(240).reshape(20, 4, 3))  # numbers of objects
    with pytest.raises(DatasetError, match=r"4 cases have no prediction .*: c\.nii.*, c_seg.*, d\.nii.*, d_seg"):
        score(folder)


def test_two_masks_of_one_case_are_refused_by_name(folder):
    gt = folder / "gt"
    intensities(folder, "a_0000")
    (gt / f"a{ENDING}").rename(gt / f"a_liver_mask{ENDING}")
    write(gt / f"a_kidney_mask{ENDING}", np.ones((2, 2, 3)))
    for chill in (False, True):
        with pytest.raises(DatasetError, match=r"a_kidney_mask.nii.gz and a_liver_mask.nii.gz are both of a\.nii\.gz"):
            score(folder, chill=chill)
