"""What few references are worth: Dice of each few-shot method on cases that it never saw, with the shipped seed.

    nnUNet_raw=... python benchmarks/fewshot.py 4 35 45 [--references 1 3 5 10] [--targets 8] [--side 64]
    nnUNet_raw=... python benchmarks/fewshot.py 4 --references 3 10 --train 10

References and targets are drawn once, at random, and have no case in common; more references hold the fewer, and the
targets are the same for any number of them. Registration alone and the nearest reference's label as it is are the ones
to beat. What leave-one-reference-out expects of each method, and so what `auto` takes, stands beside. With --train, the
default network (vit_tiny, two patches a step, as the studies plan it, on all cases of the dataset) is trained on the
same references for that many minutes of processor time, and labels the same targets.
Writes benchmarks/results/fewshot.json after every case, and goes on where it stopped.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor_name
from study import HIPPOCAMPUS, PROSTATE, Row, place, prepare, train_and_predict

from samunet import pipeline
from samunet.core.codec import read_json, write_json
from samunet.core.dataset import Case, DatasetSpec, read_dataset_json, training_cases
from samunet.core.workspace import workspace_from_environment
from samunet.evaluation.score import names_from_labels, score_case, targets_from_labels
from samunet.evaluation.summary import target_key
from samunet.fewshot.examples import Example, References
from samunet.fewshot.methods import METHODS, FewShot, best_of
from samunet.fewshot.models import PlaneModel, model_named
from samunet.fewshot.registration import Registration
from samunet.imageio import reader_for
from samunet.imageio.case import read_case
from samunet.ops.overlap import overlap

RESULT = Path(__file__).parent / "results" / "fewshot.json"
MOST_REFERENCES = 10
TRAININGS = (
    HIPPOCAMPUS | {"memory_gib": 2.0},
    PROSTATE,
    {"dataset": 45, "configuration": "2d_adapter", "memory_gib": 2.0},
)


def drawn_examples(folder: Path, count: int) -> tuple[DatasetSpec, list[Case], list[Example]]:
    """Draw cases of a raw dataset at random, always in the same order, and read them."""
    spec = read_dataset_json(folder / "dataset.json")
    cases = training_cases(folder, spec)
    drawn = [cases[index] for index in np.random.default_rng(0).permutation(len(cases))[:count]]
    reader = reader_for(spec.file_ending, spec.reader, drawn[0].images[0])
    examples = []
    for case in drawn:
        volume, label = read_case(case, spec, reader)
        examples.append(Example(identifier=case.identifier, volume=volume, label=label))
    return spec, drawn, examples


def dice_of(few: FewShot, method: str, target: Example, examples: Sequence[Example] | None = None) -> dict[str, float]:
    """Label a case by some of the references; returns the Dice of each class, NaN where there is nothing to find."""
    label = few.propose(method, replace(target, label=None), examples).label
    return {
        name: float(overlap(target.known(), label, (value,), few.references.spec.labels.ignore).dice)
        for value, name in few.references.classes.items()
    }


def measure(folder: Path, counts: list[int], targets: int, model: PlaneModel, settings: Registration) -> None:
    spec, drawn, examples = drawn_examples(folder, MOST_REFERENCES + targets)
    for count in counts:
        references = References(spec=spec, cases=tuple(drawn[:count]), examples=tuple(examples[:count]))
        few = FewShot(references=references, model=model, registration=settings)
        row = _row(folder.name, count, targets=targets, side=settings.side)
        for target in examples[MOST_REFERENCES:]:
            if target.identifier not in row["cases"]:
                row["cases"][target.identifier] = _case(few, target)
                _save(row)
                few.forget(target.identifier)
        if "expected" not in row:
            scores = few.leave_one_out(METHODS, quiet=True)
            row["expected"] = {
                method: {references.classes[value]: dice for value, dice in parts.items()}
                for method, parts in scores.items()
            }
            row["auto"] = best_of(scores, few.untried)
            _save(row)


def _case(few: FewShot, target: Example) -> dict[str, Any]:
    """Label one case by every method; registration's pairs are shared, and count for the one that asks first."""
    result = {}
    for method in METHODS:
        begun = time.process_time()
        result[method] = {"dice": dice_of(few, method, target), "cpu_seconds": time.process_time() - begun}
    return result


def train_on(folder: Path, count: int, targets: int, minutes: float, work: Path) -> None:
    """Train the default network on the references alone, and score it on the targets."""
    row = _row(folder.name, count, targets=targets)
    if "trained" in row:
        return
    spec, drawn, _ = drawn_examples(folder, MOST_REFERENCES + targets)
    settings = next(one for one in TRAININGS if folder.name.startswith(f"Dataset{one['dataset']:03}"))
    training = Row(name="on the references", minutes=minutes, train_cases=count, **settings)
    prepare(training, work)
    shared, cases = place(training, work), drawn[MOST_REFERENCES:]
    halves = {"train": drawn[:count], "val": cases}
    split = {half: sorted(case.identifier for case in part) for half, part in halves.items()}
    write_json(shared.preprocessed / folder.name / "splits_final.json", [split])
    dataset, predictions = pipeline.open_dataset(shared, training.dataset), work / f"{folder.name}_{count}"
    cost = train_and_predict(training, work, shared, dataset, cases, predictions)
    names, options = names_from_labels(spec.labels), {"ignore": spec.labels.ignore, "reader": dataset.reader}
    dice = {}
    for case in cases:
        labels = case.label, predictions / f"{case.identifier}{spec.file_ending}"
        score = score_case(*labels, targets=targets_from_labels(spec.labels), **options)
        dice[case.identifier] = {names[target_key(part)]: one.dice for part, one in score.metrics.items()}
    _save(_row(folder.name, count, targets=targets) | {"trained": {"training": asdict(training), "dice": dice, **cost}})


def _row(dataset: str, count: int, **settings: int) -> dict[str, Any]:
    """Return the row that was begun with the same settings, or a new one."""
    rows = read_json(RESULT)["rows"] if RESULT.is_file() else []
    sought = {"dataset": dataset, "references": count} | settings
    return next((row for row in rows if row.items() >= sought.items()), sought | {"cases": {}})


def _save(row: dict[str, Any]) -> None:
    rows = read_json(RESULT)["rows"] if RESULT.is_file() else []
    kept = [one for one in rows if (one["dataset"], one["references"]) != (row["dataset"], row["references"])]
    rows = sorted([*kept, row], key=lambda one: (one["dataset"], one["references"]))
    write_json(RESULT, {"processor": processor_name(), "rows": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--references", type=int, nargs="+", default=[1, 3, 5, MOST_REFERENCES])
    parser.add_argument("--targets", type=int, default=8)
    parser.add_argument("--side", type=int, default=64, help="of images for registration")
    parser.add_argument("--train", type=float, metavar="MINUTES", help="train on the references instead")
    parser.add_argument("--work", type=Path, help="folder for plans, cases and models (default: a temporary one)")
    asked = parser.parse_args()
    workspace, model = workspace_from_environment(), model_named("seed", device="cpu")
    work = asked.work or Path(tempfile.mkdtemp(prefix="samunet-fewshot-"))
    for dataset in asked.datasets:
        folder = workspace.raw / workspace.dataset_name(dataset)
        counts = sorted(asked.references)
        if asked.train is None:
            measure(folder, counts, asked.targets, model, Registration(side=asked.side))
        else:
            for count in counts:
                train_on(folder, count, asked.targets, asked.train, work)


if __name__ == "__main__":
    main()
