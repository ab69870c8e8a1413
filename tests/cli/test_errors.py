"""Wrong input of every kind: one sentence that names the thing and the way out, exit code 2, nothing half-written."""

from __future__ import annotations

import importlib
import json
import shutil

import nibabel
import numpy as np
import pytest
from tiny import write_tiny_dataset


def call(command: str, *arguments: str) -> int:
    """Run a command in this process as the console script would."""
    return importlib.import_module(f"samunet.cli.{command}").main(list(map(str, arguments)))


@pytest.fixture
def environment(project, monkeypatch, tmp_path):
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # whoever runs the tests may have SAM's checkpoints
    monkeypatch.delenv("SAMUNET_WEIGHTS", raising=False)
    return project


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An own workspace with one small dataset, to be broken."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "nnUNet_raw").mkdir()
    return write_tiny_dataset(tmp_path / "nnUNet_raw", name="Dataset902_Broken", cases=3)


def plan_fails(capsys, *arguments: str) -> str:
    assert call("plan_and_preprocess", "-d", 902, "--no_pbar", *arguments) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_an_unset_variable_is_named_with_what_to_do(environment, monkeypatch, capsys, variable):
    monkeypatch.delenv(variable)
    assert call("train", 901, "3d_adapter", 0) == 2
    error = capsys.readouterr().err
    assert f"environment variable {variable} is not set" in error and f"export {variable}=" in error


def test_no_variable_at_all_asks_for_the_first(monkeypatch, capsys):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)
    assert call("plan_and_preprocess", "-d", 4) == 2
    assert "environment variable nnUNet_raw is not set" in capsys.readouterr().err


def test_an_unknown_dataset_lists_what_is_there(environment, capsys):
    assert call("plan_and_preprocess", "-d", 555) == 2
    assert "Dataset '555' is not in" in (error := capsys.readouterr().err) and "Dataset901_Tiny" in error


def test_a_dataset_without_plan_says_how_to_make_one(fresh, capsys):
    assert call("train", 902, "3d_adapter", 0) == 2
    assert (
        "has no plan 'samunetPlans'" in (error := capsys.readouterr().err)
        and "samunet_plan_and_preprocess -d 902" in error
    )


def test_a_missing_label_file_is_named(fresh, capsys):
    (fresh / "labelsTr" / "tiny_001.nii.gz").unlink()
    assert "Case 'tiny_001': label file" in (error := plan_fails(capsys)) and "is missing" in error


def test_a_missing_channel_is_named(fresh, capsys):
    description = json.loads((fresh / "dataset.json").read_text())
    description["channel_names"]["1"] = "T2"
    (fresh / "dataset.json").write_text(json.dumps(description))
    assert "has 1 channel in 1 file; dataset.json names 2 (channel0, T2)" in plan_fails(capsys)


def test_a_truncated_image_is_named_and_nothing_is_written(fresh, capsys, tmp_path):
    path = fresh / "imagesTr" / "tiny_002_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    assert "tiny_002_0000.nii.gz" in plan_fails(capsys)
    assert not list((tmp_path / "nnUNet_preprocessed").rglob("*.*"))


def test_mismatching_grids_are_named_with_both_shapes(fresh, capsys):
    path = fresh / "labelsTr" / "tiny_000.nii.gz"
    label = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj)[:-1], label.affine), path)
    assert "Case 'tiny_000': label has shape" in (error := plan_fails(capsys)) and "They must share one grid" in error


def test_a_label_that_lies_elsewhere_is_named_with_the_distance(fresh, capsys):
    path = fresh / "labelsTr" / "tiny_000.nii.gz"
    label = nibabel.load(path)
    affine = label.affine.copy()
    affine[0, 3] += 12
    nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj), affine), path)
    assert "lie 12 mm (12 voxels) apart" in plan_fails(capsys)


def test_an_unexpected_label_value_is_named(fresh, capsys):
    path = fresh / "labelsTr" / "tiny_000.nii.gz"
    label = nibabel.load(path)
    array = np.asarray(label.dataobj).copy()
    array[0, 0, 0] = 77
    nibabel.save(nibabel.Nifti1Image(array, label.affine), path)
    assert "holds the values [77], which dataset.json does not name (it names [0, 1, 2])" in plan_fails(capsys)


def test_verifying_lists_every_problem_at_once(fresh, capsys):
    for case in ("tiny_001", "tiny_002"):
        path = fresh / "imagesTr" / f"{case}_0000.nii.gz"
        path.write_bytes(path.read_bytes()[:-200])
    description = json.loads((fresh / "dataset.json").read_text())
    description["numTraining"] = 9
    (fresh / "dataset.json").write_text(json.dumps(description))
    error = plan_fails(capsys, "--verify_dataset_integrity")
    assert (
        "3 errors" in error
        and "numTraining is 9; the folders hold 3 training cases" in error
        and "tiny_001" in error
        and "tiny_002" in error
    )


def test_a_broken_dataset_json_is_named(fresh, capsys):
    (fresh / "dataset.json").write_text("{")
    assert "is not valid JSON" in plan_fails(capsys)


def test_a_hand_edited_plan_with_a_misspelt_key_names_the_nearest(fresh, capsys, tmp_path):
    assert call("plan_and_preprocess", "-d", 902, "--no_pbar", "-c", "3d_adapter", "-backbone", "vit_nano") == 0
    path = tmp_path / "nnUNet_preprocessed" / "Dataset902_Broken" / "samunetPlans.json"
    path.write_text(path.read_text().replace('"batch_size"', '"batchsize"', 1))
    assert call("train", 902, "3d_adapter", 0) == 2
    assert "unknown key 'batchsize'. Did you mean 'batch_size'?" in capsys.readouterr().err


def test_wrong_configurations_name_what_exists(environment, capsys):
    assert call("train", 901, "3d_adaptre", 0) == 2
    assert "no adaptation method 'adaptre'. Did you mean 'adapter'" in capsys.readouterr().err
    assert call("train", 901, "3d_lowres", 0) == 2
    assert "use 3d_adapter instead" in capsys.readouterr().err
    assert call("preprocess", "-d", 901, "-c", "3d_fullres") == 2
    assert "'3d_fullres' does not exist: its place has 3d_adapter here" in capsys.readouterr().err


def test_a_wrong_trainer_names_the_one_there_is(environment, capsys):
    assert call("train", 901, "3d_adapter", 0, "-tr", "nnUNetTrainer") == 2
    assert "There is no trainer 'nnUNetTrainer'" in capsys.readouterr().err


def test_official_backbones_without_weights_end_with_4(environment, capsys):
    assert call("plan_experiment", "-d", 901, "-backbone", "vit_b") == 4
    assert "Get it with: samunet_weights download sam_vit_b" in capsys.readouterr().err


def test_weights_that_nobody_vouches_for_need_their_hash(environment, capsys, tmp_path):
    import torch

    from samunet.sam.backbones import backbone_named
    from samunet.sam.build import build_sam

    path = tmp_path / "nano.pth"
    torch.save(build_sam(backbone_named("vit_nano"), (64, 64)).state_dict(), path)
    plan = (
        "plan_experiment",
        "-d",
        901,
        "-backbone",
        "vit_nano",
        "-overwrite_plans_name",
        "samunetPlansNano",
        "-weights",
        path,
    )
    assert call(*plan) == 2
    advice = capsys.readouterr().err
    assert "is none of SAM's official checkpoints" in advice
    assert call(*plan, "--sha256", "0" * 64) == 2
    assert "It is damaged or another file" in capsys.readouterr().err
    assert call(*plan, "--sha256", advice.split()[-1]) == 0


def test_weights_of_another_backbone_are_refused_at_planning(environment, capsys, tmp_path):
    import torch

    from samunet.core.codec import file_sha256
    from samunet.sam.backbones import backbone_named
    from samunet.sam.build import build_sam

    path = tmp_path / "nano.pth"
    torch.save(build_sam(backbone_named("vit_nano"), (64, 64)).state_dict(), path)
    assert (
        call("plan_experiment", "-d", 901, "-backbone", "vit_b", "-weights", path, "--sha256", file_sha256(path)) == 2
    )
    assert "holds backbone vit_nano (width 48, 4 blocks); the plan asks for vit_b" in capsys.readouterr().err


def test_prediction_without_a_model_says_how_to_train_one(fresh, capsys, tmp_path):
    assert call("predict", "-i", fresh / "imagesTs", "-o", tmp_path / "out") == 2
    assert (
        "no finished training" in (error := capsys.readouterr().err) and "samunet_train DATASET 3d_adapter 0" in error
    )
    assert not (tmp_path / "out").exists()


def test_a_cascade_is_refused(environment, trained, capsys, tmp_path):
    words = ["-i", tmp_path, "-o", tmp_path / "out", "-d", "901", "-c", "3d_adapter", "--verbose"]
    assert call("predict", *words, "-prev_stage_predictions", "x") == 2
    assert "samunet has no cascade" in capsys.readouterr().err


def test_prediction_lists_the_candidates_when_several_models_fit(environment, trained, capsys, tmp_path):
    twin = trained.parent.with_name("SAMTrainer__samunetPlans__2d_adapter")
    shutil.copytree(trained.parent, twin)
    try:
        assert call("predict", "-i", tmp_path, "-o", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert "2 trained models fit" in error and "-c 2d_adapter" in error and "-c 3d_adapter" in error
    finally:
        shutil.rmtree(twin)


def test_prediction_names_an_untrained_fold_and_empty_or_absent_inputs(environment, trained, capsys, tmp_path):
    images = environment.workspace.raw / environment.dataset / "imagesTs"
    assert call("predict", "-i", images, "-o", tmp_path / "out", "-f", 4, "-device", "cpu") == 2
    assert "Fold 4 of" in (error := capsys.readouterr().err) and "is not trained" in error
    assert call("predict", "-i", tmp_path / "absent", "-o", tmp_path / "out", "-device", "cpu") == 2
    assert "does not exist; give a folder of images named <case>_0000.nii.gz" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert call("predict", "-i", tmp_path / "empty", "-o", tmp_path / "out", "-device", "cpu") == 2
    assert "holds no image, such as <case>_0000.nii.gz" in capsys.readouterr().err


def test_a_broken_image_among_good_ones_ends_with_3(environment, trained, capsys, tmp_path):
    images = shutil.copytree(environment.workspace.raw / environment.dataset / "imagesTs", tmp_path / "images")
    for channel in range(2):
        (images / f"bad_000{channel}.nii.gz").write_bytes(b"no image")
    assert (
        call(
            "predict", "-i", images, "-o", tmp_path / "out", "-device", "cpu", "--disable_tta", "--disable_progress_bar"
        )
        == 3
    )
    assert "1 of 2 cases failed: bad" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1


def test_misspelt_flags_are_refused_by_argparse(capsys):
    with pytest.raises(SystemExit) as ended:
        call("train", 4, "3d_adapter", 0, "--epoch", 3)
    assert ended.value.code == 2 and "unrecognized arguments: --epoch" in capsys.readouterr().err
