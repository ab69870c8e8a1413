"""samunet_compare: what is compared, what is said, what is refused."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from tiny import write_tiny_dataset

from samunet.cli import compare as command
from samunet.comparison.compare import case_values
from samunet.comparison.comparison_page import most_telling_cases
from samunet.comparison.from_folders import compare_folders, short_names
from samunet.core.dataset import read_dataset_json

FOLDERS = ["--reference", "x", "--predictions", "a=b", "c=d", "-djfile", "x.json"]
LABELS = {"background": 0, "body_part": 1, "core": 2}


def change(path, edit):
    image = sitk.ReadImage(str(path))
    array = edit(sitk.GetArrayFromImage(image))
    written = sitk.GetImageFromArray(array)
    written.SetSpacing(image.GetSpacing())
    written.SetOrigin(image.GetOrigin())
    written.SetDirection(image.GetDirection())
    sitk.WriteImage(written, str(path))


@pytest.fixture
def dataset(tmp_path):
    """Eight cases; "good" is shifted by one voxel, "bad" by three."""
    folder = write_tiny_dataset(tmp_path, cases=8, num_test=0, labels=LABELS, size=(6, 30, 30))
    for name, shift in (("good", 1), ("bad", 3)):
        shutil.copytree(folder / "labelsTr", tmp_path / name)
        for path in (tmp_path / name).iterdir():
            change(path, lambda array, shift=shift: np.roll(array, shift, axis=2))
    return folder


def run(dataset, *predictions, out="report", options=()):
    root = dataset.parent
    words = [
        "--reference",
        str(dataset / "labelsTr"),
        "-djfile",
        str(dataset / "dataset.json"),
        "-o",
        str(root / out),
        "-np",
        "2",
    ]
    return command.main(
        [*words, "--predictions", *(f"{name}={root / folder}" for name, folder in predictions), *options]
    )


def test_a_planted_difference_is_found_and_everything_is_written(dataset, capsys):
    assert run(dataset, ("far", "bad"), ("near", "good"), options=["--images", str(dataset / "imagesTr")]) == 0
    said = capsys.readouterr().out
    assert re.search(
        (
            r"near is better than far: mean Dice 0\.\d{3} against 0\.\d{3} on 8 cases, difference \+0\.\d{3}, 95 % "
            r"interval \+"
        ),
        said,
    )
    folder = dataset.parent / "report"
    document = json.loads((folder / "comparison.json").read_text())
    assert document["share_of_first_ranks"] == {"far": 0.0, "near": 1.0} and len(document["rows"]) == 9
    rows = list(csv.DictReader((folder / "cases.csv").read_text().splitlines()))
    assert len(rows) == 2 * 8 * 2 and {row["class"] for row in rows} == {"body_part", "core"}
    mean = next(row for row in document["rows"] if row["metric"] == "dice" and row["target"] == "mean")
    by_hand = {
        method: np.mean([float(row["Dice"]) for row in rows if row["method"] == method]) for method in ("far", "near")
    }
    assert mean["difference"]["mean"] == pytest.approx(by_hand["near"] - by_hand["far"])
    challenger = list(csv.DictReader((folder / "challenger.csv").read_text().splitlines()))
    assert list(challenger[0]) == ["task", "algorithm", "case", "value"] and len(challenger) == len(rows)
    assert r"body\_part & near against far" in (folder / "table.tex").read_text()
    page = (folder / "report.html").read_text()
    assert page.count("<img") == 2 + 6 and "near is better than far" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page) and "<script" not in page
    assert "http" not in re.sub(r'"data:[^"]*"', "", page)


def test_identical_folders_have_no_difference(dataset, capsys):
    assert run(dataset, ("a", "good"), ("b", "good")) == 0
    assert "No difference between b and a: " in capsys.readouterr().out
    rows = json.loads((dataset.parent / "report" / "comparison.json").read_text())["rows"]
    assert all(row["difference"]["mean"] == 0 and row["p_holm"] == 1 for row in rows)


def test_three_sets_are_compared_in_pairs(dataset, capsys):
    assert run(dataset, ("a", "bad"), ("b", "good"), ("c", "good")) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "Dice" in line]
    assert [line.split(":")[0] for line in lines] == [
        "b is better than a",
        "c is better than a",
        "No difference between c and b",
    ]


def test_who_rightly_leaves_a_class_out_counts_as_perfect(dataset):
    root = dataset.parent
    first = sorted((dataset / "labelsTr").iterdir())[0].name
    for path in (dataset / "labelsTr" / first, root / "good" / first):
        change(path, lambda array: np.where(array == 2, 0, array))
    spec = read_dataset_json(dataset / "dataset.json")
    folders = {"good": root / "good", "bad": root / "bad"}
    found = compare_folders(dataset / "labelsTr", folders, spec, root / "out", tolerance=2.0, threads=1)
    assert case_values(found.summaries, "dice")[:, 0, 1].tolist() == [1, 0]
    assert case_values(found.summaries, "hd95")[0, 0, 1] == 0 < case_values(found.summaries, "hd95")[1, 0, 1]
    for path in (root / "bad" / first,):
        change(path, lambda array: np.where(array == 2, 0, array))
    found = compare_folders(dataset / "labelsTr", folders, spec, root / "out", tolerance=2.0, threads=1)
    assert np.isnan(case_values(found.summaries, "dice")[:, 0, 1]).all()
    assert next(row for row in found.rows if row.name == "core").difference.cases == 7
    assert len(most_telling_cases(found)) == 6


def test_patients_are_drawn_together(dataset):
    root = dataset.parent
    raw = json.loads((dataset / "dataset.json").read_text())
    folders = {"bad": root / "bad", "good": root / "good"}
    (root / "grouped.json").write_text(json.dumps(raw | {"groups": "_00([0-9])"}))
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (dataset / "labelsTr").iterdir())
    table = {case: f"patient{index // 2}" for index, case in enumerate(cases)}
    (root / "paired.json").write_text(json.dumps(raw | {"groups": table}))
    options = {"tolerance": 2.0, "threads": 1}
    for name, patients in (("grouped", 8), ("paired", 4)):
        found = compare_folders(
            dataset / "labelsTr", folders, read_dataset_json(root / f"{name}.json"), root / "out", **options
        )
        assert len(set(found.patients)) == patients


@pytest.mark.parametrize("groups", [{"other_case": "anna"}, "^(patient[0-9]+)_"])
def test_groups_of_other_cases_make_every_case_a_patient_and_the_page_says_so(dataset, groups):
    raw = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(raw | {"groups": groups}))
    assert run(dataset, ("bad", "bad"), ("good", "good")) == 0
    document = json.loads((dataset.parent / "report" / "comparison.json").read_text())
    assert document["patients"] == document["cases"] and len(document["cases"]) == 8
    page = (dataset.parent / "report" / "report.html").read_text()
    assert "dataset.json names no patients of theirs under groups" in page
    assert "Every case counts as a patient, since groups do not name these: dataset.json: " in page


def test_unlike_is_refused(dataset, capsys):
    root = dataset.parent
    first = sorted((root / "bad").iterdir())[0]
    kept = first.read_bytes()
    first.unlink()
    assert run(dataset, ("a", "good"), ("b", "bad")) == 2
    assert "1 case has no prediction of b: " in capsys.readouterr().err
    first.write_bytes(kept)
    shutil.copy(first, first.with_name("extra.nii.gz"))
    assert run(dataset, ("a", "good"), ("b", "bad")) == 2
    assert "a prediction of b but no reference: extra" in capsys.readouterr().err
    first.with_name("extra.nii.gz").unlink()
    raw = json.loads((dataset / "dataset.json").read_text())
    (root / "bad" / "dataset.json").write_text(
        json.dumps(raw | {"labels": {"background": 0, "core": 1, "body_part": 2}})
    )
    assert run(dataset, ("a", "good"), ("b", "bad")) == 2
    assert "b was predicted with other labels" in capsys.readouterr().err
    (root / "bad" / "dataset.json").unlink()
    change(first, lambda array: array[:4])
    assert run(dataset, ("a", "good"), ("b", "bad")) == 2
    assert "prediction has shape (4, " in capsys.readouterr().err
    assert not (root / "report").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Give either -d DATASET, or --reference"),
        (["-d", "1", "--reference", "x"], "Give either -d DATASET, or --reference"),
        (["--reference", "x", "--predictions", "a=b"], "Give either -d DATASET, or --reference"),
        ([*FOLDERS, "--models", "a__b__c"], "--models goes with -d DATASET, of whose models it chooses some."),
        ([*FOLDERS, "-f", "0"], "-f goes with -d DATASET"),
        ([*FOLDERS, "-c", "3d_adapter"], "-c goes with -d DATASET"),
        ([*FOLDERS, "-device", "cpu"], "-device goes with --run_nnunet; without it nothing is trained."),
        (["-d", "1", "--images", "x"], "--images goes with --predictions; with -d the images are the dataset's own."),
        (["-d", "1", "--models", "a__b__c", "-c", "c"], "--models and -c both choose models; give one of them."),
        (["-d", "1", "-device", "cpu"], "-device goes with --run_nnunet"),
        (["-d", "1", "--planner", "nnUNetPlannerResEncL"], "--planner goes with --run_nnunet"),
        (["-d", "1", "--nnunet_configuration", "2d"], "--nnunet_configuration goes with --run_nnunet"),
        (["-d", "1", "--nnunet_trainer", "A", "B"], "--nnunet_trainer goes with --run_nnunet"),
    ],
)
def test_half_a_question_is_refused(words, message, tmp_path, capsys):
    assert command.main([*words, "-o", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_segmentations_is_named(dataset, capsys):
    root = dataset.parent
    (root / "none").mkdir()
    (root / "none" / "case_000.png").write_bytes(b"")
    for predictions in ((("a", "none"), ("b", "good")), (("a", "good"), ("b", "none"))):
        assert run(dataset, *predictions) == 2
        said = capsys.readouterr().err
        name = next(name for name, folder in predictions if folder == "none")
        assert f"No file ending in .nii.gz is in {root / 'none'}, where the predictions of '{name}' should be" in said
    shutil.rmtree(dataset / "labelsTr")
    (dataset / "labelsTr").mkdir()
    assert run(dataset, ("a", "good"), ("b", "bad")) == 2
    assert f"is in {dataset / 'labelsTr'}, where the references should be" in capsys.readouterr().err


def test_fewer_than_two_models_are_no_comparison(dataset, monkeypatch, capsys, tmp_path):
    root = dataset.parent
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(root if name == "raw" else root / name))
    words = ["-d", dataset.name, "-o", str(tmp_path / "report")]
    results = root / "results" / dataset.name
    assert command.main(words) == 2
    assert f"two models or more of {results} that have predicted" in (said := capsys.readouterr().err)
    assert "got none. Train and validate first." in said
    shutil.copytree(root / "good", results / "SAMTrainer__samunetPlans__3d_adapter" / "fold_0" / "validation")
    for more in ([], ["--models", "SAMTrainer__samunetPlans__3d_adapter"]):
        assert command.main([*words, *more]) == 2
        assert "got SAMTrainer__samunetPlans__3d_adapter. Train and validate first." in capsys.readouterr().err


def test_names_are_needed_and_differ(dataset, capsys):
    root = dataset.parent
    words = ["--reference", str(dataset / "labelsTr"), "-djfile", str(dataset / "dataset.json"), "-o", str(root / "x")]
    for predictions in (["good"], ["a=good", "a=bad"], ["=good", "b=bad"]):
        assert command.main([*words, "--predictions", *predictions]) == 2
        assert "--predictions takes NAME=FOLDER words" in capsys.readouterr().err
    assert command.main([*words, "--predictions", f"a={root / 'good'}"]) == 2
    assert "two or more sets of predictions" in capsys.readouterr().err


def test_models_are_called_by_what_is_not_the_default():
    names = (
        "nnUNetTrainer__nnUNetPlans__3d_fullres",
        "nnUNetTrainer_25min__nnUNetPlans__2d",
        "SAMTrainer__samunetPlans__3d_adapter",
        "SAMTrainer__b__2d_x",
    )
    assert short_names(names) == ("nnU-Net 3d_fullres", "nnU-Net 25min 2d", "3d_adapter", "b 2d_x")
    assert short_names(("3d_adapter", "A__B__C__old")) == ("3d_adapter", "A__B__C__old")
    alike = ("SAMTrainer__samunetPlans__3d_adapter", "SAMTrainer__nnUNetPlans__3d_adapter")
    assert short_names(alike) == alike


def test_models_of_a_dataset_are_compared_on_their_validation_cases(dataset, monkeypatch, capsys, tmp_path):
    root = dataset.parent
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(root if name == "raw" else root / name))
    names = sorted(path.name for path in (dataset / "labelsTr").iterdir())
    results = root / "results" / dataset.name
    for model, source in (
        ("nnUNetTrainer__nnUNetPlans__3d_fullres", "bad"),
        ("SAMTrainer__samunetPlans__3d_adapter", "good"),
    ):
        for fold, chosen in (("0", names[:2]), ("1", names[2:4])):
            folder = results / model / f"fold_{fold}" / "validation"
            folder.mkdir(parents=True)
            for name in chosen:
                shutil.copy(root / source / name, folder / name)
        shutil.copy(dataset / "dataset.json", results / model / "dataset.json")
    words = ["-d", dataset.name, "-o", str(tmp_path / "report")]
    assert command.main(words) == 0
    said = capsys.readouterr().out
    assert "between 3d_adapter and nnU-Net 3d_fullres is not shown" in said and "on 4 cases" in said
    assert command.main([*words, "-f", "0"]) == 0 and "on 2 cases" in capsys.readouterr().out
    chosen = results / "SAMTrainer__samunetPlans__3d_ma_sam"
    shutil.copytree(results / "SAMTrainer__samunetPlans__3d_adapter", chosen)
    assert command.main([*words, "-c", "3d_fullres", "samunetPlans__3d_ma_sam"]) == 0
    assert "between 3d_ma_sam and nnU-Net 3d_fullres is not shown" in (said := capsys.readouterr().out)
    assert "3d_adapter" not in said
    for more, message in (
        (["-f", "7"], "their validation cases of fold 7; got none. Train and validate first."),
        (["-f", "all"], "Folds to compare are numbers"),
        (["-c", "3d_adaptor"], "No model of configuration '3d_adaptor' has predicted .* Did you mean '3d_adapter'"),
    ):
        assert command.main([*words, *more]) == 2 and re.search(message, capsys.readouterr().err)
    shutil.rmtree(chosen)
    moved = results / "SAMTrainer__samunetPlans__3d_adapter"
    shutil.move(moved / "fold_0" / "validation" / names[0], moved / "fold_1" / "validation" / names[0])
    assert command.main(words) == 2
    assert "have other splits: '" in capsys.readouterr().err
    assert command.main([*words, "--models", "3d_adapter", moved.name]) == 2
    assert "holds no validation predictions" in capsys.readouterr().err
    assert command.main([*words, "--models", "absent__a__b", moved.name]) == 2
    assert "holds no validation predictions" in capsys.readouterr().err
