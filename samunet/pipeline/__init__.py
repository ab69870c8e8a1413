"""The arrows between the nouns, and the only place where stages meet.

dataset -> fingerprint -> plan -> preprocessed cases -> checkpoint -> predictions -> scores.

A name loads its module when it is first used: planning and preprocessing start without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samunet.pipeline.datasets import FINGERPRINT_FILE, RawDataset, check, extract, open_dataset  # noqa: F401
    from samunet.pipeline.plans import PlanOptions, move_plan, open_plan, plan, plan_path, preprocess, resolve  # noqa: F401
    from samunet.pipeline.predictions import cases_to_predict, predict, prediction_options, trained_models  # noqa: F401
    from samunet.pipeline.trainings import DEFAULT_TRAINER, TrainOptions, check_other_folds, fold_split, model_folder, train, validate  # noqa: F401

_MODULES = {
    "datasets": ("FINGERPRINT_FILE", "RawDataset", "check", "extract", "open_dataset"),
    "plans": ("PlanOptions", "move_plan", "open_plan", "plan", "plan_path", "preprocess", "resolve"),
    "predictions": ("cases_to_predict", "predict", "prediction_options", "trained_models"),
    "trainings": ("DEFAULT_TRAINER", "TrainOptions", "check_other_folds", "fold_split", "model_folder", "train", "validate"),
}

__all__ = [name for names in _MODULES.values() for name in names]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
