"""Whole commands of this checkout and of an earlier one in turns: preprocessing, training, prediction with one model.

    git worktree add ../before REVISION
    python benchmarks/before_after.py --before ../before --datasets 4 35 45 --runs 5  # nnUNet_raw holds them

For each dataset both sides plan and preprocess it into empty folders (two cases at a time), train --steps steps of what
they planned, and segment the same images with the same model, trained for two steps by the earlier checkout. Times are
processor time and time of day of the command with all its processes; the ratio is that of each pair of runs, its median
is quoted. Each command computes with one thread. Writes benchmarks/results/before_after.json, where rows of other
datasets and commands stay that were measured against the same revision on the same processor. Nothing else should run
meanwhile.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import processor_name

from samunet.core.codec import read_json, write_json
from samunet.core.units import counted
from samunet.core.workspace import workspace_from_environment

RESULTS = Path(__file__).parent / "results"
HERE = Path(__file__).parents[1]
PLANNING = "plan and preprocess"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="checkout to compare with")
    parser.add_argument("--datasets", nargs="+", default=["4"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--images", type=int, default=12, help="images predicted per run; 0 for none")
    parser.add_argument("--steps", type=int, default=20, help="of a training; 0 for none")
    parser.add_argument("--no_planning", action="store_true", help="time the other commands only")
    arguments = parser.parse_args()
    workspace = workspace_from_environment()
    asked = ["git", "-C", str(arguments.before), "rev-parse", "--short", "HEAD"]
    revision = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    path = RESULTS / "before_after.json"
    settings = {"machine": {"cpu": processor_name(), "cpus": os.cpu_count()}, "before": revision}
    known = read_json(path) if path.is_file() else {}
    rows = known["rows"] if known.items() >= settings.items() else []
    for wanted in arguments.datasets:
        name = workspace.dataset_name(wanted)
        with tempfile.TemporaryDirectory() as folder:
            found = compare(name, workspace.raw, Path(folder), arguments)
        timed = {(row["dataset"], row["task"]) for row in found}
        rows = [row for row in rows if (row["dataset"], row["task"]) not in timed] + found
        write_json(path, settings | {"rows": rows})


def compare(name: str, raw: Path, work: Path, asked: argparse.Namespace) -> list[dict]:
    """Time the commands on one dataset; returns a row for each."""
    number, planar = name[7:10], any((raw / name / "imagesTr").glob("*.png"))
    configuration = "2d_adapter" if planar else "3d_adapter"
    planning = (
        f"plan_and_preprocess -d {number} -c {configuration} -np 2 -npfp 2 -gpu_memory_target 1 --no_pbar".split()
    )
    training = f"train {number} {configuration} 0 --epochs 1 -device cpu --skip_validation --iterations".split()
    predicting = ["predict", "-i", str(work / "images"), "-o", str(work / "out"), "-d", number]
    predicting += ["-device", "cpu", "--disable_tta", "--disable_progress_bar"]
    (work / "images").mkdir()
    for path in sorted((raw / name / "imagesTr").iterdir())[: asked.images]:
        shutil.copy(path, work / "images")
    sides = {"before": asked.before, "after": HERE}
    for side in sides:  # reads every file once, and trains the model that both predict with
        run(planning, sides[side], raw, work / side)
    # By task: the words, and the folder that each run finds empty; both predict with the model of one side.
    tasks: dict[str, tuple[list[str], str]] = {} if asked.no_planning else {PLANNING: (planning, "preprocessed")}
    if asked.images:
        run([*training, "2"], asked.before, raw, work / "before")
        tasks[f"predict {counted(asked.images, 'image')}"] = predicting, ""
    if asked.steps:  # last: it takes the place of that model
        tasks[f"train {counted(asked.steps, 'step')}"] = [*training, str(asked.steps)], "results"
    rows = []
    for task, (words, emptied) in tasks.items():
        taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for turn in range(asked.runs):
            for side in sides if turn % 2 == 0 else reversed(sides):
                folder = work / (side if emptied else "before")
                shutil.rmtree(work / "out", ignore_errors=True)
                if emptied:
                    shutil.rmtree(folder / emptied)
                taken[side].append(run(words, sides[side], raw, folder))
        ratios = [[a[what] / b[what] for a, b in zip(taken["after"], taken["before"], strict=True)] for what in (0, 1)]
        row = {
            "dataset": name,
            "task": task,
            **{f"{side}_cpu_seconds": round(statistics.median(cpu for cpu, _ in taken[side]), 2) for side in sides},
            **{f"{side}_wall_seconds": round(statistics.median(wall for _, wall in taken[side]), 2) for side in sides},
            "cpu_ratio": round(statistics.median(ratios[0]), 3),
            "wall_ratio": round(statistics.median(ratios[1]), 3),
            "wall_ratios": [round(ratio, 3) for ratio in ratios[1]],
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def run(words: list[str], checkout: Path, raw: Path, work: Path) -> tuple[float, float]:
    """Run a command of a checkout; returns its processor time and its time of day in seconds."""
    for folder in ("preprocessed", "results"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    environment = (
        os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | {"PYTHONPATH": str(checkout)}
    )
    environment |= {
        "nnUNet_raw": str(raw),
        "nnUNet_preprocessed": str(work / "preprocessed"),
        "nnUNet_results": str(work / "results"),
    }
    call = f"import sys; from samunet.cli.{words[0]} import main; sys.exit(main(sys.argv[1:]))"
    used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", call, *words[1:]], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{checkout}: {words[0]} failed: {done.stderr[-2000:]}")
    wall, now = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, wall


if __name__ == "__main__":
    main()
