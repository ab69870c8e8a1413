"""Ensembles: the mean of probabilities, on the grid of the images."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from samunet import pipeline
from samunet.cli import ensemble as command
from samunet.core.labels import parse_labels
from samunet.errors import ConfigError, DatasetError
from samunet.inference.ensemble import ensemble, mean_planes
from samunet.inference.load import load_predictor
from samunet.inference.predictor import PredictionOptions
from samunet.preprocessing.backward import label_values


@pytest.fixture(scope="module")
def predicted(project, trained, tmp_path_factory):
    """Two prediction folders of one model, with and without flips."""
    folder = tmp_path_factory.mktemp("ensemble")
    images = project.workspace.raw / project.dataset / "imagesTs"
    for name, flips in (("a", False), ("b", True)):
        predictor = load_predictor(trained.parent, device="cpu", options=PredictionOptions(flips=flips, quiet=True))
        cases = pipeline.cases_to_predict(images, predictor.dataset, folder / name)
        pipeline.predict(predictor, cases, folder / name, pipeline.FileOptions(save_probabilities=True))
    return folder


def test_the_mean_of_two_models_is_written_on_the_images_grid(predicted, tmp_path, capsys):
    assert command.main(["-i", str(predicted / "a"), str(predicted / "b"), "-o", str(tmp_path), "--save_npz"]) == 0
    for source in (predicted / "a").glob("*.nii.gz"):
        case = source.name.removesuffix(".nii.gz")
        members = [np.load(predicted / name / f"{case}.npz")["probabilities"].astype(float) for name in "ab"]
        mean = np.load(tmp_path / f"{case}.npz")["probabilities"]
        np.testing.assert_allclose(mean, (members[0] + members[1]) / 2, atol=1 / 2048)
        written, like = nibabel.load(tmp_path / source.name), nibabel.load(source)
        np.testing.assert_array_equal(np.asarray(written.dataobj).T, mean.argmax(0))
        np.testing.assert_allclose(written.affine, like.affine, atol=1e-5)
    assert json.loads((tmp_path / "dataset.json").read_text()) == json.loads(
        (predicted / "a" / "dataset.json").read_text()
    )
    assert "Wrote" in capsys.readouterr().out


def test_regions_are_painted_in_their_order():
    labels = parse_labels({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    probabilities = np.array([[0.9, 0.9, 0.2, 0.5], [0.1, 0.8, 0.6, 0.4]], np.float32).reshape(2, 1, 1, 4)
    assert label_values(probabilities, labels, above=0.5).tolist() == [[[1, 2, 2, 0]]]


def test_it_is_nnunets_average(predicted, tmp_path):
    theirs = pytest.importorskip("nnunetv2.ensembling.ensemble")
    case = next((predicted / "a").glob("*.npz")).stem
    paths = [predicted / name / f"{case}.npz" for name in "ab"]
    shape = np.load(paths[0])["probabilities"].shape
    np.testing.assert_allclose(
        np.stack(list(mean_planes(paths, shape))),
        theirs.average_probabilities([str(path) for path in paths]),
        atol=1e-6,
    )


def test_what_a_killed_prediction_left_is_passed_over(predicted, tmp_path):
    part = predicted / "b" / ".part-elsewhere-1-2-0123456789ab.npz"
    part.touch()
    try:
        cases = ensemble([predicted / "a", predicted / "b"], tmp_path, threads=1)
    finally:
        part.unlink()
    assert cases == tuple(sorted(path.stem for path in (predicted / "a").glob("*.npz")))


def test_folders_that_do_not_fit_are_refused(predicted, tmp_path):
    first = predicted / "a"
    other = tmp_path / "other"
    other.mkdir()
    (other / "dataset.json").write_bytes((first / "dataset.json").read_bytes())
    with pytest.raises(DatasetError, match="hold other cases, first "):
        ensemble([first, other], tmp_path / "out", threads=1)
    with pytest.raises(ConfigError, match="two folders or more; got 1"):
        ensemble([first], tmp_path / "out", threads=1)
    with pytest.raises(ConfigError, match="is input and output"):
        ensemble([first, predicted / "b"], first, threads=1)
    for path in first.glob("*.npz"):
        (other / path.name).write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match="cannot be read .*predict the case again with --save_probabilities"):
        ensemble([first, other], tmp_path / "out", threads=1)
    description = json.loads((first / "dataset.json").read_text())
    description["labels"] = {"background": 0, "one": 1}
    (other / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(DatasetError, match="predicted with other labels"):
        ensemble([first, other], tmp_path / "out", threads=1)
    assert not list((tmp_path / "out").glob("*.nii.gz"))
