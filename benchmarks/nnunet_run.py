"""Train nnU-Net for some minutes on a CPU and predict cases with it: the other side of the studies.

It is nnU-Net as shipped but for batch size and schedule: epochs are shorter and as many as the budget holds, so that
its learning rate reaches zero there. No mirroring at prediction.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from samunet.core.dataset import Case
from samunet.core.workspace import Workspace

ITERATIONS = 10  # an epoch
CALIBRATION_STEPS = 1, 5
VALIDATION_SHARE = 1 / 3  # of a training step's time
CONFIGURATION = "3d_fullres"


def prepare(
    workspace: Workspace,
    dataset: str,
    *,
    memory_gib: float,
    spacing: Sequence[float] | None,
    batch_size: int,
    split_file: Path,
) -> None:
    """Plan and preprocess with nnU-Net in an own workspace, with our memory target, target spacing and split."""
    _set_variables(workspace)
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    number, folder = int(dataset[len("Dataset") :].split("_")[0]), workspace.preprocessed / dataset
    if not (folder / "splits_final.json").is_file():
        extract_fingerprints([number], num_processes=1, show_progress_bar=False)
        plan_experiments([number], gpu_memory_target_in_gb=memory_gib, overwrite_target_spacing=spacing)
        preprocess([number], configurations=[CONFIGURATION], num_processes=[1], show_progress_bar=False)
        plans = json.loads((folder / "nnUNetPlans.json").read_text())
        plans["configurations"][CONFIGURATION]["batch_size"] = batch_size
        (folder / "nnUNetPlans.json").write_text(json.dumps(plans, indent=2))
        (folder / "splits_final.json").write_bytes(split_file.read_bytes())


def train_and_predict(
    workspace: Workspace,
    dataset: str,
    cases: Sequence[Case],
    predictions: Path,
    *,
    fold: int,
    minutes: float,
    seed: int,
) -> dict[str, Any]:
    """Train one fold, write a segmentation of every case, and return what the training cost with nnU-Net's plan."""
    _set_variables(workspace)
    os.environ.update(nnUNet_n_proc_DA="0", nnUNet_compile="f")  # augmentation in the training process, as ours
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.run.run_training import get_trainer_from_args

    def train(epochs: int, iterations: int) -> float:
        """Train from the beginning; returns the CPU seconds."""
        torch.manual_seed(seed)
        np.random.seed(seed)
        trainer = get_trainer_from_args(
            dataset, CONFIGURATION, fold, "nnUNetTrainer", "nnUNetPlans", device=torch.device("cpu")
        )
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = (
            epochs,
            iterations,
            1,
        )
        before = time.process_time()
        trainer.run_training()
        return time.process_time() - before

    few, more = CALIBRATION_STEPS
    seconds_a_step = (train(1, more) - train(1, few)) / (more - few)
    epochs = max(1, round(60 * minutes / (seconds_a_step * (ITERATIONS + VALIDATION_SHARE))))
    used = train(epochs, ITERATIONS)
    model = workspace.results / dataset / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), use_folds=(fold,))
    predictions.mkdir(parents=True, exist_ok=True)
    images, targets = (
        [list(map(str, case.images)) for case in cases],
        [str(predictions / case.identifier) for case in cases],
    )
    predictor.predict_from_files_sequential(images, targets)
    plans = json.loads((workspace.preprocessed / dataset / "nnUNetPlans.json").read_text())
    return {
        "cpu_minutes": round(used / 60, 2),
        "seconds_a_step": round(seconds_a_step, 4),
        "steps": epochs * ITERATIONS,
        "configuration": plans["configurations"][CONFIGURATION],
    }


def _set_variables(workspace: Workspace) -> None:
    """nnU-Net reads them when it is imported, which is why its imports stand inside functions."""
    for name in ("raw", "preprocessed", "results"):
        folder: Path = getattr(workspace, name)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(folder)
