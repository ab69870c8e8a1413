"""nnU-Net and samunet, trained for equally long on the same cases.

    python benchmarks/head_to_head.py hippocampus --work FOLDER
    python benchmarks/head_to_head.py publish --work FOLDER         # pages' numbers into benchmarks/results

Every training has one thread of a CPU and its minutes are processor time, so that two may run side by side. A
comparison that was interrupted goes on, training by training. Reads nnUNet_raw; the rest goes to the work folder. Needs
nnU-Net.

Plans are each tool's own, but for what makes them feasible in minutes on a CPU, the same for both: batches of two
patches, or of as many slices (both would take more, and few steps would fit), and in "prostate" target spacing and
memory.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from machine import processor_name

from samunet import pipeline
from samunet.comparison import nnunet
from samunet.comparison.head_to_head import Settings, run_against_nnunet
from samunet.core.codec import read_json, write_json
from samunet.core.plan import save_plan
from samunet.core.workspace import Workspace, workspace_from_environment

RESULTS = Path(__file__).parent / "results"
TRAINERS = Path(__file__).parent / "nnunet_trainers"
CONTROL = "samunetPlansNoSAM"  # the same network without the SAM path
MODELS = ("3d_adapter", "3d_ma_sam", f"{CONTROL}__3d_adapter")
ATTEMPTS: dict[str, dict[str, Any]] = {
    "samunetPlansBatch4": {"batch_size": 4},
    "samunetPlansBatch4Scale2": {"batch_size": 4, "encoder_scale": 2.0},
}
"""Changes to 3d_ma_sam, to find out why it is weak; as `--configurations samunetPlansBatch4__3d_ma_sam`."""
BATCH_SIZE = 2


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """One comparison."""

    dataset: int
    minutes: float
    train_cases: int = 0
    memory_gib: float = 8.0
    spacing: tuple[float, float, float] | None = None
    as_planned: bool = False
    """Leave the batch size to the planners."""

    @property
    def plan(self) -> str:
        """Names the folder that meetings with equal plans share."""
        return f"plans_{self.dataset:03d}{'_as_planned' if self.as_planned else ''}"


MEETINGS = {
    "hippocampus": Meeting(dataset=4, minutes=25),
    "hippocampus_10_cases": Meeting(dataset=4, minutes=10, train_cases=10),
    "prostate": Meeting(dataset=35, minutes=25, memory_gib=2.2, spacing=(3.0, 1.25, 1.25)),
    "hippocampus_as_planned": Meeting(dataset=4, minutes=25, as_planned=True),
}


def main() -> None:
    """Run the meeting that the command line names."""
    parser = make_parser(__doc__, MEETINGS)
    parser.add_argument("--configurations", nargs="+", default=list(MODELS), help="samunet's")
    parser.add_argument(
        "--trainers",
        nargs="+",
        default=["nnUNetTrainer", "nnUNetTrainerBf16AdamW"],
        help="nnU-Net's, the baseline first",
    )
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    if arguments.meeting == "publish":
        publish(work)
        return
    torch.set_num_threads(1)
    os.environ[nnunet.TRAINERS_VARIABLE] = str(TRAINERS)
    meeting = MEETINGS[arguments.meeting]
    workspace = prepare(meeting, work)
    settings = Settings(
        configurations=tuple(arguments.configurations),
        folds=("0",),
        match="minutes",
        minutes=meeting.minutes,
        train_cases=meeting.train_cases,
        nnunet=nnunet.NNUNet(trainers=tuple(arguments.trainers)),
        device="cpu",
    )
    dataset = workspace.dataset_name(meeting.dataset)
    comparison = run_against_nnunet(
        workspace, dataset, settings, work / arguments.meeting, tolerance=2.0, threads=2, jobs=arguments.jobs
    )
    print("\n".join(comparison.verdicts()))


def make_parser(description: str | None, meetings: Iterable[str]) -> argparse.ArgumentParser:
    """Return a parser that asks for a meeting, or for its figures, and for where it is held."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meeting", choices=[*meetings, "publish"])
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for plans, cases, models and reports; the same again goes on"
    )
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side, one thread each")
    return parser


def prepare(meeting: Meeting, work: Path) -> Workspace:
    """Plan with both tools, once for all meetings with these plans."""
    place = work / meeting.plan
    workspace = Workspace(
        raw_folder=workspace_from_environment().raw, preprocessed_folder=place, results_folder=place / "results"
    )
    workspace.results.mkdir(parents=True, exist_ok=True)
    dataset = pipeline.open_dataset(workspace, meeting.dataset)
    folder = workspace.preprocessed / dataset.spec.name
    if all((folder / f"{name}.json").is_file() for name in (CONTROL, *ATTEMPTS)):
        return workspace
    fingerprint = pipeline.extract(workspace, dataset, threads=2, clean=False, quiet=True)
    options = pipeline.PlanOptions(memory_gib=meeting.memory_gib, spacing=meeting.spacing, backbone="vit_tiny")
    plan = pipeline.resolve(workspace, pipeline.plan(workspace, dataset, fingerprint, options), "3d_ma_sam")
    if not meeting.as_planned:
        adapter, slabs = (plan.configuration(name) for name in ("3d_adapter", "3d_ma_sam"))
        as_many_slices = max(1, BATCH_SIZE * adapter.patch_size[0] // slabs.patch_size[0])
        adapter, slabs = (
            replace(adapter, batch_size=BATCH_SIZE),
            replace(slabs, batch_size=min(slabs.batch_size, as_many_slices)),
        )
        plan = replace(plan, configurations={**plan.configurations, "3d_adapter": adapter, "3d_ma_sam": slabs})
    save_plan(folder / "samunetPlans.json", plan)
    words = ["-d", str(meeting.dataset), "-npfp", "2", "--no_pp", "-gpu_memory_target", str(meeting.memory_gib)]
    words += ["-overwrite_target_spacing", *map(str, meeting.spacing)] if meeting.spacing else []
    script = nnunet.script("nnUNetv2_plan_and_preprocess")
    nnunet.run_command([script, *words], nnunet.variables(workspace), place / "nnunet_plan.txt")
    if not meeting.as_planned:
        theirs = read_json(folder / "nnUNetPlans.json")
        theirs["configurations"]["3d_fullres"]["batch_size"] = BATCH_SIZE
        write_json(folder / "nnUNetPlans.json", theirs)
    variations = {CONTROL: ("3d_adapter", {"variant_options": {"sam_path": False}})}
    variations |= {name: ("3d_ma_sam", changes) for name, changes in ATTEMPTS.items()}
    for name, (configuration, changes) in variations.items():
        changed = {configuration: replace(plan.configuration(configuration), **changes)}
        save_plan(folder / f"{name}.json", replace(plan, plans_name=name, configurations=changed))
    return workspace


def publish(work: Path) -> None:
    """Write what the comparisons found into one file."""
    meetings = {name: meeting for name, meeting in MEETINGS.items() if (work / name / "comparison.json").is_file()}
    found = {
        name: {**asdict(meeting), **figures(work / name, work / name / "nnUNet_results")}
        for name, meeting in meetings.items()
    }
    write_json(RESULTS / "head_to_head.json", {"machine": machine(), "meetings": found})


def machine() -> dict[str, Any]:
    return {"cpu": processor_name(), "threads_a_training": 1, "torch": torch.__version__}


def figures(report: Path, results: Path) -> dict[str, Any]:
    """Return what a page shows of a comparison: means over classes, costs, plans, verdicts."""
    document = json.loads((report / "comparison.json").read_text())
    plans = {plan.parent.name: json.loads(plan.read_text()) for plan in sorted(results.glob("*/*/plans.json"))}
    return {
        "validation_cases": len(document["cases"]),
        "trainings": [
            training | {"curve": [round(value, 3) for value in training["curve"]]} for training in document["trainings"]
        ],
        "configurations": {model: _figures(plan, model.split("__")[2]) for model, plan in plans.items()},
        "rows": [row for row in document["rows"] if row["target"] == "mean"],
        "verdicts": document["verdicts"],
        "prompts": document["prompts"],
    }


def _figures(plan: dict[str, Any], configuration: str) -> dict[str, Any]:
    entry = plan["configurations"][configuration]
    return {
        key: entry[key]
        for key in ("spacing", "patch_size", "batch_size", "encoder_scale", "variant_options")
        if key in entry
    }


if __name__ == "__main__":
    main()
