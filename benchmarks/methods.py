"""Every method of a plan, trained for the same minutes and compared case by case.

    python benchmarks/methods.py hippocampus --work FOLDER
    python benchmarks/methods.py publish --work FOLDER         # pages' numbers into benchmarks/results

Every training has one thread of a CPU, its minutes are processor time, and it is without pretrained weights. Plans are
the planner's own but for the batch: two patches, and of methods with thin slabs as many patches as hold 20 slices, if
the plan has so many. A run that was interrupted goes on, training by training; those of another version of the code are
refused. Reads nnUNet_raw; the rest goes to the work folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from head_to_head import BATCH_SIZE, MEETINGS, RESULTS, Meeting, figures, machine, make_parser
from study import code_hash

from samunet import pipeline
from samunet.comparison.from_folders import compare_trained
from samunet.core.codec import read_json, write_json
from samunet.core.names import DEFAULT_PLANS_NAME
from samunet.core.plan import Plan, save_plan
from samunet.core.results import model_folder
from samunet.core.workspace import Workspace, workspace_from_environment

AUTOMATIC = (
    "3d_adapter",
    "3d_ma_sam",
    "2d_samed",
    "2d_h_sam",
    "3d_med_sa",
    "2d_masksam",
    "2d_db_sam",
    "2d_autosam",
)
METHODS = {
    "hippocampus": AUTOMATIC,
    "prostate": AUTOMATIC,
    "hippocampus_prompted": ("3d_med_sa_prompted", "3d_ma_sam_prompted"),
}
"""Those that are compared, by meeting."""
MINUTES, EPOCHS = 12, 30
MOST_SLICES = 20
DATASETS = {name: replace(MEETINGS[name.removesuffix("_prompted")], minutes=MINUTES) for name in METHODS}


def main() -> None:
    """Train and compare on the dataset that the command line names."""
    parser = make_parser(__doc__, DATASETS)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    if arguments.meeting == "publish":
        done = {
            name: meeting
            for name, meeting in DATASETS.items()
            if (work / name / "report" / "comparison.json").is_file()
        }
        found = {
            name: {**asdict(meeting), **figures(work / name / "report", work / name / "results")}
            for name, meeting in done.items()
        }
        write_json(RESULTS / "methods.json", {"machine": machine(), "datasets": found})
        return
    meeting, methods, place = DATASETS[arguments.meeting], METHODS[arguments.meeting], work / arguments.meeting
    workspace = Workspace(
        raw_folder=workspace_from_environment().raw,
        preprocessed_folder=place / "preprocessed",
        results_folder=place / "results",
    )
    refuse_other_code(place / "code.json")
    name = prepare(meeting, methods, workspace)

    def train(method: str) -> None:
        fold = model_folder(workspace, name, DEFAULT_PLANS_NAME, method) / "fold_0"
        if (fold / "validation" / "summary.json").is_file():
            return
        words = [
            name,
            method,
            "0",
            "-device",
            "cpu",
            "--workers",
            "0",
            "--minutes",
            str(MINUTES),
            "--epochs",
            str(EPOCHS),
            "--overwrite",
        ]
        folders = {
            "nnUNet_raw": workspace.raw,
            "nnUNet_preprocessed": workspace.preprocessed,
            "nnUNet_results": workspace.results,
        }
        environment = (
            os.environ | {"OMP_NUM_THREADS": "1"} | {variable: str(folder) for variable, folder in folders.items()}
        )
        subprocess.run([sys.executable, "-m", "samunet.cli.train", *words], env=environment, check=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(train, methods))
    models = [model_folder(workspace, name, DEFAULT_PLANS_NAME, method).name for method in methods]
    comparison = compare_trained(workspace, name, models, place / "report", tolerance=2.0, threads=2, folds=("0",))
    print("\n".join(comparison.verdicts()))


def refuse_other_code(path: Path) -> None:
    """Keep the version of the code that trains beside what it trained, and end when it is another."""
    code = {"code": code_hash()}
    if path.is_file() and read_json(path) != code:
        sys.exit(f"{path.parent} was trained by another version of the code; give another folder, or remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, code)


def prepare(meeting: Meeting, methods: Sequence[str], workspace: Workspace) -> str:
    """Plan and preprocess once; returns the dataset's name."""
    workspace.results.mkdir(parents=True, exist_ok=True)
    raw = pipeline.open_dataset(workspace, meeting.dataset)
    path = pipeline.plan_path(workspace, raw.spec.name, DEFAULT_PLANS_NAME)
    if path.is_file():
        return raw.spec.name
    fingerprint = pipeline.extract(workspace, raw, threads=2, clean=False, quiet=True)
    options = pipeline.PlanOptions(memory_gib=meeting.memory_gib, spacing=meeting.spacing, backbone="vit_tiny")
    plan = pipeline.plan(workspace, raw, fingerprint, options)
    for method in methods:
        plan = with_feasible_batch(pipeline.resolve(workspace, plan, method), method)
    for method in methods:
        pipeline.preprocess(workspace, raw, plan, method, threads=2, quiet=True)
    save_plan(path, plan)
    return raw.spec.name


def with_feasible_batch(plan: Plan, method: str) -> Plan:
    """Return the plan with a batch of which many steps fit into the minutes."""
    entry = plan.configuration(method)
    wanted = max(BATCH_SIZE, MOST_SLICES // entry.patch_size[0])
    entry = replace(entry, batch_size=min(entry.batch_size, wanted))
    return replace(plan, configurations={**plan.configurations, method: entry})


if __name__ == "__main__":
    main()
