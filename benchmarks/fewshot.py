"""What few references are worth: Dice of each few-shot method on cases that it never saw, with the shipped seed.

    nnUNet_raw=... python benchmarks/fewshot.py 4 35 45 [--references 1 3 5] [--targets 8] [--side 64]

References and targets are drawn once, at random, and have no case in common; more references hold the fewer.
Registration alone and the nearest reference's label as it is are the ones to beat. What leave-one-reference-out expects
of each method, and so what `auto` takes, stands beside. Writes benchmarks/results/fewshot.json after every case, and
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor_name

from samunet.core.codec import read_json, write_json
from samunet.core.dataset import read_dataset_json, training_cases
from samunet.core.workspace import workspace_from_environment
from samunet.fewshot.examples import Example, References
from samunet.fewshot.methods import METHODS, FewShot, best_of
from samunet.fewshot.models import PlaneModel, model_named
from samunet.fewshot.registration import Registration
from samunet.imageio import reader_for
from samunet.imageio.case import read_case
from samunet.ops.overlap import overlap

RESULT = Path(__file__).parent / "results" / "fewshot.json"


def measure(folder: Path, counts: list[int], targets: int, model: PlaneModel, settings: Registration) -> None:
    spec = read_dataset_json(folder / "dataset.json")
    cases = training_cases(folder, spec)
    order = np.random.default_rng(0).permutation(len(cases))
    drawn = [cases[index] for index in order[: max(counts) + targets]]
    reader = reader_for(spec.file_ending, spec.reader, drawn[0].images[0])
    examples = []
    for case in drawn:
        volume, label = read_case(case, spec, reader)
        examples.append(Example(identifier=case.identifier, volume=volume, label=label))
    for count in counts:
        references = References(spec=spec, cases=tuple(drawn[:count]), examples=tuple(examples[:count]))
        few = FewShot(references=references, model=model, registration=settings)
        row = _row(folder.name, count)
        if "expected" not in row:
            scores = few.leave_one_out(METHODS, quiet=True)
            row["expected"] = {
                method: {references.classes[value]: dice for value, dice in parts.items()}
                for method, parts in scores.items()
            }
            row["auto"] = best_of(scores, few.untried)
            _save(row)
        for target in examples[max(counts) :]:
            if target.identifier not in row["cases"]:
                row["cases"][target.identifier] = _case(few, target)
                _save(row)
                few.forget(target)


def _case(few: FewShot, target: Example) -> dict[str, Any]:
    """Label one case by every method; registration's pairs are shared, and count for the one that asks first."""
    result = {}
    image = replace(target, label=None)
    for method in METHODS:
        begun = time.process_time()
        label = few.propose(method, image).label
        dice = {
            name: float(overlap(target.known(), label, (value,), few.references.spec.labels.ignore).dice)
            for value, name in few.references.classes.items()
        }
        result[method] = {"dice": dice, "cpu_seconds": time.process_time() - begun}
    return result


def _row(dataset: str, count: int) -> dict[str, Any]:
    rows = read_json(RESULT)["rows"] if RESULT.is_file() else []
    found = [row for row in rows if (row["dataset"], row["references"]) == (dataset, count)]
    return found[0] if found else {"dataset": dataset, "references": count, "cases": {}}


def _save(row: dict[str, Any]) -> None:
    rows = read_json(RESULT)["rows"] if RESULT.is_file() else []
    kept = [one for one in rows if (one["dataset"], one["references"]) != (row["dataset"], row["references"])]
    rows = sorted([*kept, row], key=lambda one: (one["dataset"], one["references"]))
    write_json(RESULT, {"processor": processor_name(), "rows": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--references", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--targets", type=int, default=8)
    parser.add_argument("--side", type=int, default=64, help="of images for registration")
    asked = parser.parse_args()
    workspace, model = workspace_from_environment(), model_named("seed", device="cpu")
    for dataset in asked.datasets:
        folder = workspace.raw / workspace.dataset_name(dataset)
        measure(folder, sorted(asked.references), asked.targets, model, Registration(side=asked.side))


if __name__ == "__main__":
    main()
