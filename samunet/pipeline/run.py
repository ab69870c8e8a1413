"""Settle what trains one fold, and put it together: from what was asked for to a `Run`, and from that to a trainer."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import samunet
from samunet.checkpoints.file import Checkpoint, check_frozen_weights, load_checkpoint, load_fitting
from samunet.checkpoints.seeds import SHIPPED, is_seed, load_seed, shipped_seed
from samunet.core.codec import decode, encode, write_json
from samunet.core.dataset import DatasetSpec
from samunet.core.parts import is_part, remove_part
from samunet.core.plan import Plan, changed_for_training, load_plan, save_plan
from samunet.core.results import BEST, FINAL, LATEST
from samunet.core.units import counted
from samunet.core.workspace import Workspace
from samunet.data.augmentation import Augmentation
from samunet.data.dataset import PreprocessedDataset
from samunet.data.loader import PatchSource, batches
from samunet.errors import CheckpointError, ConfigError
from samunet.evaluation.colors import class_colors
from samunet.inference.whole import mean_dice
from samunet.machine.hardware import (
    choose_precision,
    choose_workers,
    fast_fp32_products_are_exact,
    use_fast_fp32_products,
)
from samunet.models.segmenter import PromptedSegmenter, SlabSegmenter
from samunet.pipeline.options import TrainOptions
from samunet.planning.splits import Split
from samunet.training.config import TrainingConfig, settings_from
from samunet.training.log import RECORDS, TEXT, TrainingLog
from samunet.training.optimizer import make_optimizer
from samunet.training.processes import Processes
from samunet.training.run import Run, Sources
from samunet.training.sinks import WANDB_ID, Sink, open_sinks, require_sinks
from samunet.training.stopping import FILE as STOP_FILE
from samunet.training.stopping import StopRequest
from samunet.training.trainer import SAMTrainer
from samunet.variants.network import build_network

logger = logging.getLogger(__name__)

WAYS_ON = ("--c --extend EPOCHS adds epochs", "--val validates it")
FREE = ("workers", "compile")  # settings on which the weights do not depend but for rounding


def settle(
    options: TrainOptions,
    settings: TrainingConfig | Mapping[str, Any],
    *,
    plan: Plan,
    spec: DatasetSpec,
    split: Split,
    data: Path,
    folder: Path,
    device: torch.device,
    made_of: Mapping[str, str],
) -> Run:
    """Return the training that is asked for, new or going on, or refuse it before anything in the folder is touched.

    Args:
        settings: see `settings_to_train`.
        made_of: see `Run`.

    Raises:
        ConfigError: the fold is trained already, or the settings contradict each other.
        CheckpointError: the training to go on with has other settings, another plan, other data or other weights.
    """
    if not options.save_checkpoints and any(folder.glob("checkpoint_*")):
        raise CheckpointError(
            f"{folder} holds a trained fold, which a training without checkpoints would remove; choose another fold."
        )
    resume = resumable(folder) if options.resume else None
    if resume is None:
        refuse_trained(folder, overwrite=options.overwrite)
    planned = plan.configuration(options.configuration).batch_size
    config = settings_to_train(settings, resume, folder, planned_batch=planned, extend=options.extend)
    if config.minutes and options.processes > 1:
        raise ConfigError(
            "A training of fixed minutes runs in one process; give --epochs and --iterations instead, or one GPU."
        )
    if resume is not None:
        check_resume(resume, folder, plan, options.configuration, made_of)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Run(
        plan=plan,
        name=options.configuration,
        spec=spec,
        fold=options.fold,
        split=split,
        data=data,
        folder=folder,
        config=config,
        control=options.run,
        device=device,
        precision=choose_precision(config.precision, device),
        saves=options.save_checkpoints,
        resume=resume,
        extended=options.extend > 0,
        pretrained=options.pretrained,
        made_of=dict(made_of),
        command=options.command,
    )


def resumable(folder: Path) -> Checkpoint | None:
    """Return the latest, final or best checkpoint, the first that is there; None, with a word, when there is nothing to
    continue.

    Beside a final one, the latest is of a training that is to replace or extend it.
    """
    for name in (LATEST, FINAL, BEST):
        if (folder / name).is_file():
            return load_checkpoint(folder / name)
    logger.info("Nothing to continue in %s; training starts from the beginning.", folder)
    return None


def refuse_trained(folder: Path, *, overwrite: bool, ways_on: Sequence[str] = WAYS_ON) -> None:
    """Raise ConfigError where a training from the beginning would replace a finished one that nobody said may go; say
    so where it may.

    Args:
        ways_on: what the command can do with a finished one, the first where no other was begun since.
    """
    latest = (folder / LATEST).is_file()
    if (folder / FINAL).is_file():
        if not overwrite:
            first = "--c continues the training that was to replace or extend it" if latest else ways_on[0]
            ways = ", ".join((first, *ways_on[1:], "--overwrite trains it again"))
            raise ConfigError(f"{folder} is trained; {ways}.")
        until = "whose model stays until the new one is there"
        logger.info("This training replaces the finished one in %s, %s.", folder, until)
    elif latest:
        logger.info("This training replaces the unfinished one in %s; --c would continue it.", folder)


def settings_to_train(
    settings: TrainingConfig | Mapping[str, Any],
    resume: Checkpoint | None,
    folder: Path,
    *,
    planned_batch: int,
    extend: int = 0,
    extendable: bool = True,
) -> TrainingConfig:
    """Return the settings of a training, with the plan's batch size where no other is given.

    Args:
        settings: all of them; or only those that were given, the others being the defaults, or those of the training
            that continues.
        planned_batch: patches per step by the plan.
        extend: epochs to add to a training that continues.
        extendable: whether the command can do that.

    Raises:
        CheckpointError: a setting differs from that of the training that continues.
        ConfigError: there is nothing to extend.
    """
    if resume is None:
        if extend:
            raise ConfigError(f"There is no training in {folder} to extend; train it first.")
        asked = settings if isinstance(settings, TrainingConfig) else settings_from(settings)
        return replace(asked, batch_size=asked.batch_size or planned_batch)
    stored = {**resume.state.training, "precision": resume.state.precision}
    before = decode(TrainingConfig, stored, f"{folder.name}: training settings")
    before = replace(before, batch_size=before.batch_size or planned_batch)  # 0 in files of earlier versions
    given, kept = encode(settings), encode(before)
    if given.get("batch_size") == 0:
        given["batch_size"] = planned_batch
    changed = [
        key
        for key, value in given.items()
        if value != kept[key] and key not in FREE and (key, value) != ("precision", "auto")
    ]
    if changed:
        was = ", ".join(f"{key} {kept[key]} (now {given[key]})" for key in changed)
        more = given["epochs"] - kept["epochs"] if changed == ["epochs"] else 0
        way_out = "Continue with the same settings, or start again without --c."
        if more > 0 and extendable and not before.minutes:
            way_out = f"To train {counted(more, 'epoch')} more, give --c --extend {more} instead of --epochs."
        raise CheckpointError(f"{folder} was trained with other settings: {was}. {way_out}")
    if before.minutes and extend:
        raise ConfigError(
            f"{folder} was trained for {before.minutes:g} minutes, which are over; train again with more instead of "
            "--extend."
        )
    free = {key: given[key] for key in FREE if key in given}
    stop = before.stop_epoch + extend if before.stop_epoch else 0
    return replace(before, epochs=before.epochs + extend, stop_epoch=stop, **free)


def check_resume(resume: Checkpoint, folder: Path, plan: Plan, name: str, made_of: Mapping[str, str]) -> None:
    """Raise CheckpointError when plan, frozen weights or data are no longer those of the training that continues.

    Args:
        made_of: see `Run`.
    """
    what = changed_for_training(load_plan(folder.parent / "plans.json"), plan, name)
    if what is not None:
        raise CheckpointError(
            f"{folder} was trained by another plan: {what} changed since. Restore the plan, or start again without --c."
        )
    changed = [part for part, before in resume.state.made_of.items() if made_of.get(part) != before]
    if changed:
        raise CheckpointError(
            f"{folder} was trained on other data: {changed[0]} changed since. Restore what was, or start again without "
            "--c."
        )
    check_frozen_weights(resume.state, plan.configuration(name), folder)


def build_trainer(workspace: Workspace, run: Run, processes: Processes, stopping: StopRequest) -> SAMTrainer:
    """Build model, optimizer, sources and log of a fold; only a training that can begin touches what lies in its
    folder.
    """
    prepare(run)
    model = build_network(run.plan, run.configuration, run.spec.labels, workspace.weights_folders).to(run.device)
    started = _start_from(model, run, run.pretrained) if run.resume is None and run.pretrained else None
    sources = _sources(model, run, processes.items(run.config.batch_size))
    trainer = assemble(run, model, sources, processes, stopping)
    if started:
        trainer.log.line(started)
    return trainer


def prepare(run: Run) -> None:
    """Set how this process computes, and seed it for a new network."""
    config = run.config
    fast = config.fast_fp32 and run.precision is None and run.device.type == "cpu" and fast_fp32_products_are_exact()
    use_fast_fp32_products(fast)
    if fast:
        logger.info("oneDNN multiplies matrices in fp32, as exactly as torch's default.")
    require_sinks(run.control.logs)
    torch.manual_seed(config.seed)


def assemble(
    run: Run, model: SlabSegmenter, sources: Sources, processes: Processes, stopping: StopRequest
) -> SAMTrainer:
    """Put a trainer together from a model on its device and what it learns from."""
    config = run.config
    if processes.rank:
        torch.manual_seed(config.seed + processes.rank)  # dropout differs from process to process
    sinks = _prepare_folder(run, processes) if processes.first else []
    processes.wait()
    history = run.resume.state.history if run.resume is not None else None
    colors = class_colors(run.spec.labels)
    log = TrainingLog(run.folder, history, sinks=sinks, colors=colors, active=processes.first)
    if config.compile:
        model.sums, model.loss = torch.compile(model.sums), torch.compile(model.loss)  # type: ignore[method-assign]
    optimizer = make_optimizer(model, config)
    trainer = SAMTrainer(
        run=run, model=model, optimizer=optimizer, sources=sources, log=log, stopping=stopping, processes=processes
    )
    log.line(_describe(trainer))
    return trainer


def _start_from(model: SlabSegmenter, run: Run, source: Path) -> str:
    """Fill a new model with a seed's or another checkpoint's weights, and say which."""
    pretrained = run.configuration.weights is not None
    if source == SHIPPED or is_seed(source):
        return start_from_seed(model, source, run.configuration.dimensions, pretrained=pretrained)
    other = load_checkpoint(source, with_optimizer=False)
    if other.state.weights_sha256 != run.weights_sha256:
        raise CheckpointError(
            f"{source} was trained on pretrained weights with SHA-256 {other.state.weights_sha256}, the plan names "
            f"{run.weights_sha256}; its adapters would sit on another encoder. Plan with the same weights."
        )
    return load_fitting(model, other.weights, source, pretrained=pretrained)


def start_from_seed(model: SlabSegmenter, source: Path, dimensions: int, *, pretrained: bool = False) -> str:
    """Fill a new model with what fits of a seed, and say what; of samunet's own where `source` is the word for it."""
    seed = load_seed(shipped_seed(dimensions) if source == SHIPPED else source)
    return load_fitting(model, seed.weights, seed.path, pretrained=pretrained)


def _sources(model: SlabSegmenter, run: Run, items: range) -> Sources:
    """Return the patches of a run, of which `items` says which samples of each batch are this process's."""
    config, device, configuration = run.config, run.device, run.configuration
    if config.whole_cases and isinstance(model, PromptedSegmenter):
        raise ConfigError(
            "Whole cases are predicted while training only where no prompts are needed; leave --whole_cases out."
        )
    augmentation = Augmentation(
        patch_size=configuration.patch_size,
        mirror_axes=configuration.mirror_axes,
        masked_channels=tuple(index for index, channel in enumerate(run.plan.channels) if channel.within_mask),
    )
    workers, pin = choose_workers(config.workers, device), device.type == "cuda"
    training, validation = (
        PatchSource(
            cases=PreprocessedDataset(run.data, cases),
            augmentation=augmentation,
            batch_size=config.batch_size,
            seed=config.seed + offset,
            augmented=augmented,
            balanced=config.balance_classes,
        )
        for cases, offset, augmented in (
            (run.split.train, 0, config.augmentation == "default"),
            (run.split.val, 1, False),
        )
    )
    seen_whole = config.augmentation == "none" and all(
        source.cases.planes_fit(configuration.patch_size) for source in (training, validation)
    )
    embeddings = run.data.with_name(f"{run.data.name}_embeddings")
    if seen_whole and model.keep_embeddings(embeddings):
        why = "The encoder is frozen and every slice is seen whole"
        logger.info("%s: embeddings are computed once and kept in %s.", why, embeddings)
    return Sources(
        training=lambda first, steps: batches(
            training, first_step=first, steps=steps, workers=workers, pin_memory=pin, items=items
        ),
        validation=lambda first, steps: batches(validation, first_step=first, steps=steps, workers=0, items=items),
        cases=lambda step: [training.place(step * config.batch_size + item)[0] for item in range(config.batch_size)],
        whole=_whole_cases(model, run) if config.whole_cases else None,
    )


def _whole_cases(model: SlabSegmenter, run: Run) -> Callable[[], float]:
    cases = PreprocessedDataset(run.data, run.split.val[: run.config.whole_cases])
    return lambda: mean_dice(model, cases, run.spec.labels, run.configuration.patch_size, run.device, run.precision)


def _prepare_folder(run: Run, processes: Processes) -> list[Sink]:
    """Start a new log, unless this training continues another, and write what describes it; returns the other logs."""
    folder = run.folder
    folder.mkdir(parents=True, exist_ok=True)
    for path in filter(is_part, folder.iterdir()):  # of a run that was killed while it wrote, maybe on another machine
        remove_part(path)
    if run.resume is None:
        (folder / WANDB_ID).unlink(missing_ok=True)
    sinks = open_sinks(run.control.logs, folder, f"{run.spec.name} {run.name} {folder.name}", run.settings)
    (folder / STOP_FILE).unlink(missing_ok=True)
    if run.resume is None:  # checkpoints and validation stay until this training's take their place
        for name in (TEXT, RECORDS):
            (folder / name).unlink(missing_ok=True)
    cases = {"training_cases": len(run.split.train), "validation_cases": len(run.split.val)}
    write_json(folder / "config.json", {**run.settings, **cases})
    versions = {
        "samunet": samunet.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    write_json(
        folder / "debug.json",
        {
            "command": list(run.command),
            "run": encode(run.control),
            "fold": run.fold,
            **cases,
            "processes": processes.count,
            "device": str(run.device),
            "workers": choose_workers(run.config.workers, run.device),
            "cpu_threads": torch.get_num_threads(),
            "versions": versions,
        },
    )
    write_json(folder.parent / "dataset.json", run.spec.raw)
    save_plan(folder.parent / "plans.json", run.plan)
    return sinks


def _describe(trainer: SAMTrainer) -> str:
    run, configuration = trainer.run, trainer.run.configuration
    parameters = list(trainer.model.parameters())
    train, frozen = (sum(p.numel() for p in parameters if p.requires_grad == trains) for trains in (True, False))
    weights = "pretrained weights" if configuration.weights else "no pretrained weights"
    several = f" in {trainer.processes.count} processes" if trainer.processes.count > 1 else ""
    begins = f", continues after step {trainer.state.step}" if trainer.state.step else ""
    return (
        f"{run.plan.dataset} {run.name} fold {run.fold}: {len(run.split.train)} training and "
        f"{counted(len(run.split.val), 'validation case')}, patch {' x '.join(map(str, configuration.patch_size))}, "
        f"{configuration.backbone} ({weights}), {train / 1e6:.1f} M parameters train, {frozen / 1e6:.1f} M are frozen, "
        f"{run.device.type} in {run.precision_name}{several}{begins}"
    )
