"""Export: from logits on the network's grid to a segmentation on the file's grid, nnU-Net's function and ours.

    python benchmarks/export.py

Every measurement is a process of its own with one thread, the two sides in turns: seconds of the best of --repeats
runs, and the growth of the process's peak memory. Logits are smooth blobs with noise on them, as networks give, and
pure noise, in which every class may win everywhere, the worst case for our rule. Last, a whole prediction of the case
of 105 classes under --max_ram, by a network that costs nothing: growth of the peak against the limit, with the scores
in memory and, under a lower limit, in a file, whose pages the system may drop and which are left out. Writes
benchmarks/results/export.json. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from machine import processor_name
from stand_in import nnunet_plans, our_predictor

from samunet import pipeline
from samunet.cli.common import parse_bytes
from samunet.core.codec import write_json
from samunet.core.dataset import read_dataset_json
from samunet.core.geometry import Geometry
from samunet.core.history import SpatialHistory
from samunet.core.labels import parse_labels
from samunet.core.memory import peak_mib, start_peak
from samunet.imageio.nibabel_reader import affine_of
from samunet.preprocessing.backward import segmentation_from_logits

RESULTS = Path(__file__).parent / "results"
CASES = {
    "105 classes": {
        "classes": 105,
        "shape": (96, 112, 112),
        "new_shape": (160, 224, 224),
        "spacing": (1.5, 1.5, 1.5),
        "new_spacing": (0.9, 0.75, 0.75),
    },
    "14 classes": {
        "classes": 14,
        "shape": (100, 320, 320),
        "new_shape": (150, 512, 512),
        "spacing": (1.5, 0.8, 0.8),
        "new_spacing": (1.0, 0.5, 0.5),
    },
}
LIMITS = {"2G": "scores in memory", "768M": "scores in a file"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=["nnunet", "ours", "max_ram"], help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--content", help=argparse.SUPPRESS)
    parser.add_argument("--saved", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side == "max_ram":
        print(json.dumps(within(arguments.case)))
        return
    if arguments.side:
        print(json.dumps(measure(arguments.side, CASES[arguments.case], arguments.content, arguments.saved)))
        return
    result: dict[str, Any] = {"machine": {"cpu": processor_name(), "cpus": os.cpu_count()}, "export": {}, "max_ram": {}}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            for content in ("blobs", "noise"):
                rows: dict[str, list[dict]] = {"nnunet": [], "ours": []}
                for _ in range(arguments.repeats):
                    for side, found in rows.items():
                        found.append(
                            child(
                                "--side",
                                side,
                                "--case",
                                case,
                                "--content",
                                content,
                                "--saved",
                                str(Path(folder) / f"{side}.npy"),
                            )
                        )
                theirs, ours = (np.load(Path(folder) / f"{side}.npy") for side in rows)
                best = {
                    side: {key: min(row[key] for row in found) for key in ("seconds", "peak_mib")}
                    for side, found in rows.items()
                }
                best["ratio"] = {
                    key: round(best["nnunet"][key] / best["ours"][key], 1) for key in ("seconds", "peak_mib")
                }
                best["share_of_equal_voxels"] = round(float((theirs == ours).mean()), 7)
                result["export"][f"{case}, {content}"] = best
                print(case, content, json.dumps(best), flush=True)
    for limit in LIMITS:
        result["max_ram"][limit] = child("--side", "max_ram", "--case", limit)
        print(limit, json.dumps(result["max_ram"][limit]), flush=True)
    write_json(RESULTS / "export.json", result)


def child(*words: str) -> dict:
    """Run one measurement in a process of its own."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, __file__, *words], env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(side: str, case: dict, content: str, saved: Path) -> dict[str, float]:
    """Export once; importing and making the logits do not count."""
    logits = make_logits(case["classes"], case["shape"], content)
    run = nnunet_export(case) if side == "nnunet" else our_export(case)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what making the logits left free would hide growth
    before, began = start_peak(), time.perf_counter()
    segmentation = run(logits)
    seconds, peak = time.perf_counter() - began, peak_mib() - before
    np.save(saved, segmentation)
    return {"seconds": round(seconds, 2), "peak_mib": round(peak, 1)}


def make_logits(classes: int, shape: tuple[int, int, int], content: str) -> torch.Tensor:
    """Return (K, D, H, W) float32: a ball per class on a background, with noise; or noise alone."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(classes, *shape, generator=generator)
    if content == "noise":
        return logits
    logits *= 0.3
    grid = torch.meshgrid(*[torch.linspace(0, 1, size) for size in shape], indexing="ij")
    for plane in logits[1:]:
        center, radius = torch.rand(3, generator=generator), 0.05 + 0.1 * torch.rand(1, generator=generator)
        distance = sum((axis - at) ** 2 for axis, at in zip(grid, center, strict=True)).sqrt()
        plane += 10 * (1 - distance / radius).clamp(min=-1)
    logits[0] += 5 - logits[1:].amax(0)  # the background gives way inside structures
    return logits


def dataset_json(classes: int) -> dict:
    labels = {"background": 0, **{f"structure {value}": value for value in range(1, classes)}}
    return {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}


def our_export(case: dict) -> Any:
    whole = tuple((0, size) for size in case["new_shape"])
    history = SpatialHistory(
        geometry=Geometry(shape=case["new_shape"], spacing=case["new_spacing"]),
        transpose=(0, 1, 2),
        crop=whole,
        shape_after_crop=case["new_shape"],
        spacing_after_transpose=case["new_spacing"],
        shape_after_resample=case["shape"],
        spacing_after_resample=case["spacing"],
    )
    labels = parse_labels(dataset_json(case["classes"])["labels"])
    return lambda logits: segmentation_from_logits(logits, history, labels)


def nnunet_export(case: dict) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nnunetv2.inference.export_prediction import (
            convert_predicted_logits_to_segmentation_with_correct_shape as export,
        )
    plans = nnunet_plans(case["spacing"], (48, 112, 112), "CTNormalization")
    manager = plans.get_label_manager(dataset_json(case["classes"]))
    properties = {
        "spacing": case["new_spacing"],
        "shape_after_cropping_and_before_resampling": case["new_shape"],
        "shape_before_cropping": case["new_shape"],
        "bbox_used_for_cropping": [[0, size] for size in case["new_shape"]],
    }
    return lambda logits: export(
        logits, plans, plans.get_configuration("3d_fullres"), manager, properties, num_threads_torch=1
    )


def within(limit: str) -> dict[str, float | str]:
    """Predict the case of 105 classes into a folder under --max_ram; returns how much the process grew."""
    case = CASES["105 classes"]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_json(folder / "dataset.json", dataset_json(case["classes"]))
        spec = read_dataset_json(folder / "dataset.json")
        predictor = our_predictor(spec, case["spacing"], (48, 112, 112), "ct")
        image = np.random.default_rng(0).normal(size=case["new_shape"]).astype(np.float32)
        geometry = Geometry(shape=case["new_shape"], spacing=case["new_spacing"])
        (folder / "in").mkdir()
        nibabel.save(nibabel.Nifti1Image(image.T, affine_of(geometry)), folder / "in" / "case_0000.nii.gz")
        del image
        gc.collect()
        cases = pipeline.cases_to_predict(folder / "in", spec, folder / "out")
        watch = Anonymous()
        before = start_peak()
        began = time.perf_counter()
        failures = pipeline.predict(
            predictor, cases, folder / "out", pipeline.FileOptions(max_ram=parse_bytes(limit), quiet=True)
        ).failures
        seconds = time.perf_counter() - began
        if failures:
            raise SystemExit(str(failures))
        return {
            "scores": LIMITS[limit],
            "limit_mib": parse_bytes(limit) / 2**20,
            "growth_mib": round(peak_mib() - before),
            "growth_without_file_pages_mib": round(watch.stop()),
            "seconds": round(seconds, 2),
        }


class Anonymous:
    """Watches every 5 ms how much memory the process has of its own; `stop` returns the growth in MiB."""

    def __init__(self) -> None:
        self.start = self.peak = self._now()
        self.going = True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def _now(self) -> float:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) / 1024

    def _watch(self) -> None:
        while self.going:
            self.peak = max(self.peak, self._now())
            time.sleep(0.005)

    def stop(self) -> float:
        self.going = False
        self.thread.join()
        return self.peak - self.start


if __name__ == "__main__":
    main()
