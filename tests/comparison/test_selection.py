"""Folds together, and the best of several models."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from tiny import write_tiny_dataset

from samunet.cli import (
    accumulate_crossval_results,
    determine_postprocessing,
    ensemble,
    evaluate_folder,
    find_best_configuration,
    predict,
    simulate_prompts,
)
from samunet.core.results import best_models
from samunet.core.workspace import Workspace
from samunet.evaluation.summary import read_summary

MODELS = {"SAMTrainer__samunetPlans__3d_adapter": 1, "SAMTrainer__samunetPlans__3d_ma_sam": 2}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Six cases in two folds; a model's predictions are the references shifted to one side by its number of voxels, the
    other's to the other.
    """
    dataset = write_tiny_dataset(
        tmp_path / "raw", cases=6, num_test=0, labels={"background": 0, "a": 1, "b": 2}, size=(6, 30, 30)
    )
    names = sorted(path.name for path in (dataset / "labelsTr").iterdir())
    results = tmp_path / "results" / dataset.name
    for (model, shift), sign in zip(MODELS.items(), (1, -1), strict=True):
        for fold, chosen in (("0", names[:3]), ("1", names[3:])):
            folder = results / model / f"fold_{fold}" / "validation"
            folder.mkdir(parents=True)
            (folder.parent / "checkpoint_final.safetensors").write_bytes(b"")
            for name in chosen:
                image = sitk.ReadImage(str(dataset / "labelsTr" / name))
                label = np.roll(sitk.GetArrayFromImage(image), sign * shift, axis=2)
                written = sitk.GetImageFromArray(label)
                written.CopyInformation(image)
                sitk.WriteImage(written, str(folder / name))
                np.savez_compressed(
                    folder / f"{name[:-7]}.npz", probabilities=np.eye(3, dtype=np.float32)[label].transpose(3, 0, 1, 2)
                )
        for file in ("dataset.json",):
            shutil.copy(dataset / file, results / model / file)
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    return Workspace(raw_folder=tmp_path / "raw", results_folder=tmp_path / "results"), dataset


def test_folds_are_scored_together(workspace, capsys):
    place, dataset = workspace
    model = place.results / dataset.name / next(iter(MODELS))
    words = ["-d", dataset.name, "-c", "3d_adapter", "-f", "0", "1"]
    assert accumulate_crossval_results.main(words) == 0
    folder = model / "crossval_results_folds_0_1"
    summary = read_summary(folder / "summary.json")
    assert len(summary.cases) == 6 and f"{summary.foreground_mean.dice:.4f} on 6 cases" in capsys.readouterr().out
    assert len(list(folder.glob("*.npz"))) == 6 and (folder / "dataset.json").is_file()
    assert accumulate_crossval_results.main([*words, "2"]) == 2
    assert "fold_2/validation holds no validation predictions" in capsys.readouterr().err.replace("\\", "/")
    twice = sorted((model / "fold_0" / "validation").glob("*.nii.gz"))[0]
    shutil.copy(twice, model / "fold_1" / "validation" / twice.name)
    assert accumulate_crossval_results.main(words) == 2
    assert "folds of one split share no case" in capsys.readouterr().err


def test_the_best_is_marked_and_prediction_takes_it(workspace, capsys, monkeypatch):
    place, dataset = workspace
    assert find_best_configuration.main([dataset.name, "-f", "0", "1", "--disable_ensembling", "-np", "1"]) == 0
    said = capsys.readouterr().out
    best = place.results / dataset.name / "SAMTrainer__samunetPlans__3d_adapter"
    assert said.splitlines()[0].startswith(best.name) and "samunet_predict -i INPUT -o OUTPUT" in said
    assert best_models(place, dataset.name) == (best,)
    assert "-c 3d_adapter -f 0 1" in (place.results / dataset.name / "inference_instructions.txt").read_text()
    assert json.loads((best / "crossval_results_folds_0_1" / "postprocessing.json").read_text())["cases"] == 6
    chosen = []
    monkeypatch.setattr(predict, "predict_with_model", lambda _, folder, **__: chosen.append(folder) or 0)
    assert predict.main(["-i", "x", "-o", "y"]) == 0 and chosen == [best]


def test_an_ensemble_may_be_best(workspace, capsys):
    """Their errors are on opposite sides, so that the mean of both is nearer."""
    place, dataset = workspace
    for model in MODELS:
        for path in (place.results / dataset.name / model).glob("fold_*/validation/*.npz"):
            label = np.load(path)["probabilities"].argmax(0)
            shift = MODELS[model] * (1 if model.endswith("adapter") else -1)
            true = np.eye(3, dtype=np.float32)[np.roll(label, -shift, axis=2)].transpose(3, 0, 1, 2)
            np.savez_compressed(path, probabilities=0.6 * true + 0.4 * np.load(path)["probabilities"])
    assert find_best_configuration.main([dataset.name, "-f", "0", "1"]) == 0
    said = capsys.readouterr().out
    assert (
        said.splitlines()[0].startswith("ensemble of ")
        and said.count("--save_probabilities") == 2
        and "samunet_ensemble -i OUTPUT_1 OUTPUT_2" in said
    )
    assert len(best_models(place, dataset.name)) == 2


def test_models_of_other_splits_and_absent_ones_are_refused(workspace, capsys):
    place, dataset = workspace
    folder = place.results / dataset.name / next(iter(MODELS)) / "fold_0" / "validation"
    sorted(folder.glob("*.nii.gz"))[0].unlink()
    assert find_best_configuration.main([dataset.name, "-f", "0", "1"]) == 2
    assert "Compare models of one split" in capsys.readouterr().err
    assert find_best_configuration.main([dataset.name, "-c", "2d_adapter"]) == 2
    assert "No trained model of" in capsys.readouterr().err
    shutil.rmtree(place.results / dataset.name)
    assert find_best_configuration.main([dataset.name]) == 2
    assert "Train first" in capsys.readouterr().err


def test_stacks_keep_their_spacing_and_reader_through_every_command(tmp_path, monkeypatch, capsys):
    """3D TIFF: the reader is the plan's, since nothing about an ending tells a stack from an image; 3 x 1 x 1 mm lie in
    a file beside each.
    """
    raw, model = (
        tmp_path / "raw" / "Dataset901_Ball",
        tmp_path / "results" / "Dataset901_Ball" / "SAMTrainer__samunetPlans__3d_adapter",
    )
    folders = [raw / "imagesTr", raw / "labelsTr", model / "fold_0" / "validation"]
    label = np.zeros((4, 10, 12), np.uint8)
    label[1:3, 2:7, 3:9] = 1
    for folder in folders:
        folder.mkdir(parents=True)
        for case in ("a", "b"):
            name = f"{case}_0000" if folder.name == "imagesTr" else case
            tifffile.imwrite(folder / f"{name}.tif", label, photometric="minisblack")
            (folder / f"{case}.json").write_text('{"spacing": [3, 1, 1]}')
    description = {
        "channel_names": {"0": "x"},
        "labels": {"background": 0, "ball": 1},
        "numTraining": 2,
        "file_ending": ".tif",
    }
    for folder in (raw, model):
        (folder / "dataset.json").write_text(json.dumps(description))
    (model / "plans.json").write_text('{"reader": "Tiff3DIO"}')
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    checkpoint = model / "fold_0" / "checkpoint_final.safetensors"
    checkpoint.touch()
    for case in ("a", "b"):
        np.savez_compressed(
            folders[2] / f"{case}.npz", probabilities=np.eye(2, dtype=np.float32)[label].transpose(3, 0, 1, 2)
        )
    assert find_best_configuration.main(["901", "-f", "0", "-np", "1"]) == 0
    found = model / "crossval_results_folds_0"
    assert read_summary(found / "summary.json").foreground_mean.dice == 1
    assert (
        ensemble.main(["-i", str(folders[2]), str(found), "-o", str(tmp_path / "e"), "-np", "1"]) == 2
    )  # no dataset.json beside a fold's
    assert "fold_0/validation/dataset.json does not exist" in capsys.readouterr().err
    assert ensemble.main(["-i", str(found), str(found), "-o", str(tmp_path / "e"), "-np", "1"]) == 0
    determine = ["-i", str(folders[2]), "-ref", str(folders[1]), "-dataset_json", str(raw / "dataset.json")]
    assert determine_postprocessing.main(determine) == 0
    assert evaluate_folder.main([str(folders[1]), str(folders[2]), "-djfile", str(raw / "dataset.json")]) == 0
    assert (
        simulate_prompts.main([str(folders[1]), "-djfile", str(raw / "dataset.json"), "-o", str(tmp_path / "p.json")])
        == 0
    )
    for folder in (found, found / "postprocessed", folders[2] / "postprocessed", tmp_path / "e"):
        assert json.loads((folder / "a.json").read_text()) == {"spacing": [3.0, 1.0, 1.0]}, folder
    assert "1 mm" not in capsys.readouterr().out
