"""samunet's networks inside stock nnU-Net: trained, saved, and found again for prediction."""

from __future__ import annotations

import contextlib
import io
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

dataset, images, output, *pairs = sys.argv[1:]
number = int(dataset[7:10])
extract_fingerprints([number], num_processes=1, show_progress_bar=False)
plan_experiments([number], gpu_memory_target_in_gb=0.5)
import os
os.environ["nnUNet_n_proc_DA"] = "0"
for configuration, trainer in zip(pairs[::2], pairs[1::2], strict=True):
    preprocess([number], configurations=[configuration], num_processes=[1], show_progress_bar=False)
    made = get_trainer_from_args(dataset, configuration, "all", trainer, "nnUNetPlans", device=torch.device("cpu"))
    made.num_epochs, made.num_iterations_per_epoch, made.num_val_iterations_per_epoch = 1, 2, 1
    made.run_training()
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(made.output_folder_base, use_folds=("all",))
    print("NETWORK", trainer, type(predictor.network).__name__, type(predictor.network.network).__name__)
    predictor.predict_from_files_sequential(images, f"{output}/{trainer}")
"""
NETWORKS = {"samunetTrainer": ("3d_fullres", "SAMUNet"), "samunetTrainer_ma_sam": ("2d", "PromptFreeSAM")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The dataset's folder, the folder of predictions by trainer, and what was printed."""
    root = tmp_path_factory.mktemp("inside")
    for name in ("raw", "preprocessed", "results"):
        (root / name).mkdir()
    dataset = write_tiny_dataset(root / "raw", cases=4, num_test=1, size=(12, 40, 36))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert info.main(["--ext_trainer"]) == 0
    environment = {
        **os.environ,
        **{f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")},
        "nnUNet_extTrainer": said.getvalue().strip(),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_compile": "f",
    }
    output = root / "out"
    for trainer in NETWORKS:
        (output / trainer).mkdir(parents=True)
    pairs = [word for trainer, (configuration, _) in NETWORKS.items() for word in (configuration, trainer)]
    words = [sys.executable, "-c", RUN, dataset.name, str(dataset / "imagesTs"), str(output), *pairs]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return dataset, output, done.stdout


@pytest.mark.parametrize("trainer", NETWORKS)
def test_nnunet_trains_and_predicts_with_our_networks(trained, trainer):
    dataset, output, said = trained
    assert f"NETWORK {trainer} Slab {NETWORKS[trainer][1]}" in said
    written = sorted((output / trainer).glob("*.nii.gz"))
    labels = json.loads((dataset / "dataset.json").read_text())["labels"]
    assert written and all(set(np.unique(nibabel.load(path).dataobj)) <= set(labels.values()) for path in written)
