"""Train one fold through the commands, predict its validation cases through samunet_predict, and score them.

    python benchmarks/learning.py 4 3d_adapter --name hippocampus --train="--epochs 40 --iterations 55 --batch_size 2"

Reads nnUNet_raw; plans, cases and models go to a work folder. Writes benchmarks/results/learning_<name>.json with the
commands, the seconds of each, the learning curve and Dice of every class, and beside it the training's progress.png.
Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import processor_name

from samunet.checkpoints.file import load_checkpoint
from samunet.core.codec import read_json, write_json
from samunet.core.dataset import training_cases
from samunet.core.names import DEFAULT_PLANS_NAME
from samunet.core.results import model_folder
from samunet.core.workspace import workspace_from_environment
from samunet.evaluation.score import names_from_labels
from samunet.evaluation.summary import read_summary, target_key
from samunet.pipeline import open_dataset

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--fold", default="0")
    parser.add_argument("--plan", default="", help="further options of samunet_plan_and_preprocess")
    parser.add_argument("--train", default="", help="further options of samunet_train")
    parser.add_argument("--predict", default="", help="further options of samunet_predict")
    parser.add_argument("--work", type=Path, help="folder for plans, cases and models (default: a temporary one)")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="samunet-learning-"))
    os.environ |= {"nnUNet_preprocessed": str(work / "preprocessed"), "nnUNet_results": str(work / "results")}
    workspace = workspace_from_environment()
    dataset = open_dataset(workspace, arguments.dataset)
    which = [arguments.dataset, arguments.configuration, arguments.fold]
    steps = {
        "plan_and_preprocess": [
            "samunet_plan_and_preprocess",
            "-d",
            arguments.dataset,
            "-c",
            arguments.configuration,
            *shlex.split(arguments.plan),
        ],
        "train": ["samunet_train", *which, *shlex.split(arguments.train)],
    }
    seconds = {name: _run(command) for name, command in steps.items()}
    fold = (
        model_folder(workspace, dataset.spec.name, DEFAULT_PLANS_NAME, arguments.configuration)
        / f"fold_{arguments.fold}"
    )
    val = read_json(workspace.preprocessed / dataset.spec.name / "splits_final.json")[int(arguments.fold)]["val"]
    images, labels, predictions = work / "val_images", work / "val_labels", work / "val_predictions"
    _link_cases(dataset.folder, dataset, val, images, labels)
    steps |= {
        "predict": [
            "samunet_predict",
            "-i",
            str(images),
            "-o",
            str(predictions),
            "-f",
            arguments.fold,
            *shlex.split(arguments.predict),
        ],
        "evaluate": [
            "samunet_evaluate_folder",
            str(labels),
            str(predictions),
            "-djfile",
            str(dataset.folder / "dataset.json"),
        ],
    }
    for name in ("predict", "evaluate"):
        seconds[name] = _run(steps[name])
    summary = read_summary(predictions / "summary.json")
    names = names_from_labels(dataset.spec.labels)
    state = load_checkpoint(fold / "checkpoint_final.safetensors", with_optimizer=False).state
    RESULTS.mkdir(exist_ok=True)
    shutil.copyfile(fold / "progress.png", RESULTS / f"learning_{arguments.name}.png")
    result = {
        "commands": [
            " ".join(command).replace(str(work), "WORK").replace(str(dataset.folder.parent), "nnUNet_raw")
            for command in steps.values()
        ],
        "machine": {"cpu_threads": torch.get_num_threads(), "cpu": processor_name(), "torch": torch.__version__},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "training_minutes": round(_training_seconds(fold) / 60, 2),
        "steps": state.step,
        "validation_cases": len(val),
        "dice": {names[target_key(target)]: round(metrics.dice, 4) for target, metrics in summary.mean.items()},
        "mean_foreground_dice": round(summary.foreground_mean.dice, 4),
        "union_dice": _union_dice(dataset, val, labels, predictions),
        "curve": {
            name: [None if value is None else round(value, 4) for value in values]
            for name, values in state.history.items()
        },
    }
    write_json(RESULTS / f"learning_{arguments.name}.json", result)
    print(json.dumps({key: value for key, value in result.items() if key != "curve"}, indent=2))


def _run(command: list[str]) -> float:
    print("$", " ".join(command), flush=True)
    began = time.monotonic()
    subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=True)
    return time.monotonic() - began


def _link_cases(folder: Path, dataset, identifiers: list[str], images: Path, labels: Path) -> None:
    for target in (images, labels):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
    for case in training_cases(folder, dataset.spec):
        if case.identifier in identifiers:
            for path in case.images:
                (images / path.name).symlink_to(path.resolve())
            (labels / case.label.name).symlink_to(case.label.resolve())


def _training_seconds(fold: Path) -> float:
    """First step to last with the per-epoch validation, from the log: what a training budget counts."""
    lines = (fold / "training_log.txt").read_text().splitlines()
    return sum(float(line.split(" s, ")[0].rsplit(" ", 1)[1]) for line in lines if line.startswith("epoch "))


def _union_dice(dataset, identifiers: list[str], labels: Path, predictions: Path) -> float:
    """Mean over cases of the Dice of all foreground classes taken as one."""
    scores = []
    for identifier in identifiers:
        reference, prediction = (
            dataset.reader.read_label(folder / f"{identifier}{dataset.spec.file_ending}")[0] > 0
            for folder in (labels, predictions)
        )
        scores.append(2 * (reference & prediction).sum() / max(1, reference.sum() + prediction.sum()))
    return round(float(sum(scores) / len(scores)), 4)


if __name__ == "__main__":
    main()
