"""Options and steps that the planning commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from samunet.cli.common import DEFAULT_THREADS, Datasets, Quiet, print_next
from samunet.core.units import counted
from samunet.planning.options import PlanOptions

CPU_SECONDS_PER_GIB = (
    3.0  # of a step, on two cores: 2 to 4 in benchmarks/results/cpu_settings.json and variant_step_cpu.json
)

if TYPE_CHECKING:
    from samunet.core.dataset import DatasetSpec
    from samunet.core.fingerprint import Fingerprint
    from samunet.core.plan import Plan
    from samunet.core.workspace import Workspace
    from samunet.pipeline import RawDataset


def memory_target(text: str) -> float | None:
    """Read a number of GiB; None stands for auto. Raises argparse's error otherwise."""
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number of GiB above 0, or auto; got {text!r}") from None


@dataclass(frozen=True, kw_only=True)
class Common:
    """What measuring and preprocessing share."""

    datasets: Datasets
    verbose: bool = False
    """Taken as nnU-Net's command takes it; changes nothing."""
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Measuring."""

    verify: Annotated[bool, "--verify_dataset_integrity"] = False
    """Read every case first and list everything that is wrong."""
    clean: bool = False
    """Measure again even when a fingerprint exists."""


@dataclass(frozen=True, kw_only=True)
class Planning:
    """Planning."""

    memory: Annotated[float | None, "-gpu_memory_target GIB", memory_target] = PlanOptions.memory_gib
    """Memory a training step may need in GiB, or auto: what suits the GPU or CPU of this machine."""
    options: PlanOptions

    def settled(self) -> PlanOptions:
        """Return what is asked of a plan; says which memory "auto" comes to."""
        from samunet.errors import ConfigError

        memory = self.memory
        if memory is None:
            from samunet.machine.hardware import memory_to_plan_for  # needs torch

            memory, reason = memory_to_plan_for()
            print(f"-gpu_memory_target auto: {reason}")
        elif not 0 < memory < math.inf:
            raise ConfigError(f"-gpu_memory_target must be above 0 GiB; got {memory}.")
        return replace(self.options, memory_gib=memory)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing."""

    configurations: Annotated[tuple[str, ...], "-c CONFIGURATION"] = ()
    """Configurations to preprocess (default: all of the plan)."""
    add_new_cases: bool = False
    """Put cases that are in no fold of splits_final.json into folds, groups together."""
    threads: Annotated[tuple[int, ...], "-np N"] = ()
    """Cases preprocessed at a time, one number or one per configuration."""


def threads_for(values: Sequence[int], index: int) -> int:
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
        print(f"  {name}: {plan.grid_text(name)}, batch {configuration.batch_size}, {configuration.backbone}")
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
    from samunet.machine.progress import LONG_SECONDS, readable_seconds
    from samunet.training.config import TrainingConfig

    name, step = _slowest_step(plan, spec)
    if not step:
        return
    config = TrainingConfig()
    whole = step * config.steps
    text = f"No GPU is in sight. On two CPU cores a training step of {name} takes roughly {readable_seconds(step)}"
    text += f", the default {config.epochs} epochs {readable_seconds(whole)}"
    way_out = "; to train on this machine, plan with -gpu_memory_target auto, and train with --minutes"
    print(f"{text}{way_out if whole > LONG_SECONDS else ''}.")


def _slowest_step(plan: Plan, spec: DatasetSpec) -> tuple[str, float]:
    """Return the configuration whose steps take longest, and their seconds; 0 where a GPU is in sight."""
    from samunet import pipeline
    from samunet.pipeline.information import gpu_in_sight

    if gpu_in_sight():
        return "", 0.0
    gib, name = max(
        (pipeline.estimate_gib(entry, spec, plan.precision), name) for name, entry in plan.configurations.items()
    )
    return name, CPU_SECONDS_PER_GIB * gib


def _minutes(plan: Plan, spec: DatasetSpec) -> tuple[str, ...]:
    """Return the words that bound a training which would take very long on this machine."""
    from samunet.machine.progress import LONG_SECONDS, MINUTES_INSTEAD
    from samunet.training.config import TrainingConfig

    whole = _slowest_step(plan, spec)[1] * TrainingConfig().steps
    return ("--minutes", str(MINUTES_INSTEAD)) if whole > LONG_SECONDS else ()


def open_and_measure(
    workspace: Workspace, wanted: str, measuring: Measuring, *, threads: int, quiet: bool, add_new_cases: bool = False
) -> tuple[RawDataset, Fingerprint]:
    """Check a dataset where that is asked for, open it, and take its fingerprint."""
    from samunet import pipeline

    if measuring.verify:
        report = pipeline.check(workspace, wanted, threads=threads, quiet=quiet)
        report.refuse_errors()
        print("\n".join(line for line in report.lines() if not line.startswith("ok")) or report.summary())
    dataset = open_dataset(workspace, wanted, add_new_cases=add_new_cases)
    return dataset, pipeline.extract(workspace, dataset, threads=threads, clean=measuring.clean, quiet=quiet)


def open_dataset(workspace: Workspace, wanted: str, *, add_new_cases: bool = False) -> RawDataset:
    """Open a dataset, and say which cases its splits file does not know, or put them in where that is asked for."""
    from samunet import pipeline

    dataset = pipeline.open_dataset(workspace, wanted)
    cases = [case.identifier for case in dataset.cases]
    pipeline.keep_up_splits(workspace, dataset.spec, cases, add=add_new_cases)
    return dataset


def print_training(dataset: RawDataset, plan: Plan, asked: Preprocessing, *, preprocessed: bool = True) -> None:
    """Say how the first of the configurations is trained, or first preprocessed."""
    from samunet.core.names import DEFAULT_PLANS_NAME
    from samunet.core.workspace import dataset_id

    number, name = str(dataset_id(dataset.spec.name)), next(iter(asked.configurations or plan.configurations))
    default = plan.plans_name == DEFAULT_PLANS_NAME
    if preprocessed:
        named = () if default else ("-p", plan.plans_name)
        print_next("samunet_train", number, name, "0", *named, *_minutes(plan, dataset.spec))
    else:
        print_next("samunet_preprocess", "-d", number, *(() if default else ("-plans_name", plan.plans_name)))


def preprocess_configurations(
    workspace: Workspace, dataset: RawDataset, plan: Plan, asked: Preprocessing, *, quiet: bool
) -> None:
    """Preprocess the configurations asked for with -c, or all; those that share their data are done once."""
    from samunet import pipeline

    done: set[str] = set()
    for index, name in enumerate(asked.configurations or plan.configurations):
        plan = pipeline.resolve(workspace, plan, name)
        if (identifier := plan.configuration(name).data_identifier) in done:
            continue
        done.add(identifier)
        threads = threads_for(asked.threads, index)
        folder = pipeline.preprocess(workspace, dataset, plan, name, threads=threads, quiet=quiet)
        print(f"Preprocessed {counted(len(dataset.cases), 'case')} for {name} into {folder}")
