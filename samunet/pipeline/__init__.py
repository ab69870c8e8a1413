"""The arrows between the nouns, and the only place where stages meet.

dataset -> fingerprint -> plan -> preprocessed cases -> checkpoint -> predictions -> scores.

A name loads its module when it is first used: planning and preprocessing start without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as below
    from samunet.pipeline.datasets import FINGERPRINT_FILE, RawDataset, check, extract, keep_up_splits, open_dataset  # noqa: F401
    from samunet.pipeline.inputs import cases_to_predict  # noqa: F401
    from samunet.pipeline.options import TrainOptions  # noqa: F401
    from samunet.pipeline.plans import PlanOptions, estimate_gib, move_plan, open_plan, plan, plan_path, preprocess, resolve  # noqa: F401
    from samunet.pipeline.predictions import FileOptions, predict, predict_to_file, tile_batch  # noqa: F401
    from samunet.pipeline.trainings import check_other_folds, fold_split, is_finished, train, train_seeds, validate  # noqa: F401

_MODULES = {
    "datasets": "FINGERPRINT_FILE RawDataset check extract keep_up_splits open_dataset",
    "options": "TrainOptions",
    "plans": "PlanOptions estimate_gib move_plan open_plan plan plan_path preprocess resolve",
    "inputs": "cases_to_predict",
    "predictions": "FileOptions predict predict_to_file tile_batch",
    "trainings": "check_other_folds fold_split is_finished train train_seeds validate",
}

__all__ = [name for names in _MODULES.values() for name in names.split()]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names.split():
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
