"""samunet_evaluate_folder and samunet_evaluate_simple from the shell's side."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from tiny import write_tiny_dataset

from samunet.cli import evaluate_folder, evaluate_simple
from samunet.cli.common import parser_of
from samunet.evaluation.summary import read_summary


@pytest.fixture
def dataset(tmp_path):
    labels = {"background": 0, "both": [1, 2], "inner": 2}
    folder = write_tiny_dataset(tmp_path, cases=2, num_test=0, labels=labels, regions_class_order=[1, 2])
    shutil.copytree(folder / "labelsTr", tmp_path / "out")
    return folder


def folder_command(dataset, *options):
    return evaluate_folder.main(
        [
            str(dataset / "labelsTr"),
            str(dataset.parent / "out"),
            "-djfile",
            str(dataset / "dataset.json"),
            *map(str, options),
        ]
    )


def test_a_table_is_printed_and_the_summary_lies_beside_the_predictions(dataset, capsys):
    assert folder_command(dataset, "-np", 1) == 0
    path = dataset.parent / "out" / "summary.json"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["class", "Dice", "IoU", "NSD", "HD95", "mm", "ASSD", "mm", "cases"]
    assert lines[1].split() == ["both", "1.0000", "1.0000", "1.0000", "0.0000", "0.0000", "2/2"]
    assert lines[3].split() == ["mean", "foreground", "1.0000", "1.0000", "1.0000", "0.0000", "0.0000"]
    assert lines[-2] == f"Wrote {path}"
    assert lines[-1].startswith(f"Next: samunet_compare --reference {dataset / 'labelsTr'} --predictions out=")
    assert set(read_summary(path).mean) == {(1, 2), (2,)}


def test_the_dataset_json_beside_the_predictions_is_read_when_none_is_named(dataset, capsys):
    folders = [str(dataset / "labelsTr"), str(dataset.parent / "out")]
    assert evaluate_folder.main(folders) == 2
    assert f"{dataset.parent / 'out' / 'dataset.json'} does not exist" in capsys.readouterr().err
    shutil.copy(dataset / "dataset.json", dataset.parent / "out")
    assert evaluate_folder.main(folders) == 0
    assert set(read_summary(dataset.parent / "out" / "summary.json").mean) == {(1, 2), (2,)}


def test_surfaces_lesions_and_a_table_are_written_when_asked_for(dataset, capsys):
    table = dataset.parent / "scores.csv"
    assert folder_command(dataset, "--lesions", "--nsd_tolerance", 1, "--csv", table) == 0
    assert "lesion F1" in capsys.readouterr().out
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["case"], row["class"]) for row in rows[:2]] == [
        ("tiny_000.nii.gz", "both"),
        ("tiny_000.nii.gz", "inner"),
    ]
    assert all(row["NSD"] == row["detection_F1"] == "1.0" and float(row["volume_ref_ml"]) > 0 for row in rows)
    read = read_summary(dataset.parent / "out" / "summary.json")
    assert read.measured == ("nsd", "hd95", "hd", "assd", "volume_pred_ml", "volume_ref_ml", "detection_f1")
    assert folder_command(dataset, "--no_surfaces") == 0
    assert read_summary(dataset.parent / "out" / "summary.json").measured == ()


def test_a_second_run_is_not_confused_by_the_first_summary(dataset):
    assert folder_command(dataset) == folder_command(dataset) == 0


def test_output_file_and_plans_file_are_accepted(dataset, tmp_path):
    assert folder_command(dataset, "-o", tmp_path / "new" / "scores.json", "-pfile", tmp_path / "plans.json") == 0
    assert json.loads((tmp_path / "new" / "scores.json").read_text())["foreground_mean"]["Dice"] == 1.0


def test_a_missing_prediction_ends_with_two_and_with_zero_when_chill(dataset, capsys):
    (dataset.parent / "out" / "tiny_000.nii.gz").unlink()
    assert folder_command(dataset) == 2
    assert "tiny_000.nii.gz" in capsys.readouterr().err
    assert folder_command(dataset, "--chill") == 0


def test_simple_scores_the_labels_named(dataset, capsys):
    assert (
        evaluate_simple.main(
            [str(dataset / "labelsTr"), str(dataset.parent / "out"), "-l", "1", "2", "7", "-il", "2", "--no_surfaces"]
        )
        == 0
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:4] == [
        ["label", "1", "1.0000", "1.0000", "2/2"],
        ["label", "2", "-", "-", "0/2"],
        ["label", "7", "-", "-", "0/2"],
    ]
    assert lines[4] == ["mean", "foreground", "1.0000", "1.0000"]


def test_simple_refuses_mixed_and_absent_files(dataset, tmp_path, capsys):
    (dataset / "labelsTr" / "other.png").write_bytes(b"")
    assert evaluate_simple.main([str(dataset / "labelsTr"), str(tmp_path / "out"), "-l", "1"]) == 2
    assert ".nii.gz, .png" in capsys.readouterr().err
    assert evaluate_simple.main([str(tmp_path / "absent"), str(tmp_path / "out"), "-l", "1"]) == 2


def test_png_references_are_found_by_their_ending(tmp_path):
    folder = write_tiny_dataset(tmp_path, dimensions=2, channels=3, size=(1, 24, 30), cases=2, file_ending=".png")
    assert (
        evaluate_simple.main(
            [str(folder / "labelsTr"), str(folder / "labelsTr"), "-l", "1", "2", "-o", str(tmp_path / "s.json")]
        )
        == 0
    )
    assert read_summary(tmp_path / "s.json").foreground_mean.dice == 1.0


@pytest.mark.parametrize("module", [evaluate_folder, evaluate_simple])
def test_help_ends_with_the_next_step(module):
    assert "\nNext: open summary.json" in parser_of(module.main).format_help()
