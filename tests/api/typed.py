# pyright: strict
"""The work in Python as type checkers see it from outside; mypy and pyright check this file, nothing runs it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel
import numpy as np
from typing_extensions import assert_type

import samunet
from samunet.comparison.compare import Comparison
from samunet.evaluation.summary import Summary


def from_dataset_to_scores(dataset: int | str, workspace: samunet.Workspace) -> float:
    plan = samunet.plan(dataset, threads=4, workspace=workspace, memory_gib=8.0)
    assert_type(plan, samunet.Plan)
    assert_type(plan.reasons["spacing"], str)
    assert_type(samunet.preprocess(dataset, "3d_adapter", workspace=workspace), Path)
    fold = samunet.train(dataset, "3d_adapter", fold=0, minutes=60, workspace=workspace)
    assert_type(fold, Path)
    model = samunet.load(fold.parent, folds=[0, "1"], device="cpu", workspace=workspace)
    assert_type(model, samunet.Predictor)
    assert_type(samunet.predict(model, "images", "predictions"), list[Path])
    assert_type(samunet.predict(dataset, "images", "predictions", workspace=workspace, quiet=True), list[Path])
    summary = samunet.evaluate("references", Path("predictions"), tolerance=None, chill=True)
    assert_type(summary, Summary)
    assert_type(samunet.compare("references", {"a": "x", "b": Path("y")}, "page"), Comparison)
    return summary.foreground_mean.dice


def from_image_to_file(model: samunet.Predictor, volume: samunet.Volume, files: Sequence[Path]) -> Path:
    prediction = model.predict(volume, probabilities=True)
    assert_type(prediction, samunet.Prediction)
    assert_type(prediction.geometry, samunet.Geometry)
    assert_type(prediction.geometry.spacing, tuple[float, float, float])
    assert_type(prediction.to_nibabel(), nibabel.Nifti1Image)
    assert_type(prediction.segmentation, np.ndarray)
    assert_type(model.predict_many(files), Iterator[samunet.Prediction])
    assert_type(samunet.variants(), tuple[str, ...])
    try:
        return prediction.save("segmentation.nii.gz")
    except samunet.DatasetError as error:
        assert_type(error.exit_code, int)
        raise SystemExit(samunet.__version__) from error
