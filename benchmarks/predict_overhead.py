"""Time prediction without the network: nnU-Net's predictor and ours with one that costs next to nothing.

    python benchmarks/predict_overhead.py --dataset 35 --cases 6 --workers 2     # nnUNet_raw holds the dataset

Both tools read, preprocess to the same spacing, run the same cheap network over the same tiles without flips, resample
back and write. Each measurement is a process of its own, the two sides in turns, with the same numbers of workers
(nnU-Net's are processes, ours threads) and one thread for computing in each; the clock runs from the call to the last
file, so starting python and importing do not count. nnU-Net is also measured without workers
(predict_from_files_sequential). Writes benchmarks/results/predict_overhead_<dataset>.json. Nothing else should run
meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import processor_name
from stand_in import Cheap, nnunet_plans, our_predictor

from samunet import pipeline
from samunet.core.codec import write_json
from samunet.core.workspace import workspace_from_environment
from samunet.machine.hardware import keep_freed_memory

RESULTS = Path(__file__).parent / "results"
SPACING, PATCH = (3.0, 0.8, 0.8), (8, 128, 128)
SIDES = ("nnunet", "nnunet, no workers", "ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="35")
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    dataset = pipeline.open_dataset(workspace_from_environment(), arguments.dataset)
    cases = dataset.cases[: arguments.cases]
    if arguments.side:
        print(
            json.dumps(
                {"seconds": round(predict(arguments.side, dataset, cases, arguments.workers, arguments.output), 3)}
            )
        )
        return
    for case in cases:
        case.images[0].read_bytes()
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as text:
        for _ in range(arguments.repeats):
            for side, found in seconds.items():
                words = ["--side", side, "--output", str(Path(text) / side), "--dataset", arguments.dataset]
                words += ["--cases", str(arguments.cases), "--workers", str(arguments.workers)]
                threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
                done = subprocess.run(
                    [sys.executable, __file__, *words],
                    env=os.environ | threads,
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                found.append(json.loads(done.stdout.splitlines()[-1])["seconds"])
        equal = share_of_equal(dataset, cases, Path(text) / "nnunet", Path(text) / "ours")
    best = {side: min(found) for side, found in seconds.items()}
    theirs = min(best["nnunet"], best["nnunet, no workers"])
    result = {
        "machine": {"cpu": processor_name(), "cpus": os.cpu_count()},
        "dataset": dataset.spec.name,
        "cases": len(cases),
        "workers": arguments.workers,
        "spacing": SPACING,
        "patch": PATCH,
        "seconds": best,
        "share_of_nnunets_time": round(best["ours"] / theirs, 3),
        "share_of_equal_voxels": equal,
    }
    write_json(RESULTS / f"predict_overhead_{dataset.spec.name}.json", result)
    print(json.dumps(result, indent=2))


def predict(side: str, dataset: pipeline.RawDataset, cases: tuple, workers: int, output: Path) -> float:
    """Predict the cases into a folder; returns the seconds."""
    if side == "ours":
        keep_freed_memory()
        predictor, run = our_predictor(dataset.spec, SPACING, PATCH, "zscore"), pipeline.predict  # loads its module
        began = time.perf_counter()
        if failures := run(
            predictor, cases, output, pipeline.FileOptions(readers=workers, writers=workers, quiet=True)
        ):
            raise SystemExit(str(failures))
        return time.perf_counter() - began
    predictor = nnunet_predictor(dataset)
    images = [[str(path) for path in case.images] for case in cases]
    output.mkdir(parents=True, exist_ok=True)
    targets = [str(output / case.identifier) for case in cases]
    began = time.perf_counter()
    if side == "nnunet":
        predictor.predict_from_files(
            images, targets, num_processes_preprocessing=workers, num_processes_segmentation_export=workers
        )
    else:
        predictor.predict_from_files_sequential(images, targets)
    return time.perf_counter() - began


def nnunet_predictor(dataset: pipeline.RawDataset) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    plans = nnunet_plans(SPACING, PATCH, "ZScoreNormalization")
    network = Cheap(dataset.spec.labels.outputs)
    configuration = plans.get_configuration("3d_fullres")
    predictor.manual_initialization(
        network, plans, configuration, [network.state_dict()], dataset.spec.raw, "nnUNetTrainer", None
    )
    return predictor


def share_of_equal(dataset: pipeline.RawDataset, cases: tuple, one: Path, other: Path) -> float:
    """Return the share of voxels on which both agree."""
    equal, voxels = 0, 0
    for case in cases:
        name = f"{case.identifier}{dataset.spec.file_ending}"
        first, second = (dataset.reader.read_label(folder / name)[0] for folder in (one, other))
        equal += int(np.count_nonzero(first == second))
        voxels += first.size
    return round(equal / voxels, 7)


if __name__ == "__main__":
    main()
