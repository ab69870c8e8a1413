"""Scores and summary.json against nnU-Net's own evaluation of the same folders."""

from __future__ import annotations

import math
import shutil
import warnings

import numpy as np
import pytest
import SimpleITK as sitk
from tiny import write_tiny_dataset

from samunet.evaluation.score import Measures, evaluate_folder
from samunet.evaluation.summary import KEYS, read_summary, target_key, write_summary
from samunet.imageio import reader_for

pytest.importorskip("nnunetv2", exc_type=ImportError)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # nnU-Net's dependencies at import
    from nnunetv2.evaluation import evaluate_predictions as nnunet
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

ENDING = ".nii.gz"
SETUPS = {
    "classes": ([1, 2], ((1,), (2,)), None),
    "regions": ([(1, 2), 2], ((1, 2), (2,)), None),
    "ignore": ([(1, 2), 1], ((1, 2), (1,)), 3),
    "background": ([0, 1], ((0,), (1,)), None),
    "absent": ([1, 9], ((1,), (9,)), None),
}


class OneProcess:
    """Stands in for a pool of processes, so that the test need not start any."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def Pool(self, _):
        return self

    def starmap(self, function, arguments):
        return [function(*each) for each in arguments]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three cases: predictions shifted by a voxel, one of them without label 2 on either side."""
    root = tmp_path_factory.mktemp("parity")
    labels = {"background": 0, "a": 1, "b": 2, "ignore": 3}
    dataset = write_tiny_dataset(root, cases=3, num_test=0, labels=labels, size=(4, 20, 24))
    gt, out = root / "gt", root / "out"
    shutil.copytree(dataset / "labelsTr", gt)
    out.mkdir()
    for index, path in enumerate(sorted(gt.iterdir())):
        image = sitk.ReadImage(str(path))
        label = sitk.GetArrayFromImage(image)
        if index == 1:
            label[label == 2] = 0
        prediction = np.roll(np.where(label == 3, 1, label), 1 + index, axis=2)
        for array, target in ((label, path), (prediction, out / path.name)):
            written = sitk.GetImageFromArray(array.astype(np.uint8))
            written.CopyInformation(image)
            sitk.WriteImage(written, str(target))
    return gt, out


def nnunet_summary(folders, labels, ignore, path, monkeypatch):
    monkeypatch.setattr(nnunet.multiprocessing, "get_context", lambda _: OneProcess())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice", category=RuntimeWarning)
        nnunet.compute_metrics_on_folder(
            str(folders[0]), str(folders[1]), str(path), SimpleITKIO(), ENDING, labels, ignore
        )
    return nnunet.load_summary_json(str(path))


def our_summary(folders, targets, ignore):
    return evaluate_folder(
        *folders, targets=targets, ignore=ignore, file_ending=ENDING, reader=reader_for(ENDING), threads=1
    )


def same(ours, theirs):
    assert set(theirs) >= set(KEYS.values())
    for name, key in KEYS.items():
        assert getattr(ours, name) == pytest.approx(theirs[key], rel=1e-12, nan_ok=True), key


@pytest.mark.parametrize("setup", SETUPS)
def test_every_number_equals_that_of_nnunet(folders, setup, tmp_path, monkeypatch):
    labels, targets, ignore = SETUPS[setup]
    theirs = nnunet_summary(folders, labels, ignore, tmp_path / "summary.json", monkeypatch)
    ours = our_summary(folders, targets, ignore)
    for label, target in zip(labels, targets, strict=True):
        same(ours.mean[target], theirs["mean"][label])
        for case, raw in zip(ours.cases, theirs["metric_per_case"], strict=True):
            assert (case.reference_file, case.prediction_file) == (raw["reference_file"], raw["prediction_file"])
            same(case.metrics[target], raw["metrics"][label])
    if setup == "absent":  # the one deliberate difference
        assert math.isnan(theirs["foreground_mean"]["Dice"]) and ours.foreground_mean.dice == ours.mean[(1,)].dice
    else:
        same(ours.foreground_mean, theirs["foreground_mean"])


def test_nnunet_reads_our_summary(folders, tmp_path):
    options = {
        "file_ending": ENDING,
        "reader": reader_for(ENDING),
        "threads": 1,
        "measures": Measures(tolerance=1.0, lesions=True),
    }
    ours = evaluate_folder(*folders, targets=((1, 2), (2,)), ignore=3, **options)
    write_summary(tmp_path / "summary.json", ours)
    theirs = nnunet.load_summary_json(str(tmp_path / "summary.json"))
    assert set(theirs["mean"]) == {(1, 2), 2}
    same(ours.mean[(1, 2)], theirs["mean"][(1, 2)])
    same(ours.cases[1].metrics[(2,)], theirs["metric_per_case"][1]["metrics"][2])
    same(ours.foreground_mean, theirs["foreground_mean"])


@pytest.mark.parametrize("setup", SETUPS)
def test_we_read_the_summary_of_nnunet(folders, setup, tmp_path, monkeypatch):
    labels, targets, ignore = SETUPS[setup]
    theirs = nnunet_summary(folders, labels, ignore, tmp_path / "summary.json", monkeypatch)
    ours = read_summary(tmp_path / "summary.json")
    assert (
        {target_key(target) for target in targets}
        == {target_key(target) for target in ours.mean}
        == set(map(str, labels))
    )
    for label, target in zip(labels, targets, strict=True):
        same(ours.mean[target], theirs["mean"][label])
        same(ours.cases[2].metrics[target], theirs["metric_per_case"][2]["metrics"][label])
    same(ours.foreground_mean, theirs["foreground_mean"])


def test_a_rewritten_summary_of_nnunet_is_the_same_json(folders, tmp_path, monkeypatch):
    nnunet_summary(folders, [(1, 2), 2], 3, tmp_path / "theirs.json", monkeypatch)
    write_summary(tmp_path / "ours.json", read_summary(tmp_path / "theirs.json"))
    assert (tmp_path / "ours.json").read_text().strip() == (tmp_path / "theirs.json").read_text().strip()
