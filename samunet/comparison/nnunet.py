"""nnU-Net's own commands, run beside samunet on the same folders: plan, preprocess, train, validate."""

from __future__ import annotations

import importlib.util
import inspect
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samunet.core.codec import read_json, write_text
from samunet.core.guard import guarded
from samunet.core.results import VALIDATION
from samunet.core.workspace import Workspace, dataset_id, environment_of_commands
from samunet.errors import ConfigError, SamunetError
from samunet.evaluation.summary import SUMMARY

FINISHED = "checkpoint_final.pth"
TRAINER, PLANS = "nnUNetTrainer", "nnUNetPlans"  # its defaults
TRAINERS_VARIABLE = "nnUNet_extTrainer"  # folders with further trainers
CONFIGURATIONS = ("3d_fullres", "2d")  # the first that a plan has is trained
SOURCE = '''"""Written by samunet: {base} with another length. Nothing else differs."""

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from samunet.comparison.timed import Timed


class {name}(Timed, recursive_find_trainer_class_by_name("{base}")):
    epochs, minutes, threads = {epochs}, {minutes!r}, {threads}
'''


@dataclass(frozen=True, kw_only=True)
class NNUNet:
    """What nnU-Net plans and trains."""

    planner: str = "ExperimentPlanner"
    trainers: tuple[str, ...] = (TRAINER,)
    """All are trained; the first is the baseline."""
    configuration: str | None = None
    """3d_fullres where its plan has it, else 2d, when None."""


def refuse_absent() -> None:
    """Raise ConfigError where nnU-Net is not installed."""
    if importlib.util.find_spec("nnunetv2") is None:
        raise ConfigError(
            "nnU-Net is not installed in this environment; install it with: pip install 'samunet[nnunet]'"
        )


def plan_and_preprocess(
    workspace: Workspace, dataset: str, cases: Sequence[str], asked: NNUNet, log: Path, *, threads: int
) -> tuple[str, str]:
    """Plan and preprocess a dataset with nnU-Net, where that is not done; returns the names of plan and configuration.

    Args:
        cases: identifiers that must be preprocessed.

    Raises:
        ConfigError: nnU-Net has no such planner, or its plan no such configuration.
        SamunetError: a command failed.
    """
    folder, plans = workspace.preprocessed / dataset, _plans_name(asked.planner)
    number, each = str(dataset_id(dataset)), str(threads)
    if not (folder / f"{plans}.json").is_file():
        words = ["-d", number, "-pl", asked.planner, "-npfp", each, "--no_pp"]
        run_command([script("nnUNetv2_plan_and_preprocess"), *words], variables(workspace), log)
    configurations = read_json(folder / f"{plans}.json")["configurations"]
    configuration = asked.configuration or next(name for name in CONFIGURATIONS if name in configurations)
    if configuration not in configurations:
        raise ConfigError(
            f"nnU-Net's plan {plans} of {dataset} has no configuration '{configuration}'; it has "
            f"{', '.join(configurations)}."
        )
    done = {path.stem for path in (folder / _data_identifier(configurations, configuration)).glob("*.pkl")}
    if not done.issuperset(cases):
        words = ["-d", number, "-plans_name", plans, "-c", configuration, "-np", each]
        run_command([script("nnUNetv2_preprocess"), *words], variables(workspace), log)
    return plans, configuration


def _data_identifier(configurations: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Return the folder of a configuration's cases, which it may inherit; raises ConfigError for one that needs
    another's predictions.
    """
    entry = configurations[name]
    if entry.get("previous_stage"):
        raise ConfigError(
            f"nnU-Net's configuration '{name}' needs predictions of {entry['previous_stage']}; train it with nnU-Net's "
            "own commands."
        )
    for _ in configurations:
        if "data_identifier" in entry:
            break
        entry = configurations.get(str(entry.get("inherits_from")), {})
    if "data_identifier" not in entry:
        raise ConfigError(
            f"nnU-Net's configuration '{name}' has no data_identifier of its own or inherited; plan anew with nnU-Net."
        )
    return str(entry["data_identifier"])


def train(
    workspace: Workspace, fold: Path, words: Sequence[str], *, resume: bool, environment: Mapping[str, str], log: Path
) -> None:
    """Train and validate one fold with nnU-Net, or what is left of it; raises SamunetError where the command failed.

    Args:
        fold: its folder.
        words: of nnU-Net's training command.
        resume: go on with a training that was interrupted, instead of starting from the beginning.
        environment: variables besides those of the workspace.
    """
    finished = (fold / FINISHED).is_file()
    if (fold / VALIDATION / SUMMARY).is_file():
        return
    if fold.is_dir() and not (resume or finished):
        shutil.rmtree(fold)
    goes_on = ["--c"] if fold.is_dir() else []
    if finished:
        goes_on = ["--val"]
    run_command([script("nnUNetv2_train"), *words, *goes_on], {**variables(workspace), **environment}, log)


def write_trainer(folder: Path, base: str, *, epochs: int, minutes: float, threads: int) -> str:
    """Write a trainer of another length for nnU-Net into a folder and return its name.

    Args:
        threads: of a CPU; 0 leaves nnU-Net's own choice.
    """
    name = f"{base}_{f'{minutes:g}min'.replace('.', '_') if minutes else f'{epochs}epochs_timed'}"
    write_text(
        folder / f"{name}.py", SOURCE.format(base=base, name=name, epochs=epochs, minutes=minutes, threads=threads)
    )
    return name


def variables(workspace: Workspace) -> dict[str, str]:
    """Return nnU-Net's environment variables of a workspace."""
    return {
        "nnUNet_raw": str(workspace.raw),
        "nnUNet_preprocessed": str(workspace.preprocessed),
        "nnUNet_results": str(workspace.results),
    }


def run_command(words: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """Run a program with further environment variables and add what it prints to a log; it ends when this process does.

    Raises:
        SamunetError: it failed; the log and its last line are named.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"\n$ {' '.join(words)}\n")
        file.flush()
        process = subprocess.Popen(
            guarded(words),
            env=environment_of_commands(**environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # the guard gives the program time to save
            process.wait()
            raise
    if code:
        last = next(
            (
                line.strip()
                for line in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines())
                if line.strip()
            ),
            "",
        )
        raise SamunetError(f"{Path(words[0]).name} ended with exit code {code}: {last} The whole output is in {log}.")


def script(name: str) -> str:
    """Return one of nnU-Net's commands, that of this Python's environment where it is there."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.is_file() else shutil.which(name) or name


def _plans_name(planner: str) -> str:
    """Return the name that one of nnU-Net's planners gives its plans."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    root = Path(nnunetv2.__path__[0]) / "experiment_planning"
    planner_class = recursive_find_python_class(str(root), planner, "nnunetv2.experiment_planning")
    if planner_class is None:
        raise ConfigError(
            f"nnU-Net has no planner '{planner}'; its own are ExperimentPlanner, nnUNetPlannerResEncM, "
            "nnUNetPlannerResEncL, ...XL."
        )
    return str(inspect.signature(planner_class.__init__).parameters["plans_name"].default)
