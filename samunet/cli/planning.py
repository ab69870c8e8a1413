"""Options and steps that the planning commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from samunet.cli.common import DEFAULT_THREADS

CPU_SECONDS_PER_GIB = (
    3.0  # of a step, on two cores: 2 to 4 in benchmarks/results/cpu_settings.json and variant_step_cpu.json
)

if TYPE_CHECKING:
    from samunet.core.dataset import DatasetSpec
    from samunet.core.fingerprint import Fingerprint
    from samunet.core.plan import Plan
    from samunet.core.workspace import Workspace
    from samunet.pipeline import PlanOptions, RawDataset


ADD_NEW_CASES = "--add_new_cases"


def add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d", nargs="+", required=True, metavar="DATASET", help="dataset ids or names, e.g. 4 or Dataset004_Hippocampus"
    )


def add_fingerprint_options(parser: argparse.ArgumentParser, threads_flag: str) -> None:
    parser.add_argument(
        threads_flag,
        type=int,
        default=DEFAULT_THREADS,
        metavar="N",
        dest="npfp",
        help="cases measured at a time (default: %(default)s)",
    )
    parser.add_argument("-fpe", default="default", choices=["default"], help="fingerprint extractor")
    parser.add_argument(
        "--verify_dataset_integrity",
        action="store_true",
        help="read every case first and list everything that is wrong",
    )
    parser.add_argument("--clean", action="store_true", help="measure again even when a fingerprint exists")


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-pl", default="default", choices=["default"], help="planner")
    parser.add_argument(
        "-gpu_memory_target",
        type=_memory_target,
        default=8.0,
        metavar="GIB",
        help="memory a training step may need in GiB, or auto: what suits the GPU or CPU of this machine "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "-precision",
        default="mixed",
        choices=["mixed", "fp32"],
        help="what training will compute in: fp32 where the device has no 16-bit numbers",
    )
    parser.add_argument("-preprocessor_name", default="default", choices=["default"], help="preprocessor")
    parser.add_argument(
        "-overwrite_target_spacing",
        type=float,
        nargs=3,
        metavar="MM",
        help="spacing in mm instead of the rule's, in the files' axis order (z y x)",
    )
    parser.add_argument(
        "--keep_orientation",
        action="store_true",
        help="leave the axes of all files as they are, also where cases differ in their order or direction",
    )
    parser.add_argument("-overwrite_plans_name", metavar="NAME", help="name of the plan (default: samunetPlans)")
    parser.add_argument(
        "-backbone",
        default="auto",
        metavar="NAME",
        help="SAM encoder: auto, vit_tiny, vit_b, vit_l, vit_h, vit_nano (default: %(default)s)",
    )
    parser.add_argument(
        "-weights",
        metavar="FILE",
        help="SAM checkpoint in the official layout, or the name of an official one (samunet_weights list)",
    )
    parser.add_argument("--sha256", metavar="HASH", help="hash of a checkpoint that is none of the official ones")


def add_preprocess_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c", nargs="+", metavar="CONFIGURATION", help="configurations to preprocess (default: all of the plan)"
    )
    parser.add_argument(
        ADD_NEW_CASES,
        action="store_true",
        help="put cases that are in no fold of splits_final.json into folds, groups together",
    )
    parser.add_argument(
        "-np",
        type=int,
        nargs="+",
        metavar="N",
        help="cases preprocessed at a time, one number or one per configuration",
    )


def add_output_options(
    parser: argparse.ArgumentParser, verbose: str = "taken as nnU-Net's command takes it; changes nothing"
) -> None:
    parser.add_argument("--verbose", action="store_true", help=verbose)
    parser.add_argument("--no_pbar", action="store_true", help="no progress bars")


def _memory_target(text: str) -> float | None:
    """Read a number of GiB; None stands for auto. Raises argparse's error otherwise."""
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number of GiB above 0, or auto; got {text!r}") from None


def plan_options(arguments: argparse.Namespace) -> PlanOptions:
    from samunet.core.names import DEFAULT_PLANS_NAME
    from samunet.errors import ConfigError
    from samunet.pipeline import PlanOptions

    spacing = arguments.overwrite_target_spacing
    if spacing is not None and min(spacing) <= 0:
        raise ConfigError(f"-overwrite_target_spacing needs three numbers above 0; got {spacing}.")
    memory = arguments.gpu_memory_target
    if memory is None:
        from samunet.machine.hardware import memory_to_plan_for  # needs torch

        memory, reason = memory_to_plan_for()
        print(f"-gpu_memory_target auto: {reason}")
    elif not 0 < memory < math.inf:
        raise ConfigError(f"-gpu_memory_target must be above 0 GiB; got {memory}.")
    return PlanOptions(
        plans_name=arguments.overwrite_plans_name or DEFAULT_PLANS_NAME,
        memory_gib=memory,
        precision=arguments.precision,
        spacing=tuple(spacing) if spacing else None,
        keep_orientation=arguments.keep_orientation,
        backbone=arguments.backbone,
        weights=arguments.weights,
        sha256=arguments.sha256,
    )


def threads_for(values: list[int] | None, index: int) -> int:
    """nnU-Net's -np: one number for all configurations, or one each."""
    if not values:
        return DEFAULT_THREADS
    return values[index] if index < len(values) else values[-1]


def print_plan(plan: Plan, *, explain: bool, names: Sequence[str] = ()) -> None:
    """Print the configurations of a plan, all or those of some names, and with `explain` why each decision fell as it
    did.
    """
    print(f"Plan {plan.plans_name} of {plan.dataset}:")
    shown = names or list(plan.configurations)
    for name in shown:
        configuration = plan.configuration(name)
        # Pictures have no thickness.
        flat = 1 if configuration.dimensions == 2 and plan.reader == "NaturalImage2DIO" else 0
        patch = " x ".join(map(str, configuration.patch_size))
        spacing = " x ".join(f"{value:.3g}" for value in configuration.spacing[flat:])
        size = f" at {spacing} mm"
        if plan.in_voxels:
            size = "" if configuration.spacing == (1, 1, 1) else f" at {spacing} of the files' voxels"
        print(f"  {name}: patch {patch} voxels{size}, batch {configuration.batch_size}, {configuration.backbone}")
    if explain:
        reasons = {
            decision: reason
            for decision, reason in plan.reasons.items()
            if decision.partition(":")[0] in shown or ":" not in decision
        }
        width = max(map(len, reasons))
        for decision, reason in reasons.items():
            print(f"  {decision:<{width}}  {reason}")


def print_time_without_gpu(plan: Plan, spec: DatasetSpec) -> None:
    """Say what a plan means for a machine on which no GPU is in sight; nothing where there is one."""
    from samunet import pipeline
    from samunet.machine.progress import LONG_SECONDS, readable_seconds
    from samunet.pipeline.information import gpu_in_sight
    from samunet.training.config import TrainingConfig

    if gpu_in_sight():
        return
    gib, name = max(
        (pipeline.estimate_gib(entry, spec, plan.precision), name) for name, entry in plan.configurations.items()
    )
    config, step = TrainingConfig(), CPU_SECONDS_PER_GIB * gib
    whole = step * config.steps
    text = f"No GPU is in sight. On two CPU cores a training step of {name} takes roughly {readable_seconds(step)}"
    text += f", the default {config.epochs} epochs {readable_seconds(whole)}"
    way_out = "; to train on this machine, plan with -gpu_memory_target auto, and train with --minutes"
    print(f"{text}{way_out if whole > LONG_SECONDS else ''}.")


def open_and_measure(
    workspace: Workspace, wanted: str, arguments: argparse.Namespace
) -> tuple[RawDataset, Fingerprint]:
    """Check a dataset where that is asked for, open it, and take its fingerprint, as the options of
    add_fingerprint_options say.
    """
    from samunet import pipeline

    if arguments.verify_dataset_integrity:
        report = pipeline.check(workspace, wanted, threads=arguments.npfp, quiet=arguments.no_pbar)
        report.refuse_errors()
        print("\n".join(line for line in report.lines() if not line.startswith("ok")) or report.summary())
    dataset = pipeline.open_dataset(workspace, wanted)
    keep_up_splits(workspace, dataset, arguments)
    return dataset, pipeline.extract(
        workspace, dataset, threads=arguments.npfp, clean=arguments.clean, quiet=arguments.no_pbar
    )


def keep_up_splits(workspace: Workspace, dataset: RawDataset, arguments: argparse.Namespace) -> None:
    """Say which cases the dataset's splits file does not know, or put them in where --add_new_cases asks for it."""
    from samunet import pipeline

    cases = [case.identifier for case in dataset.cases]
    pipeline.keep_up_splits(workspace, dataset.spec, cases, add=getattr(arguments, "add_new_cases", False))


def preprocess_configurations(
    workspace: Workspace, dataset: RawDataset, plan: Plan, arguments: argparse.Namespace
) -> None:
    """Preprocess the configurations asked for with -c, or all; those that share their data are done once."""
    from samunet import pipeline

    done: set[str] = set()
    for index, name in enumerate(arguments.c or plan.configurations):
        plan = pipeline.resolve(workspace, plan, name)
        if (identifier := plan.configuration(name).data_identifier) in done:
            continue
        done.add(identifier)
        folder = pipeline.preprocess(
            workspace, dataset, plan, name, threads=threads_for(arguments.np, index), quiet=arguments.no_pbar
        )
        print(f"Preprocessed {len(dataset.cases)} cases for {name} into {folder}")
