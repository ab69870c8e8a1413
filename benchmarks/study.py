"""Train variants of a configuration for equal minutes and compare them case by case.

    python benchmarks/study.py sam_unet_ranking  # the rows of STUDIES below, two single-thread jobs side by side

Each row is one training: an entry of the plan with some keys replaced, the same split and seed, and a schedule that
ends at the budget. Minutes are CPU time of the training process, which has one thread, so that what else the machine
does changes little; short trainings are timed first and tell how many steps fit. A row may be nnU-Net instead (extra
"nnunet"), with the same split, batch size, memory target and target spacing. Validation cases are predicted whole,
without mirroring, and scored. A row whose key (dataset, fold, plan entry, code, budget, seed) is already in
benchmarks/results/study_<name>.json is not run again, and every row is written when it ends, so a study can be
interrupted. Reads nnUNet_raw; the rest goes to the work folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import nnunet_run
import numpy as np
from machine import processor_name

import samunet
from samunet import pipeline
from samunet.core.codec import encode, read_json, write_json
from samunet.core.dataset import Case
from samunet.core.names import DEFAULT_PLANS_NAME
from samunet.core.plan import Topology, save_plan
from samunet.core.workspace import Workspace, workspace_from_environment
from samunet.evaluation.score import CaseScore, names_from_labels, score_case, targets_from_labels
from samunet.evaluation.summary import summarize, target_key
from samunet.inference.files import predict_cases
from samunet.inference.load import load_predictor
from samunet.inference.options import FileOptions
from samunet.inference.predictor import PredictionOptions
from samunet.machine.hardware import keep_freed_memory
from samunet.training.config import TrainingConfig
from samunet.training.log import RECORDS, read_records

RESULTS = Path(__file__).parent / "results"
NOT_TRAINED_BY = ("cli", "checking", "importing", "phantom.py")
# The second less the first: without start and end.
SHORT = ({"epochs": 1, "iterations": 10}, {"epochs": 4, "iterations": 10})
EPOCHS = 10
NNUNET = "nnU-Net as shipped"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training of a study."""

    name: str
    dataset: int
    minutes: float
    configuration: str = "3d_adapter"
    memory_gib: float = 8.0
    spacing: tuple[float, float, float] | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    """Keys of the plan's configuration that are replaced."""
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the variant's Config."""
    training: dict[str, Any] = field(default_factory=lambda: {"batch_size": 2})
    """Training settings."""
    fold: str = "0"
    seed: int = 0
    train_cases: int = 0
    """Cases of the fold's training half that are used, the first ones; 0 for all."""
    pretrained: str | None = None
    """Weights to start from."""
    mirrored: bool = False
    """Predict and score with mirroring too, as the commands do."""


VARIANTS: dict[str, dict[str, Any]] = {
    "all parts": {"options": {"depth_adapters": "yes"}},
    "control: no SAM path": {"options": {"sam_path": False}},
    "injection at one stage": {"options": {"injection": "one"}},
    "no depth adapters": {"options": {"depth_adapters": "no"}},
    "no class tokens": {"options": {"class_tokens": False}},
    "tokens from patches": {"options": {"token_source": "patches"}},
    "half the token pitch": {"changes": {"encoder_scale": 4.0}},
    "no deep supervision": {"options": {"deep_supervision": False}},
}
HIPPOCAMPUS = {"dataset": 4}
PROSTATE = {"dataset": 35, "memory_gib": 2.2, "spacing": (3.0, 1.25, 1.25)}  # whole planes in the patch


def rows_of(data: dict[str, Any], minutes: float, *names: str) -> tuple[Row, ...]:
    return tuple(Row(name=name, minutes=minutes, **data, **VARIANTS.get(name, {})) for name in names)


FOUR = {"batch_size": 4}
SCALE_2 = {"changes": {"encoder_scale": 2.0}}
IN_PLANE = Topology(strides=((1, 1, 1), *[(1, 2, 2)] * 3), kernels=((1, 3, 3),) * 4, widths=(24, 48, 96, 192))
# The best two of the ranking, and what to hold them against.
FINAL = ("no depth adapters", "injection at one stage", "control: no SAM path", NNUNET)
STUDIES = {
    "sam_unet_ranking": rows_of(HIPPOCAMPUS, 6.0, *VARIANTS),
    "sam_unet_final": rows_of(HIPPOCAMPUS, 20.0, *FINAL) + rows_of(PROSTATE, 20.0, *FINAL),
    "ma_sam_attempts": tuple(
        Row(
            name=name,
            dataset=4,
            minutes=6.0,
            configuration="3d_ma_sam",
            changes={"encoder_scale": 2.0},
            training=training,
            options=options,
        )
        for name, training, options in (
            ("4 slabs, scale 2", FOUR, {}),
            ("lower rates: 3e-4, encoder 1.5e-4", FOUR | {"learning_rate": 3e-4, "backbone_learning_rate": 1.5e-4}, {}),
            ("adapters start at zero", FOUR, {"initialization": "zero"}),
            ("upsampling 4", FOUR, {"upsampling": 4}),
            ("warm-up over 30 % of the steps", FOUR | {"warmup": 0.3}, {}),
        )
    ),
    "masksam_attempts": tuple(
        Row(name=name, minutes=minutes, configuration="2d_masksam", **{"training": {"batch_size": 8}} | data | others)
        for data in (HIPPOCAMPUS, PROSTATE)
        for name, minutes, others in (
            ("as it is", 6.0, {}),
            ("the published setting", 6.0, {"options": {"compat": "paper"}}),
            ("background as a query", 6.0, {"options": {"background": "query"}}),
            ("no combined loss", 6.0, {"options": {"combined_loss": 0.0}}),
            ("generator to the voxels", 6.0, {"options": {"generator_doublings": 4}}),
            ("no convolutions to the voxels", 6.0, {"options": {"finest_masks": False}}),
            ("as it is, for longer", 25.0, {"mirrored": True}),
            ("as it is, for longer, encoder scale 1", 25.0, {"changes": {"encoder_scale": 1.0}, "mirrored": True}),
            ("as it is, for longer, encoder scale 2", 25.0, SCALE_2 | {"mirrored": True}),
            ("as it is, for longer, encoder scale 2, four slices a step", 25.0, SCALE_2 | {"training": FOUR}),
        )
    ),
    "seed_transfer": tuple(
        Row(name=name, minutes=2.5, memory_gib=1.0, pretrained=pretrained, options=options, seed=seed, **data)
        for data in (
            {"dataset": 4, "train_cases": 5},
            {"dataset": 45, "train_cases": 10, "configuration": "2d_adapter"},
        )
        for seed in (0, 1, 2)
        for name, pretrained, options in (
            ("default", None, {}),
            ("default, from the seed", "seed", {}),
            ("no SAM path", None, {"sam_path": False}),
            ("no SAM path, from the seed", "seed", {"sam_path": False}),
        )
    ),
    "seed_causes": tuple(
        Row(
            name=f"{name}{', from the seed' if pretrained else ''}",
            dataset=4,
            train_cases=5,
            minutes=1.5,
            memory_gib=1.0,
            pretrained=pretrained,
            options=options,
            training={"batch_size": 2} | training,
        )
        for name, options, training in (
            ("default", {}, {}),
            ("default, rate 3e-3", {}, {"learning_rate": 3e-3}),
            ("default, no class tokens", {"class_tokens": False}, {}),
            ("no SAM path, rate 3e-3", {"sam_path": False}, {"learning_rate": 3e-3}),
        )
        for pretrained in (None, "seed")
    ),
    "few_labels": tuple(
        Row(name=name, minutes=6.0, configuration=name, training={"batch_size": batch}, train_cases=10, **HIPPOCAMPUS)
        for name, batch in (("2d_h_sam", 8), ("2d_samed", 8), ("3d_adapter", 2))
    ),
    # One network, which sees each slice by itself, and as many slices a step: from twenty places or from four.
    "slab_sampling": tuple(
        Row(
            name=name,
            minutes=6.0,
            configuration=configuration,
            training={"batch_size": batch},
            changes={"encoder_scale": 2.0, "patch_size": (depth, 56, 40), "topology": IN_PLANE},
            **HIPPOCAMPUS,
        )
        for name, configuration, batch, depth in (
            ("20 slices of as many places", "2d_samed", 20, 1),
            ("4 slabs of 5 neighbors", "3d_samed", 4, 5),
        )
    ),
    "sam_unet_gentle": rows_of(HIPPOCAMPUS, 10.0, "default", "control: no SAM path"),
    "sam_unet_try": rows_of(HIPPOCAMPUS, 0.2, "default", NNUNET),
}


def main(studies: dict[str, tuple[Row, ...]] = STUDIES, description: str | None = __doc__) -> None:
    """Run the study that the command line names; other scripts hand in their own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=studies)
    parser.add_argument("--work", type=Path, help="folder for plans, cases and models (default: a temporary one)")
    parser.add_argument("--datasets", type=int, nargs="+", help="run the rows of these datasets only")
    parser.add_argument("--names", nargs="+", help="run the rows of these names only")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side, one thread each")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="samunet-study-"))
    rows = studies[arguments.study]
    if arguments.row is not None:
        keep_freed_memory()  # as the commands do; here for nnU-Net too
        row = rows[arguments.row]
        print(json.dumps(run(row, work)))
        return
    target = RESULTS / f"study_{arguments.study}.json"
    known = read_json(target)["rows"] if target.is_file() else []
    code, lock = code_hash(), Lock()
    wanted = [row for row in rows if arguments.datasets is None or row.dataset in arguments.datasets]
    wanted = [row for row in wanted if arguments.names is None or row.name in arguments.names]
    for row in {(place(row, work), row.configuration, row.name == NNUNET): row for row in wanted}.values():
        prepare(row, work)

    def finish(row: Row) -> None:
        key = key_of(row, code)
        if any(done["key"] == key for done in known):
            return
        command = [sys.executable, sys.argv[0], arguments.study, "--work", str(work), "--row", str(rows.index(row))]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        result = {"key": key, "code": code, **json.loads(done.stdout.splitlines()[-1])}
        with lock:
            now = read_json(target)["rows"] if target.is_file() else []  # another call of the study may have written
            kept = [old for old in now if any(old["row"].get(key) != value for key, value in identity(row).items())]
            machine = {"cpu": processor_name(), "threads_a_job": 1, "jobs": arguments.jobs}
            write_json(target, {"machine": machine, "rows": [*kept, result]})
        print(
            (
                f"{row.name}: Dice {result['dice']:.4f} after {result['cpu_minutes']:.2f} min of CPU time, "
                f"{result['steps']} steps"
            ),
            flush=True,
        )

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(finish, wanted))


def code_hash() -> str:
    """Hash the sources that a training's result depends on."""
    root = Path(samunet.__file__).parent
    files = [path for path in sorted(root.rglob("*.py")) if path.relative_to(root).parts[0] not in NOT_TRAINED_BY]
    files += [Path(__file__), Path(nnunet_run.__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def key_of(row: Row, code: str) -> str:
    return hashlib.sha256(json.dumps([asdict(row), code], sort_keys=True).encode()).hexdigest()[:16]


def identity(row: Row) -> dict[str, Any]:
    """Return what tells a row from the others of its study."""
    return {key: getattr(row, key) for key in ("name", "dataset", "seed", "train_cases")}


def place(row: Row, work: Path) -> Workspace:
    """One workspace a plan, so that jobs side by side never write one file."""
    name = hashlib.sha256(json.dumps([row.dataset, row.memory_gib, row.spacing, row.train_cases]).encode()).hexdigest()[
        :8
    ]
    return Workspace(
        raw_folder=workspace_from_environment().raw,
        preprocessed_folder=work / name,
        results_folder=work / f"{name}-results",
    )


def nnunet_place(row: Row, work: Path) -> Workspace:
    """nnU-Net's own folders beside those of the same plan."""
    shared = place(row, work)
    return replace(shared, preprocessed_folder=shared.preprocessed / "nnunet", results_folder=shared.results / "nnunet")


def prepare(row: Row, work: Path) -> None:
    """Measure, plan and preprocess once for all rows that share a plan."""
    workspace = place(row, work)
    dataset = pipeline.open_dataset(workspace, row.dataset)
    fingerprint = pipeline.extract(workspace, dataset, threads=2, clean=False, quiet=True)
    plan = pipeline.plan(
        workspace,
        dataset,
        fingerprint,
        pipeline.PlanOptions(memory_gib=row.memory_gib, spacing=row.spacing, backbone="vit_tiny"),
    )
    plan = pipeline.resolve(workspace, plan, row.configuration)
    pipeline.preprocess(workspace, dataset, plan, row.configuration, threads=2, quiet=True)
    if row.train_cases:
        every = tuple(case.identifier for case in dataset.cases)
        split = pipeline.fold_split(workspace, dataset.spec, every, row.fold)
        splits = [{"train": sorted(split.train)[: row.train_cases], "val": sorted(split.val)}]
        write_json(workspace.preprocessed / dataset.spec.name / "splits_final.json", splits)
    if row.name == NNUNET:
        validation_cases(row, workspace, dataset)  # makes the split, where there is none yet
        split_file, batch_size = (
            workspace.preprocessed / dataset.spec.name / "splits_final.json",
            row.training["batch_size"],
        )
        settings = {
            "memory_gib": row.memory_gib,
            "spacing": row.spacing,
            "batch_size": batch_size,
            "split_file": split_file,
        }
        nnunet_run.prepare(nnunet_place(row, work), dataset.spec.name, **settings)


def run(row: Row, work: Path) -> dict[str, Any]:
    """Train one row for its minutes, predict and score its validation cases."""
    shared = place(row, work)
    dataset = pipeline.open_dataset(shared, row.dataset)
    cases = validation_cases(row, shared, dataset)
    predictions = work / f"predictions_{key_of(row, '')}"
    if row.name == NNUNET:
        cost = nnunet_run.train_and_predict(
            nnunet_place(row, work),
            dataset.spec.name,
            cases,
            predictions,
            fold=int(row.fold),
            minutes=row.minutes,
            seed=row.seed,
        )
    else:
        cost = train_and_predict(row, work, shared, dataset, cases, predictions)
    names, scores = names_from_labels(dataset.spec.labels), scored(dataset, cases, predictions)
    summary = summarize(scores)
    per_case = [float(np.nanmean([metrics.dice for metrics in score.metrics.values()])) for score in scores]
    return {
        "row": asdict(row),
        "dice": round(summary.foreground_mean.dice, 4),
        **(dice_with_mirroring(dataset, cases, predictions) if row.mirrored else {}),
        "dice_by_class": {
            names[target_key(target)]: round(metrics.dice, 4) for target, metrics in summary.mean.items()
        },
        "dice_by_case": {case.identifier: round(value, 4) for case, value in zip(cases, per_case, strict=True)},
        **cost,
    }


def scored(dataset: pipeline.RawDataset, cases: list[Case], predictions: Path) -> list[CaseScore]:
    """Score a folder of predictions."""
    labels = dataset.spec.labels
    targets, ending = targets_from_labels(labels), dataset.spec.file_ending
    return [
        score_case(
            case.label,
            predictions / f"{case.identifier}{ending}",
            targets=targets,
            ignore=labels.ignore,
            reader=dataset.reader,
        )
        for case in cases
    ]


def dice_with_mirroring(dataset: pipeline.RawDataset, cases: list[Case], predictions: Path) -> dict[str, float]:
    """Score what was predicted with mirroring, beside `predictions`."""
    summary = summarize(scored(dataset, cases, mirrored(predictions)))
    return {"dice_with_mirroring": round(summary.foreground_mean.dice, 4)}


def mirrored(predictions: Path) -> Path:
    return predictions.with_name(f"{predictions.name}_mirrored")


def validation_cases(row: Row, shared: Workspace, dataset: pipeline.RawDataset) -> list[Case]:
    split = pipeline.fold_split(shared, dataset.spec, tuple(case.identifier for case in dataset.cases), row.fold)
    return [case for case in dataset.cases if case.identifier in set(split.val)]


def train_and_predict(
    row: Row, work: Path, shared: Workspace, dataset: pipeline.RawDataset, cases: list[Case], predictions: Path
) -> dict[str, Any]:
    """Train one of samunet's rows and segment every case; returns what the training cost and the plan's entry."""
    fold, cost = train(row, work, shared, dataset)
    predict(row, fold, cases, predictions, flips=False)
    if row.mirrored:
        predict(row, fold, cases, mirrored(predictions), flips=True)
    return cost


def predict(row: Row, fold: Path, cases: list[Case], predictions: Path, *, flips: bool) -> None:
    """Segment every case with what a row trained."""
    options = PredictionOptions(flips=flips, quiet=True)
    predictor = load_predictor(fold.parent, folds=[row.fold], device="cpu", options=options)
    if failures := predict_cases(predictor, cases, predictions, FileOptions(quiet=True)).failures:
        raise RuntimeError(str(failures))


def train(row: Row, work: Path, shared: Workspace, dataset: pipeline.RawDataset) -> tuple[Path, dict[str, Any]]:
    """Train one of samunet's rows for its minutes; returns the fold, and what that cost with the plan's entry."""
    plan = pipeline.resolve(
        shared, pipeline.open_plan(shared, dataset.spec.name, DEFAULT_PLANS_NAME), row.configuration
    )
    entry = replace(plan.configuration(row.configuration), variant_options=row.options, **row.changes)
    own = f"{DEFAULT_PLANS_NAME}_{key_of(row, '')}"
    save_plan(
        shared.preprocessed / dataset.spec.name / f"{own}.json",
        replace(plan, plans_name=own, configurations={row.configuration: entry}),
    )
    workspace = replace(shared, results_folder=work / own)
    options = pipeline.TrainOptions(
        configuration=row.configuration,
        fold=row.fold,
        plans_name=own,
        device="cpu",
        validate=False,
        overwrite=True,
        pretrained=None if row.pretrained is None else Path(row.pretrained),
    )
    settings = {"seed": row.seed, "workers": 0, **row.training}

    def trained(config: TrainingConfig) -> tuple[Path, float]:
        before = time.process_time()
        return pipeline.train(workspace, dataset.spec.name, config, options), time.process_time() - before

    configs = [TrainingConfig(**short, **settings) for short in SHORT]
    seconds = [trained(config)[1] for config in configs]
    seconds_a_step = (seconds[1] - seconds[0]) / (configs[1].steps - configs[0].steps)
    config = TrainingConfig(
        epochs=EPOCHS, iterations=max(1, round(60 * row.minutes / seconds_a_step / EPOCHS)), **settings
    )
    fold, used = trained(config)
    return fold, {
        "cpu_minutes": round(used / 60, 2),
        "seconds_a_step": round(seconds_a_step, 4),
        "steps": config.steps,
        "dice_by_epoch": [epoch["mean_fg_dice"] for epoch in read_records(fold / RECORDS)],
        "configuration": encode(entry),
    }


if __name__ == "__main__":
    main()
