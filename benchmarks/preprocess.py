"""Preprocessing: nnU-Net's and ours on the same cases with the same number of workers.

    python benchmarks/preprocess.py --dataset 4 --workers 2        # nnUNet_raw holds the dataset

Two measurements. Resampling: nnU-Net's function and ours, in turns in one process, on the dataset's own images and
labels brought to another spacing; largest difference of images as a share of their range, and share of equal label
voxels. The whole: both plan_and_preprocess commands, each into an empty folder, wall time and the peak of the memory of
all its processes together. All sides compute with one thread per worker, and every raw file is read once before. Writes
benchmarks/results/preprocess_<dataset>.json. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from machine import processor_name

from samunet import pipeline
from samunet.core.codec import write_json
from samunet.core.workspace import workspace_from_environment
from samunet.ops.resample import resample_image, resample_label, target_shape, thick_axis

RESULTS = Path(__file__).parent / "results"
ZOOM = 0.8  # of the spacing: every case is really resampled
MOST_CASES = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="4")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--resampling-only", action="store_true")
    arguments = parser.parse_args()
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # read when numpy loads
        os.execve(
            sys.executable,
            [sys.executable, *sys.argv],
            os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        )
    workspace = workspace_from_environment()
    dataset = pipeline.open_dataset(workspace, arguments.dataset)
    for case in dataset.cases:
        for path in (*case.images, case.label):
            path.read_bytes()
    result = {
        "machine": {"cpu": processor_name(), "cpus": os.cpu_count()},
        "dataset": dataset.spec.name,
        "cases": len(dataset.cases),
        "workers": arguments.workers,
        "resampling": resampling(dataset),
    }
    print(json.dumps(result["resampling"]), flush=True)
    if not arguments.resampling_only:
        result["whole"] = whole(
            workspace.raw, dataset.spec.name, arguments.workers, planar=dataset.spec.file_ending == ".png"
        )
    write_json(RESULTS / f"preprocess_{dataset.spec.name}.json", result)
    print(json.dumps(result, indent=2))


def resampling(dataset: pipeline.RawDataset) -> dict:
    """Time both functions on whole cases; the first case warms up."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    seconds = {"image": {"nnunet": 0.0, "ours": 0.0}, "label": {"nnunet": 0.0, "ours": 0.0}}
    worst, equal, voxels = 0.0, 0, 0
    for number, case in enumerate(dataset.cases[: MOST_CASES + 1]):
        volume = dataset.reader.read_image(case.images)
        label, _ = dataset.reader.read_label(case.label)
        spacing = volume.geometry.spacing
        new_spacing = tuple(value * ZOOM for value in spacing)
        new_shape = target_shape(volume.geometry.shape, spacing, new_spacing)
        axis = 0 if volume.geometry.planar else thick_axis(spacing, new_spacing)
        grids, rule = (new_shape, spacing, new_spacing), {"order_z": 0, "force_separate_z": None}
        image_theirs, a = timed(
            resample_data_or_seg_to_shape, volume.array.copy(), *grids, is_seg=False, order=3, **rule
        )
        image_ours, b = timed(resample_image, volume.array, new_shape, axis=axis)
        label_theirs, c = timed(resample_data_or_seg_to_shape, label[None].copy(), *grids, is_seg=True, order=1, **rule)
        label_ours, d = timed(resample_label, label, new_shape, axis=axis)
        label_theirs = label_theirs[0]
        worst = max(worst, float(np.abs(image_theirs - image_ours).max() / np.ptp(volume.array)))
        equal, voxels = equal + int((label_theirs == label_ours).sum()), voxels + label_ours.size
        if number:
            for kind, values in (("image", (a, b)), ("label", (c, d))):
                for side, value in zip(("nnunet", "ours"), values, strict=True):
                    seconds[kind][side] += value
    ratios = {kind: round(sides["nnunet"] / sides["ours"], 1) for kind, sides in seconds.items()}
    together = sum(sides["nnunet"] for sides in seconds.values()) / sum(sides["ours"] for sides in seconds.values())
    return {
        "seconds": {kind: {side: round(value, 4) for side, value in sides.items()} for kind, sides in seconds.items()},
        "faster": {**ratios, "together": round(together, 1)},
        "largest_image_difference": worst,
        "equal_label_voxels": equal / voxels,
    }


def timed(function, *given, **named):
    began = time.perf_counter()
    result = function(*given, **named)
    return result, time.perf_counter() - began


def whole(raw: Path, dataset: str, workers: int, *, planar: bool) -> dict:
    """Run both commands on the whole dataset."""
    number = str(int(dataset[len("Dataset") :].split("_")[0]))
    threads = ["-npfp", str(workers), "-np", str(workers)]
    sides = {
        "nnunet": ["nnUNetv2_plan_and_preprocess", "-d", number, "-c", "2d" if planar else "3d_fullres", *threads],
        "ours": [
            "samunet_plan_and_preprocess",
            "-d",
            number,
            "-c",
            "2d_adapter" if planar else "3d_adapter",
            "-backbone",
            "vit_tiny",
            *threads,
        ],
    }
    result: dict[str, dict | float] = {}
    for side, command in sides.items():
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {
                "nnUNet_preprocessed": f"{folder}/preprocessed",
                "nnUNet_results": f"{folder}/results",
                "nnUNet_raw": str(raw),
            }
            result[side] = run(command, environment) | {"command": " ".join(command)}
        print(side, result[side], flush=True)
    theirs, ours = result["nnunet"], result["ours"]
    return {
        **result,
        "faster": round(theirs["seconds"] / ours["seconds"], 2),
        "memory_ratio": round(ours["peak_mib"] / theirs["peak_mib"], 2),
    }


def run(command: list[str], environment: dict[str, str]) -> dict:
    """Run a command; returns wall seconds and the peak memory of it and its children (proportional set size)."""
    peak, began = 0.0, time.perf_counter()
    path, done = Path(sys.executable).parent / command[0], threading.Event()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([str(path), *command[1:]], env=environment, stdout=subprocess.DEVNULL, stderr=said)

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.1):
                peak = max(peak, sum(map(proportional_mib, tree(process.pid))))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - began
        done.set()
        watcher.join()
        said.seek(0)
        if code:
            raise SystemExit(f"{' '.join(command)} ended with {code}: {said.read()[-2000:]}")
    return {"seconds": round(seconds, 2), "peak_mib": round(peak)}


def tree(root: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, open_ = [], [root]
    while open_:
        found.append(open_.pop())
        open_ += children.get(found[-1], [])
    return found


def proportional_mib(process: int) -> float:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    main()
