"""Train promptable networks on one dataset for equal minutes, and show all of them the same clicks and boxes.

    nnUNet_raw=... python benchmarks/interactive.py --datasets 4 [--minutes 20]

A row is one training on fold 0, of one thread; minutes are its processor time. Validation cases are segmented whole
with prompts made from their references: 1, 3 or 5 clicks for an object as a whole (for networks that take them so), one
in each slice of it, and one box. Writes benchmarks/results/interactive.json, where rows of other datasets stay.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor_name
from study import PROSTATE, Row, place, prepare, train, validation_cases

from samunet import pipeline
from samunet.core.codec import read_json, write_json
from samunet.evaluation.score import score_case, targets_from_labels
from samunet.inference.files import predict_cases
from samunet.inference.load import load_predictor
from samunet.inference.options import FileOptions
from samunet.inference.predictor import PredictionOptions
from samunet.machine.hardware import keep_freed_memory
from samunet.pipeline.options import Clicking
from samunet.pipeline.simulated_prompts import prompts_from_references

RESULT = Path(__file__).parent / "results" / "interactive.json"
U_NET, MAPS = {"sam_path": False}, {"class_tokens": False}
NETWORKS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "3d_adapter_prompted, U-Net alone, from the seed": ("3d_adapter_prompted", U_NET, "seed"),
    "3d_adapter_prompted, U-Net alone": ("3d_adapter_prompted", U_NET, None),
    "3d_adapter_prompted": ("3d_adapter_prompted", {}, None),
    "3d_adapter_prompted, prompts as maps only": ("3d_adapter_prompted", MAPS, None),
    "3d_ma_sam_prompted": ("3d_ma_sam_prompted", {}, None),
    "3d_med_sa_prompted": ("3d_med_sa_prompted", {}, None),
}
PROMPTS = {f"{number} in all": Clicking(points=number, whole=True) for number in (1, 3, 5)}
PROMPTS |= {"1 per slice": Clicking(points=1), "box": Clicking(points=0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=int, nargs="+", default=[4])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--names", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--work", type=Path, help="folder for plans, cases and models (default: a temporary one)")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="samunet-interactive-"))
    if arguments.one:
        keep_freed_memory()
        print(json.dumps(run(row_of(arguments.one[0], int(arguments.one[1]), arguments.minutes), work)))
        return
    wanted = [(name, number) for number in arguments.datasets for name in arguments.names]
    for name, number in wanted:
        prepare(row_of(name, number, arguments.minutes), work)

    def measured(asked: tuple[str, int]) -> dict[str, Any]:
        command = [sys.executable, __file__, "--work", str(work), "--minutes", str(arguments.minutes)]
        command += ["--one", asked[0], str(asked[1])]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        print(asked, row["dice"], flush=True)
        return row

    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(measured, wanted))
    before = read_json(RESULT)["rows"] if RESULT.is_file() else []
    kept = [row for row in before if (row["name"], row["dataset"]) not in wanted]
    write_json(RESULT, {"machine": {"cpu": processor_name(), "threads_a_job": 1}, "rows": kept + rows})


def row_of(name: str, dataset: int, minutes: float) -> Row:
    configuration, options, pretrained = NETWORKS[name]
    return Row(
        name=name,
        minutes=minutes,
        **(PROSTATE if dataset == PROSTATE["dataset"] else {"dataset": dataset, "memory_gib": 2.0}),
        configuration=configuration,
        options=options,
        pretrained=pretrained,
    )


def run(row: Row, work: Path) -> dict[str, Any]:
    """Train a row, and score its validation cases with every kind of prompts."""
    shared = place(row, work)
    dataset = pipeline.open_dataset(shared, row.dataset)
    cases = validation_cases(row, shared, dataset)
    fold, cost = train(row, work, shared, dataset)
    predictor = load_predictor(
        fold.parent, folds=[row.fold], device="cpu", options=PredictionOptions(flips=False, quiet=True)
    )
    labels, dice = dataset.spec.labels, {}
    for kind, clicking in PROMPTS.items():
        if clicking.whole and not predictor.whole_object:
            continue
        prompts = prompts_from_references(cases, dataset.spec, dataset.reader, clicking, plan=predictor.plan)
        predictions = fold / f"predictions, {kind}"
        if failures := predict_cases(predictor, cases, predictions, FileOptions(quiet=True, prompts=prompts)).failures:
            raise RuntimeError(str(failures))
        scores = [
            score_case(
                case.label,
                predictions / f"{case.identifier}{dataset.spec.file_ending}",
                targets=targets_from_labels(labels),
                ignore=labels.ignore,
                reader=dataset.reader,
            )
            for case in cases
        ]
        means = [np.nanmean([metrics.dice for metrics in score.metrics.values()]) for score in scores]
        dice[kind] = round(float(np.mean(means)), 4)
    return {"name": row.name, "dataset": row.dataset, "cases": len(cases), "dice": dice, "row": asdict(row), **cost}


if __name__ == "__main__":
    main()
