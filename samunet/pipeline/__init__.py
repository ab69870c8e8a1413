"""The arrows between the nouns, and the only place where stages meet.

dataset -> fingerprint -> plan -> preprocessed cases -> checkpoint -> predictions -> scores.
"""

from __future__ import annotations

from samunet.pipeline.datasets import FINGERPRINT_FILE, RawDataset, check, extract, open_dataset
from samunet.pipeline.plans import PlanOptions, move_plan, open_plan, plan, plan_path, preprocess, resolve
from samunet.pipeline.predictions import cases_to_predict, predict, prediction_options, trained_models
from samunet.pipeline.trainings import DEFAULT_TRAINER, TrainOptions, check_other_folds, fold_split, model_folder, train, validate

__all__ = [
    "DEFAULT_TRAINER",
    "FINGERPRINT_FILE",
    "PlanOptions",
    "RawDataset",
    "TrainOptions",
    "cases_to_predict",
    "check",
    "check_other_folds",
    "extract",
    "fold_split",
    "model_folder",
    "move_plan",
    "open_dataset",
    "open_plan",
    "plan",
    "plan_path",
    "predict",
    "prediction_options",
    "preprocess",
    "resolve",
    "train",
    "trained_models",
    "validate",
]
