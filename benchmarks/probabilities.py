"""Files of probabilities: 40 classes on 512 x 512 x 200 voxels, as float32 and as samunet stores them.

    python benchmarks/probabilities.py

Logits are smooth blobs with noise on them, on a grid of half as many voxels on each axis of the plane. Each measurement
is a process of its own with one thread: processor seconds from logits to the file, its size, and the growth of the
process's peak memory. With all digits that takes so long that it is measured on 25 of the 200 slices, samunet's way on
25 and on all; on 25 also for logits of noise alone, the worst case. Last, on the 25 slices, how many voxels get another
label because of rounding, in one file and in the ensemble of two whose members differ by noise, and the lowest Dice
score of a class between the labels with and without it. Writes benchmarks/results/probabilities.json after every step;
steps that are there are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from export import dataset_json, make_logits
from machine import processor_name

from samunet.core.codec import write_json
from samunet.core.geometry import Geometry
from samunet.core.history import SpatialHistory
from samunet.core.labels import parse_labels
from samunet.core.memory import peak_mib, start_peak
from samunet.inference.ensemble import mean_planes
from samunet.inference.probabilities import write_probabilities
from samunet.ops.overlap import overlap
from samunet.preprocessing.backward import label_values, probability_planes

RESULTS = Path(__file__).parent / "results" / "probabilities.json"
CLASSES = 40
LABELS = parse_labels(dataset_json(CLASSES)["labels"])
STEPS = {
    "ours": ("ours", 25),
    "float32": ("float32", 25),
    "labels": ("labels", 25),
    "ours, whole case": ("ours", 200),
    "ours, noise": ("noise", 25),
}
NOISE = 0.3  # of logits, between the members of the ensemble


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        side, slices = STEPS[arguments.step]
        print(json.dumps(changed_labels(slices) if side == "labels" else measure(side, slices)))
        return
    result: dict[str, Any] = {"machine": {"cpu": processor_name(), "cpus": os.cpu_count()}, "classes": CLASSES}
    result = json.loads(RESULTS.read_text()) if RESULTS.is_file() else result
    for step in STEPS:
        if step not in result:
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
            words = [sys.executable, __file__, "--step", step]
            done = subprocess.run(words, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=True)
            result[step] = json.loads(done.stdout.splitlines()[-1])
            write_json(RESULTS, result)
            print(step, result[step], flush=True)


def history_of(slices: int) -> SpatialHistory:
    shape = (slices, 512, 512)
    return SpatialHistory(
        geometry=Geometry(shape=shape, spacing=(1.5, 0.8, 0.8)),
        transpose=(0, 1, 2),
        crop=((0, slices), (0, 512), (0, 512)),
        shape_after_crop=shape,
        spacing_after_transpose=(1.5, 0.8, 0.8),
        shape_after_resample=(slices, 256, 256),
        spacing_after_resample=(1.5, 1.6, 1.6),
    )


def measure(side: str, slices: int) -> dict[str, float]:
    """Write one file."""
    content = "noise" if side == "noise" else "blobs"
    logits, history = make_logits(CLASSES, (slices, 256, 256), content), history_of(slices)
    with tempfile.TemporaryDirectory() as folder:
        path, before, began = Path(folder) / "case.npz", start_peak(), time.process_time()
        write = write_float32 if side == "float32" else write_probabilities
        write(path, probability_planes(logits, history, LABELS), CLASSES)
        seconds = time.process_time() - began
        return {
            "slices": slices,
            "cpu_seconds": round(seconds, 1),
            "mib": round(path.stat().st_size / 2**20),
            "peak_mib": round(peak_mib() - before),
        }


def write_float32(path: Path, planes: Iterable[np.ndarray], count: int) -> None:
    """Write all digits, compressed as samunet compresses."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("probabilities.npy", "w", force_zip64=True) as file,
    ):
        for channel, plane in enumerate(planes):
            if channel == 0:
                np.lib.format.write_array_header_1_0(
                    file, {"descr": "<f4", "fortran_order": False, "shape": (count, *plane.shape)}
                )
            file.write(plane.data)


def changed_labels(slices: int) -> dict[str, Any]:
    """Compare labels from probabilities with all digits and from stored ones."""
    history, first = history_of(slices), make_logits(CLASSES, (slices, 256, 256), "blobs")
    members = [first, first + NOISE * torch.randn(first.shape, generator=torch.Generator().manual_seed(1))]
    found: dict[str, Any] = {"voxels": int(np.prod(history.geometry.shape))}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.npz" for index in range(len(members))]
        for path, logits in zip(paths, members, strict=True):
            write_probabilities(path, probability_planes(logits, history, LABELS), CLASSES)
        for name, count in (("one", 1), ("ensemble", 2)):
            planes = zip(*(probability_planes(logits, history, LABELS) for logits in members[:count]), strict=True)
            exact = label_values((sum(parts) / count for parts in planes), LABELS, above=0.5)
            stored = label_values(mean_planes(paths[:count], (CLASSES, *history.geometry.shape)), LABELS, above=0.5)
            dice = [overlap(exact, stored, (value,)).dice for value in range(CLASSES)]
            found[name] = {
                "changed": int(np.count_nonzero(exact != stored)),
                "lowest_dice": round(float(np.nanmin(dice)), 6),
            }
    return found


if __name__ == "__main__":
    main()
