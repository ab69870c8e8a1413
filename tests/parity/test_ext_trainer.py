"""samunet's networks inside stock nnU-Net: trained, saved, and found again for prediction."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from tiny import write_tiny_dataset

from samunet.cli import info

pytest.importorskip("nnunetv2")

RUN = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

dataset, configuration, trainer, images, output = sys.argv[1:]
number = int(dataset[7:10])
extract_fingerprints([number], num_processes=1, show_progress_bar=False)
plan_experiments([number], gpu_memory_target_in_gb=0.5)
preprocess([number], configurations=[configuration], num_processes=[1], show_progress_bar=False)
import os
os.environ["nnUNet_n_proc_DA"] = "0"
made = get_trainer_from_args(dataset, configuration, "all", trainer, "nnUNetPlans", device=torch.device("cpu"))
made.num_epochs, made.num_iterations_per_epoch, made.num_val_iterations_per_epoch = 1, 2, 1
made.run_training()
predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
predictor.initialize_from_trained_model_folder(made.output_folder_base, use_folds=("all",))
print("NETWORK", type(predictor.network).__name__, type(predictor.network.network).__name__)
predictor.predict_from_files_sequential(images, output)
"""


@pytest.mark.parametrize(
    ("configuration", "trainer", "network"),
    [("3d_fullres", "samunetTrainer", "SAMUNet"), ("2d", "samunetTrainer_ma_sam", "PromptFreeSAM")],
)
def test_nnunet_trains_and_predicts_with_our_networks(tmp_path, capsys, configuration, trainer, network):
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
    dataset = write_tiny_dataset(tmp_path / "raw", cases=4, num_test=1, size=(12, 40, 36))
    assert info.main(["--ext_trainer"]) == 0
    folders = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    environment = {
        **os.environ,
        **folders,
        "nnUNet_extTrainer": capsys.readouterr().out.strip(),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_compile": "f",
    }
    output = tmp_path / "out"
    output.mkdir()
    words = [sys.executable, "-c", RUN, dataset.name, configuration, trainer, str(dataset / "imagesTs"), str(output)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert f"NETWORK Slab {network}" in done.stdout
    written = sorted(output.glob("*.nii.gz"))
    labels = json.loads((dataset / "dataset.json").read_text())["labels"]
    assert written and all(set(np.unique(nibabel.load(path).dataobj)) <= set(labels.values()) for path in written)
