"""nnU-Net and samunet trained on the same cases, for equally long where that is asked, and compared."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from samunet.comparison import nnunet
from samunet.comparison.compare import Comparison
from samunet.comparison.from_folders import compare_trained, refuse_unnumbered
from samunet.core.codec import decode, encode, read_json, write_json
from samunet.core.cost import read_cost
from samunet.core.names import DEFAULT_PLANS_NAME
from samunet.core.plan import parse_configuration_name
from samunet.core.results import VALIDATION, model_folder
from samunet.core.units import counted
from samunet.core.workspace import Workspace, environment_of_commands
from samunet.errors import ConfigError
from samunet.evaluation.summary import SUMMARY
from samunet.machine.hardware import choose_device
from samunet.machine.progress import pool_of
from samunet.pipeline.datasets import RawDataset, extract, open_dataset
from samunet.pipeline.planning import open_plan, plan, plan_path, preprocess, resolve
from samunet.pipeline.training import fold_split, is_finished
from samunet.planning.options import PlanOptions
from samunet.planning.splits import SPLITS_FILE, Split, read_splits
from samunet.training.config import TrainingConfig
from samunet.training.pace import LARGEST_ERROR
from samunet.variants.method import load_variant

logger = logging.getLogger(__name__)

MATCHES = ("none", "epochs", "minutes")
FEWEST_EPOCHS = 30
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
SETTINGS_FILE, LOGS_FOLDER = "settings.json", "logs"
SUBSET_SEED = 12345  # nnU-Net's seed of splits


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Who is trained, on what and for how long."""

    configurations: tuple[str, ...]
    """samunet's: names of configurations, or <plans>__<configuration>."""
    folds: tuple[str, ...]
    match: str
    """One of MATCHES: each tool's own length; equally many epochs of 250 steps; equally many minutes."""
    minutes: float = 0.0
    epochs: int = TrainingConfig().epochs
    """Epochs of both sides, where epochs are matched."""
    train_cases: int = 0
    """Training cases of each fold, drawn at random and the same for both; 0 for all of them."""
    nnunet: nnunet.NNUNet = nnunet.NNUNet()
    device: str | None = None
    """None takes the best one present."""

    def __post_init__(self) -> None:
        if self.match not in MATCHES:
            raise ConfigError(f"--match takes one of {', '.join(MATCHES)}; got '{self.match}'.")
        if (self.match == "minutes") != (self.minutes > 0):
            raise ConfigError("--match minutes goes with --minutes N above 0, and --minutes with nothing else.")
        refuse_unnumbered(self.folds)
        if self.epochs < 1:
            raise ConfigError(f"--epochs takes a number above 0; got {self.epochs}.")
        if self.train_cases < 0:
            raise ConfigError(f"--num_train_cases takes a number above 0; got {self.train_cases}.")

    @property
    def epochs_of_minutes(self) -> int:
        """Epochs among which the minutes are divided: one per minute, thirty or more."""
        return max(FEWEST_EPOCHS, round(self.minutes))


@dataclass(frozen=True)
class Side:
    """One model of the comparison."""

    folder: Path
    train: Callable[[str], None]
    """Trains and validates a fold, or what is left of it."""


def run_against_nnunet(
    workspace: Workspace,
    dataset: str,
    settings: Settings,
    output: Path,
    *,
    tolerance: float,
    threads: int,
    jobs: int = 1,
) -> Comparison:
    """Plan, preprocess and train with both tools, whatever is not done yet, and compare their validation predictions.

    Lengths of their own and all cases: models lie in the workspace's results, as if the commands had been typed.
    Otherwise they lie in `output`, which holds a splits_final.json of its own, and preprocessed cases as links.

    Args:
        output: gets the report; a comparison that was interrupted goes on there.
        jobs: trainings at a time.

    Raises:
        ConfigError: nnU-Net is absent, `output` holds a comparison with other settings, or a training missed its
            minutes.
        SamunetError: a command failed.
    """
    nnunet.refuse_absent()
    for name in settings.configurations:
        if load_variant(parse_configuration_name(_plans_and_configuration(name)[1])[1]).prompted:
            raise ConfigError(
                f"{name} is shown where to look, nnU-Net is not; what they reach is not compared. Leave it out."
            )
    output = output.resolve()
    _refuse_other_settings(output, settings)
    raw = open_dataset(workspace, dataset)
    identifiers = tuple(case.identifier for case in raw.cases)
    splits = {fold: fold_split(workspace, raw.spec, identifiers, fold) for fold in settings.folds}
    fold_count = len(read_splits(workspace.preprocessed / raw.spec.name / SPLITS_FILE))
    if beyond := [fold for fold in settings.folds if int(fold) >= fold_count]:
        raise ConfigError(f"{raw.spec.name} has the folds 0 to {fold_count - 1} ({SPLITS_FILE}); got fold {beyond[0]}.")
    log = output / LOGS_FOLDER / "nnunet_plan.txt"
    plans, configuration = nnunet.plan_and_preprocess(
        workspace, raw.spec.name, identifiers, settings.nnunet, log, threads=threads
    )
    ours = [_plan_and_preprocess(workspace, raw, name, threads) for name in settings.configurations]
    place = workspace
    if settings.match != "none" or settings.train_cases:
        place = _place_of_its_own(workspace, raw.spec.name, output, splits, settings.train_cases)
    write_json(output / SETTINGS_FILE, settings)
    sides = [
        _nnunets_side(place, raw.spec.name, settings, base, plans, configuration, output)
        for base in settings.nnunet.trainers
    ]
    sides += [_our_side(place, raw.spec.name, settings, *names, output) for names in ours]

    def train(job: tuple[Side, str]) -> None:
        side, fold = job
        logger.info("Training %s, fold %s", side.folder.name, fold)
        side.train(fold)
        _refuse_missed_minutes(side.folder / f"fold_{fold}", settings)

    with pool_of(jobs) as pool:
        list(pool.map(train, [(side, fold) for side in sides for fold in settings.folds]))
    models = [side.folder.name for side in sides]
    return compare_trained(
        place, raw.spec.name, models, output, tolerance=tolerance, threads=threads, folds=settings.folds
    )


def draw_cases(split: Split, count: int) -> Split:
    """Return a split with so many training cases, drawn without replacement by a fixed seed; the validation cases stay.
    Raises ConfigError where it has fewer.
    """
    if not count:
        return split
    if count > len(split.train):
        raise ConfigError(
            f"--num_train_cases asks for {counted(count, 'training case')}; the fold has {len(split.train)}."
        )
    order = np.random.default_rng(SUBSET_SEED).permutation(sorted(split.train))
    return replace(split, train=tuple(sorted(order[:count].tolist())))


def _refuse_other_settings(output: Path, settings: Settings) -> None:
    """Further configurations and trainers may join a comparison; all else must be what it was."""
    path = output / SETTINGS_FILE
    if not path.is_file():
        return
    before = decode(Settings, read_json(path), str(path))
    joined = replace(
        before, configurations=settings.configurations, nnunet=replace(before.nnunet, trainers=settings.nnunet.trainers)
    )
    if joined != settings:
        earlier = encode(joined)
        changed = ", ".join(
            f"{name} {earlier[name]} (now {value})"
            for name, value in encode(settings).items()
            if value != earlier[name]
        )
        raise ConfigError(f"{output} holds a comparison with other settings: {changed}. Give another folder with -o.")


def _plans_and_configuration(name: str) -> tuple[str, str]:
    """Part a name of `Settings.configurations`."""
    plans, _, configuration = name.rpartition("__")
    return plans or DEFAULT_PLANS_NAME, configuration


def _plan_and_preprocess(workspace: Workspace, raw: RawDataset, name: str, threads: int) -> tuple[str, str]:
    """Plan and preprocess with samunet, where that is not done; returns the names of plan and configuration."""
    plans, configuration = _plans_and_configuration(name)
    if plans == DEFAULT_PLANS_NAME and not plan_path(workspace, raw.spec.name, plans).is_file():
        plan(workspace, raw, extract(workspace, raw, threads=threads, clean=False), PlanOptions())
    resolved = resolve(workspace, open_plan(workspace, raw.spec.name, plans), configuration)
    if not (
        workspace.preprocessed / raw.spec.name / resolved.configuration(configuration).data_identifier / "dataset.json"
    ).is_file():
        preprocess(workspace, raw, resolved, configuration, threads=threads)
    return plans, configuration


def _place_of_its_own(
    workspace: Workspace, dataset: str, output: Path, splits: dict[str, Split], count: int
) -> Workspace:
    """Return a workspace in `output` with the same cases and plans, and splits of which only the folds meant may have
    fewer training cases.
    """
    place = replace(
        workspace, preprocessed_folder=output / "nnUNet_preprocessed", results_folder=output / "nnUNet_results"
    )
    source, target = (folder.preprocessed / dataset for folder in (workspace, place))
    target.mkdir(parents=True, exist_ok=True)
    place.results.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.name == SPLITS_FILE or path.name.startswith(".") or (path.is_dir() and (target / path.name).exists()):
            continue
        if path.is_dir():
            (target / path.name).symlink_to(path.resolve(), target_is_directory=True)
        elif path.suffix == ".json":
            shutil.copyfile(path, target / path.name)
    written = read_json(source / SPLITS_FILE)
    for fold, split in splits.items():
        written[int(fold)] = encode(draw_cases(split, count))
    write_json(target / SPLITS_FILE, written)
    return place


def _nnunets_side(
    place: Workspace, dataset: str, settings: Settings, base: str, plans: str, configuration: str, output: Path
) -> Side:
    trainer, trainers = base, output / "trainers"
    device = choose_device(settings.device)
    environment = _visible(device)
    if settings.match != "none":
        epochs = settings.epochs_of_minutes if settings.minutes else settings.epochs
        trainer = nnunet.write_trainer(
            trainers, base, epochs=epochs, minutes=settings.minutes, threads=_threads(device)
        )
        own_trainers = environment_of_commands().get(nnunet.TRAINERS_VARIABLE)
        environment[nnunet.TRAINERS_VARIABLE] = os.pathsep.join(
            [str(trainers), *([own_trainers] if own_trainers else [])]
        )
    if settings.minutes and device.type == "cpu":
        environment["nnUNet_n_proc_DA"] = "0"  # augmentation in the training process, where its clock counts it
    model = model_folder(place, dataset, plans, configuration, trainer)

    def train(fold: str) -> None:
        words, log = (
            [dataset, configuration, fold, "-tr", trainer, "-p", plans, "-device", device.type],
            output / LOGS_FOLDER / f"{trainer}_{fold}.txt",
        )
        nnunet.train(
            place, model / f"fold_{fold}", words, resume=not settings.minutes, environment=environment, log=log
        )

    return Side(model, train)


def _our_side(place: Workspace, dataset: str, settings: Settings, plans: str, configuration: str, output: Path) -> Side:
    model = model_folder(place, dataset, plans, configuration)
    device = choose_device(settings.device)
    threads = _threads(device)
    environment = _visible(device) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    words: list[str] = ["-p", plans, "-device", device.type]
    if settings.match == "epochs":
        words += ["--epochs", str(settings.epochs)]
    if settings.minutes:
        words += ["--minutes", f"{settings.minutes:g}", "--epochs", str(settings.epochs_of_minutes)]
        words += ["--workers", "0"] if device.type == "cpu" else []

    def train(fold: str) -> None:
        folder = model / f"fold_{fold}"
        if (folder / VALIDATION / SUMMARY).is_file() and is_finished(folder):
            return
        goes_on = [] if settings.minutes else ["--c"]
        if is_finished(folder):
            goes_on = ["--val"]
        command = [sys.executable, "-m", "samunet.cli.train", dataset, configuration, fold, *words, *goes_on]
        nnunet.run_command(
            command,
            nnunet.variables(place) | environment,
            output / LOGS_FOLDER / f"{plans}__{configuration}_{fold}.txt",
        )

    return Side(model, train)


def _threads(device: torch.device) -> int:
    """Threads of a CPU, the same for both, which by themselves choose differently; 0 for another device."""
    return torch.get_num_threads() if device.type == "cpu" else 0


def _visible(device: torch.device) -> dict[str, str]:
    """Let the tools see one GPU only where one is named: nnU-Net's command takes the first that it sees."""
    if device.type != "cuda" or device.index is None:
        return {}
    visible = environment_of_commands().get(VISIBLE_GPUS)
    return {VISIBLE_GPUS: visible.split(",")[device.index] if visible else str(device.index)}


def _refuse_missed_minutes(fold: Path, settings: Settings) -> None:
    if not settings.minutes:
        return
    cost = read_cost(fold)
    minutes = cost.minutes if cost else None
    if minutes is None or abs(minutes / settings.minutes - 1) > LARGEST_ERROR:
        raise ConfigError(
            f"{fold} trained for {'an unknown time' if minutes is None else f'{minutes:.2f} minutes'} instead of "
            f"{settings.minutes:g}, more than {100 * LARGEST_ERROR:.0f} % off, so that the sides are not alike. Give "
            "more minutes, or remove the folder and run the command again."
        )
