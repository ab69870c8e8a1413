"""Put together what trains one fold."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import samunet
from samunet.checkpoints.file import Checkpoint, load_checkpoint, load_fitting
from samunet.core.codec import encode, write_json
from samunet.core.dataset import DatasetSpec
from samunet.core.parts import is_part, remove_part
from samunet.core.plan import Configuration, Plan, save_plan
from samunet.core.results import DEFAULT_TRAINER
from samunet.core.workspace import Workspace
from samunet.data.augmentation import Augmentation
from samunet.data.dataset import PreprocessedDataset
from samunet.data.loader import PatchSource, batches
from samunet.errors import CheckpointError, ConfigError
from samunet.inference.whole import mean_dice
from samunet.machine.hardware import (
    PRECISION_NAMES,
    choose_precision,
    choose_workers,
    fast_fp32_products_are_exact,
    use_fast_fp32_products,
)
from samunet.models.segmenter import PromptedSegmenter, SlabSegmenter
from samunet.pipeline.options import TrainOptions
from samunet.planning.splits import Split
from samunet.training.config import TrainingConfig, deciding_settings
from samunet.training.log import RECORDS, TEXT, TrainingLog
from samunet.training.processes import Processes
from samunet.training.sinks import WANDB_ID, Sink, open_sinks, require_sinks
from samunet.training.stopping import FILE as STOP_FILE
from samunet.training.stopping import StopRequest
from samunet.training.trainer import Job, SAMTrainer, Sources, make_optimizer
from samunet.variants.network import build_network

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What is trained, on what, and where it lands."""

    plan: Plan
    spec: DatasetSpec
    split: Split
    data: Path
    """Preprocessed cases."""
    folder: Path
    config: TrainingConfig
    device: torch.device
    resume: Checkpoint | None


def build_trainer(
    workspace: Workspace, fold: Fold, options: TrainOptions, processes: Processes, stopping: StopRequest
) -> SAMTrainer:
    """Build model, optimizer, sources and log of a fold; only a training that can begin touches what lies in its folder."""
    config, device = fold.config, fold.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    configuration = fold.plan.configuration(options.configuration)
    precision = choose_precision(config.precision, device)
    fast = config.fast_fp32 and precision is None and device.type == "cpu" and fast_fp32_products_are_exact()
    use_fast_fp32_products(fast)
    if fast:
        logger.info("oneDNN multiplies matrices in fp32, as exactly as torch's default.")
    torch.manual_seed(config.seed)
    model = build_network(fold.plan, configuration, fold.spec.labels, workspace.weights_folders).to(device)
    started = (
        _start_from(model, options.pretrained, configuration) if fold.resume is None and options.pretrained else None
    )
    job = Job(
        configuration=options.configuration,
        trainer=DEFAULT_TRAINER,
        weights_sha256=configuration.weights_sha256,
        batch_size=config.batch_size or configuration.batch_size,
    )
    items = processes.items(job.batch_size)
    require_sinks(options.run.logs)
    sources = _sources(model, fold, configuration, job.batch_size, items, precision)
    if processes.rank:
        torch.manual_seed(config.seed + processes.rank)  # dropout differs from process to process
    settings = deciding_settings(config, PRECISION_NAMES[precision])
    sinks = _prepare_folder(fold, options, settings) if processes.first else []
    processes.wait()
    log = TrainingLog(
        fold.folder, fold.resume.state.history if fold.resume else None, sinks=sinks, active=processes.first
    )
    if config.compile:
        model.sums, model.loss = torch.compile(model.sums), torch.compile(model.loss)  # type: ignore[method-assign]
    trainer = SAMTrainer(
        model=model,
        optimizer=make_optimizer(model, config),
        sources=sources,
        config=config,
        run=options.run,
        labels=fold.spec.labels,
        job=job,
        log=log,
        folder=fold.folder,
        device=device,
        precision=precision,
        stopping=stopping,
        processes=processes,
        save=options.save_checkpoints,
        resume=fold.resume,
        extended=options.extend > 0,
    )
    log.line(_describe(fold, options, configuration, trainer))
    if started:
        log.line(started)
    return trainer


def _start_from(model: SlabSegmenter, source: Path, configuration: Configuration) -> str:
    """Fill a new model with another checkpoint's weights, and say which."""
    other = load_checkpoint(source, with_optimizer=False)
    if other.state.weights_sha256 != configuration.weights_sha256:
        raise CheckpointError(
            f"{source} was trained on pretrained weights with SHA-256 {other.state.weights_sha256}, the plan names "
            f"{configuration.weights_sha256}; its adapters would sit on another encoder. Plan with the same weights."
        )
    return load_fitting(model, other.weights, source, pretrained=configuration.weights is not None)


def _sources(
    model: SlabSegmenter,
    fold: Fold,
    configuration: Configuration,
    batch_size: int,
    items: range,
    precision: torch.dtype | None,
) -> Sources:
    config, device = fold.config, fold.device
    if config.whole_cases and isinstance(model, PromptedSegmenter):
        raise ConfigError(
            "Whole cases are predicted while training only where no prompts are needed; leave --whole_cases out."
        )
    augmentation = Augmentation(
        patch_size=configuration.patch_size,
        mirror_axes=configuration.mirror_axes,
        masked_channels=tuple(index for index, channel in enumerate(fold.plan.channels) if channel.within_mask),
    )
    workers, pin = choose_workers(config.workers, device), device.type == "cuda"
    training, validation = (
        PatchSource(
            cases=PreprocessedDataset(fold.data, cases),
            augmentation=augmentation,
            batch_size=batch_size,
            seed=config.seed + offset,
            augmented=augmented,
            balanced=config.balance_classes,
        )
        for cases, offset, augmented in (
            (fold.split.train, 0, config.augmentation == "default"),
            (fold.split.val, 1, False),
        )
    )
    if config.augmentation == "none" and all(
        source.cases.planes_fit(configuration.patch_size) for source in (training, validation)
    ):
        embeddings = fold.data.with_name(f"{fold.data.name}_embeddings")
        if model.keep_embeddings(embeddings):
            logger.info(
                "The encoder is frozen and every slice is seen whole: embeddings are computed once and kept in %s.",
                embeddings,
            )
    return Sources(
        training=lambda first, steps: batches(
            training, first_step=first, steps=steps, workers=workers, pin_memory=pin, items=items
        ),
        validation=lambda first, steps: batches(validation, first_step=first, steps=steps, workers=0, items=items),
        cases=lambda step: [training.place(step * batch_size + item)[0] for item in range(batch_size)],
        whole=_whole_cases(model, fold, configuration, precision) if config.whole_cases else None,
    )


def _whole_cases(
    model: SlabSegmenter, fold: Fold, configuration: Configuration, precision: torch.dtype | None
) -> Callable[[], float]:
    cases = PreprocessedDataset(fold.data, fold.split.val[: fold.config.whole_cases])
    return lambda: mean_dice(model, cases, fold.spec.labels, configuration.patch_size, fold.device, precision)


def _prepare_folder(fold: Fold, options: TrainOptions, settings: dict[str, Any]) -> list[Sink]:
    """Start a new log, unless this training continues another, and write what describes it; returns the other logs."""
    folder = fold.folder
    folder.mkdir(parents=True, exist_ok=True)
    for path in filter(is_part, folder.iterdir()):  # of a run that was killed while it wrote, maybe on another machine
        remove_part(path)
    if fold.resume is None:
        (folder / WANDB_ID).unlink(missing_ok=True)
    sinks = open_sinks(options.run.logs, folder, f"{fold.spec.name} {options.configuration} {folder.name}", settings)
    (folder / STOP_FILE).unlink(missing_ok=True)
    if fold.resume is None:  # checkpoints and validation stay until this training's take their place
        for name in (TEXT, RECORDS):
            (folder / name).unlink(missing_ok=True)
    write_json(folder / "config.json", settings)
    versions = {
        "samunet": samunet.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    write_json(
        folder / "debug.json",
        {
            "command": list(options.command),
            "run": encode(options.run),
            "fold": options.fold,
            "training_cases": len(fold.split.train),
            "validation_cases": len(fold.split.val),
            "processes": options.processes,
            "device": str(fold.device),
            "workers": choose_workers(fold.config.workers, fold.device),
            "cpu_threads": torch.get_num_threads(),
            "versions": versions,
        },
    )
    write_json(folder.parent / "dataset.json", fold.spec.raw)
    save_plan(folder.parent / "plans.json", fold.plan)
    return sinks


def _describe(fold: Fold, options: TrainOptions, configuration: Configuration, trainer: SAMTrainer) -> str:
    train, frozen = (
        sum(p.numel() for p in trainer.model.parameters() if p.requires_grad == wanted) for wanted in (True, False)
    )
    weights = "pretrained weights" if configuration.weights else "no pretrained weights"
    several = f" in {options.processes} processes" if options.processes > 1 else ""
    begins = f", continues after step {trainer.step}" if trainer.step else ""
    return (
        f"{fold.plan.dataset} {options.configuration} fold {options.fold}: {len(fold.split.train)} training and {len(fold.split.val)} validation "
        f"cases, patch {' x '.join(map(str, configuration.patch_size))}, {configuration.backbone} ({weights}), "
        f"{train / 1e6:.1f} M parameters train, {frozen / 1e6:.1f} M are frozen, "
        f"{fold.device.type} in {PRECISION_NAMES[trainer.precision]}{several}{begins}"
    )
