"""Prediction with a trained model: geometry, folds, files, failures."""

from __future__ import annotations

import shutil

import nibabel
import numpy as np
import pytest
import torch

from samunet import pipeline
from samunet.core.codec import file_sha256
from samunet.core.dataset import Case
from samunet.core.geometry import Geometry
from samunet.core.volume import Volume
from samunet.errors import CheckpointError, ConfigError
from samunet.imageio import reader_for
from samunet.inference.predictor import PredictionOptions, Predictor, finished_folds

QUICK = PredictionOptions(flips=False, quiet=True)


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return Predictor.from_folder(trained.parent, device="cpu", options=QUICK)


@pytest.fixture
def images(project):
    return project.workspace.raw / project.dataset / "imagesTs"


def test_a_volume_gives_labels_on_its_own_grid(predictor):
    for shape in ((16, 40, 32), (5, 71, 23), (1, 9, 9)):
        geometry = Geometry(shape=shape, spacing=(2.0, 0.7, 1.3))
        array = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
        segmentation = predictor.predict(Volume(array=array, geometry=geometry))
        assert segmentation.shape == shape and segmentation.dtype == np.uint8
        assert set(np.unique(segmentation)) <= {0, 1, 2, 3}


def test_files_have_the_affine_shape_and_format_of_the_input(predictor, images, project, tmp_path):
    cases = pipeline.cases_to_predict(images, predictor.dataset, tmp_path)
    assert pipeline.predict(predictor, cases, tmp_path, save_probabilities=True, skip_existing=False, readers=1, writers=1) == ()
    for case in cases:
        image, output = nibabel.load(case.images[0]), nibabel.load(tmp_path / f"{case.identifier}.nii.gz")
        assert output.shape == image.shape and np.allclose(output.affine, image.affine, atol=1e-5)
        probabilities = np.load(tmp_path / f"{case.identifier}.npz")["probabilities"]
        assert probabilities.shape == (4, *image.shape[::-1]) and np.allclose(probabilities.sum(0), 1, atol=1e-3)
        assert (probabilities.argmax(0) == np.asarray(output.dataobj).transpose(2, 1, 0)).mean() > 0.99
    assert (tmp_path / "dataset.json").is_file() and (tmp_path / "plans.json").is_file()


def test_predicting_twice_gives_the_same_bytes_and_continuing_redoes_nothing(predictor, images, tmp_path):
    cases = pipeline.cases_to_predict(images, predictor.dataset, tmp_path)
    options = {"save_probabilities": False, "readers": 2, "writers": 2}
    pipeline.predict(predictor, cases, tmp_path / "a", skip_existing=False, **options)
    pipeline.predict(predictor, cases, tmp_path / "b", skip_existing=False, **options)
    name = f"{cases[0].identifier}.nii.gz"
    assert file_sha256(tmp_path / "a" / name) == file_sha256(tmp_path / "b" / name)
    before = (tmp_path / "a" / name).stat().st_mtime_ns
    pipeline.predict(predictor, cases, tmp_path / "a", skip_existing=True, **options)
    assert (tmp_path / "a" / name).stat().st_mtime_ns == before


def test_a_failing_case_is_named_and_the_others_finish(predictor, images, tmp_path):
    good = pipeline.cases_to_predict(images, predictor.dataset, tmp_path)[0]
    broken = tmp_path / "broken_0000.nii.gz"
    broken.write_bytes(good.images[0].read_bytes()[:300])
    bad = Case(identifier="broken", images=(broken, good.images[1]), label=None)
    out = tmp_path / "out"
    failures = pipeline.predict(predictor, [bad, good], out, save_probabilities=False, skip_existing=False, readers=1, writers=1)
    assert [failure.identifier for failure in failures] == ["broken"] and "broken_0000.nii.gz" in failures[0].reason
    assert (out / f"{good.identifier}.nii.gz").is_file() and not list(out.glob("broken*")) and not list(out.glob(".part*"))


def test_two_folds_are_averaged(trained, tmp_path, images):
    model = shutil.copytree(trained.parent, tmp_path / trained.parent.name)
    shutil.copytree(model / "fold_0", model / "fold_1")
    assert finished_folds(model) == ("0", "1")
    both = Predictor.from_folder(model, device="cpu", options=QUICK)
    with torch.no_grad():
        for parameter in both.networks[1].outputs.parameters():
            parameter.zero_()  # the second fold says nothing but what its token head adds
        for parameter in both.networks[1].head.hypernetwork[-1].parameters():
            parameter.zero_()
    one = Predictor.from_folder(model, folds=["0"], device="cpu", options=QUICK)
    reader = reader_for(".nii.gz")
    case = one.preprocess(reader.read_image(sorted(images.glob("*"))[:2]))
    assert torch.allclose(both.logits(case), one.logits(case) / 2, atol=1e-5)


def test_untrained_folds_and_wrong_folders_are_refused(trained, tmp_path):
    with pytest.raises(CheckpointError, match="Fold 3 of .* is not trained.*Folds with that checkpoint: 0"):
        Predictor.from_folder(trained.parent, folds=["3"])
    with pytest.raises(CheckpointError, match="is not a trained model; it has no plans.json"):
        Predictor.from_folder(tmp_path)
    with pytest.raises(CheckpointError, match="has no fold with other.safetensors"):
        Predictor.from_folder(trained.parent, checkpoint="other")


def test_checkpoint_names_work_with_and_without_ending(trained):
    for name in ("checkpoint_best", "checkpoint_best.safetensors"):
        assert len(Predictor.from_folder(trained.parent, checkpoint=name, device="cpu").networks) == 1


def test_the_step_size_is_a_share():
    with pytest.raises(ConfigError, match=r"step size must be above 0 and at most 1; got 1.5"):
        PredictionOptions(step_size=1.5)
