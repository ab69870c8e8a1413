"""Preprocessed cases to a trained and validated fold."""

from __future__ import annotations

import logging
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import samunet
from samunet.checkpoint import Checkpoint, load_checkpoint
from samunet.core.codec import decode, encode, write_json
from samunet.core.dataset import Case, DatasetSpec, read_dataset_json
from samunet.core.plan import DEFAULT_PLANS_NAME, Configuration, Plan, changed_for_training, load_plan, save_plan
from samunet.core.workspace import Workspace
from samunet.data.augmentation import Augmentation
from samunet.data.dataset import PreprocessedDataset
from samunet.data.loader import PatchSource, batches
from samunet.errors import CheckpointError, DatasetError
from samunet.evaluation.score import score_case, targets_from_labels
from samunet.evaluation.summary import CaseScore, Summary, summarize, write_summary
from samunet.hardware import choose_device, choose_precision, choose_workers
from samunet.inference.files import predict_cases
from samunet.inference.predictor import Predictor
from samunet.models.segmenter import SlabSegmenter
from samunet.network import build_network, check_frozen_weights
from samunet.pipeline.datasets import open_dataset
from samunet.pipeline.plans import open_plan, resolve
from samunet.planning.splits import Split, groups_from, split_for_fold
from samunet.preprocessing.run import check_made_by
from samunet.progress import each
from samunet.storage import stored_cases
from samunet.training.config import TrainingConfig
from samunet.training.trainer import BEST, FINAL, LATEST, Job, SAMTrainer, make_optimizer

logger = logging.getLogger(__name__)

DEFAULT_TRAINER = SAMTrainer.__name__


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Which training, and what to do around it."""

    configuration: str
    fold: str
    plans_name: str = DEFAULT_PLANS_NAME
    device: str | None = None
    resume: bool = False
    only_validate: bool = False
    validate_best: bool = False
    """Validate checkpoint_best instead of checkpoint_final."""
    save_checkpoints: bool = True
    validate: bool = True
    """Predict and score the validation cases at the end; needs checkpoints."""
    save_probabilities: bool = False


def train(workspace: Workspace, dataset_name: str, config: TrainingConfig, options: TrainOptions) -> Path:
    """Train one fold, validate it on whole cases, and return the fold's folder."""
    plan = resolve(workspace, open_plan(workspace, dataset_name, options.plans_name), options.configuration)
    configuration = plan.configuration(options.configuration)
    data = workspace.preprocessed / dataset_name / configuration.data_identifier
    if not (data / "dataset.json").is_file():
        raise DatasetError(
            f"{dataset_name} is not preprocessed for {options.configuration} ({data} is absent). "
            f"Run first: samunet_preprocess -d {dataset_name} -c {options.configuration}"
        )
    spec = replace(read_dataset_json(data / "dataset.json"), name=dataset_name)
    split = fold_split(workspace, spec, stored_cases(data), options.fold)
    check_made_by(data, sorted({*split.train, *split.val}), spec, plan, configuration)
    folder = model_folder(workspace, dataset_name, options.plans_name, options.configuration) / f"fold_{options.fold}"
    device = choose_device(options.device)
    if not options.only_validate:
        resume = _resumable(folder) if options.resume else None
        if resume is not None:
            _check_resume(resume, config, folder, plan, options.configuration)
        check_other_folds(folder, plan, spec, options.configuration)
        if not options.save_checkpoints and any(folder.glob("checkpoint_*")):
            raise CheckpointError(f"{folder} holds a trained fold, which a training without checkpoints would remove; choose another fold.")
        torch.manual_seed(config.seed)
        model = build_network(plan, configuration, spec.labels, workspace.weights_folders).to(device)
        trainer = _trainer(model, plan, configuration, spec, split.train, split.val, data, folder, config, options, device, resume)
        _prepare_folder(folder, plan, spec, config, fresh=resume is None)  # only now: a training that cannot begin removes nothing
        trainer.log.line(_describe(plan, options, configuration, device, trainer, len(split.train), len(split.val)))
        trainer.run()
    if options.only_validate or (options.validate and options.save_checkpoints):
        summary = validate(workspace, dataset_name, folder, split.val, options)
        logger.info("Mean foreground Dice of %d validation cases: %.4f", len(split.val), summary.foreground_mean.dice)
    return folder


def fold_split(workspace: Workspace, spec: DatasetSpec, cases: Sequence[str], fold: str) -> Split:
    """Return a fold's cases, by the split and the groups that the raw dataset gives, if any.

    Args:
        spec: of the preprocessed cases; the raw dataset's groups come first, for they may have been added later.
    """
    raw = workspace.raw / spec.name
    groups = groups_from((read_dataset_json(raw / "dataset.json") if (raw / "dataset.json").is_file() else spec).raw.get("groups"), cases)
    return split_for_fold(workspace.preprocessed / spec.name, cases, fold, raw_folder=raw, groups=groups)


def check_other_folds(folder: Path, plan: Plan, spec: DatasetSpec, name: str) -> None:
    """Raise CheckpointError when trained folds beside `folder` are of another plan or other labels: all folds of a model share both."""
    others = [path.parent.name for path in sorted(folder.parent.glob("fold_*/checkpoint_*")) if path.parent != folder]
    saved = folder.parent / "plans.json"
    if not others or not saved.is_file():
        return
    changed = changed_for_training(load_plan(saved), plan, name)
    if changed is None and read_dataset_json(folder.parent / "dataset.json").labels != spec.labels:
        changed = "labels"
    if changed is not None:
        raise CheckpointError(
            f"{folder.parent} holds {others[0]}, which was trained by another plan: {changed} changed since. Folds of one model share a plan; "
            "restore it, move the trained folds away, or plan under a name of its own (-overwrite_plans_name)."
        )


def validate(workspace: Workspace, dataset_name: str, folder: Path, identifiers: Sequence[str], options: TrainOptions) -> Summary:
    """Predict whole cases from the raw images with a trained fold, score them, and write validation/summary.json."""
    checkpoint = BEST if options.validate_best else FINAL
    predictor = Predictor.from_folder(
        folder.parent, folds=[options.fold], checkpoint=checkpoint, device=options.device, weights_folders=workspace.weights_folders
    )
    dataset = open_dataset(workspace, dataset_name)
    chosen = [case for case in dataset.cases if case.identifier in set(identifiers)]
    target = folder / ("validation_best" if options.validate_best else "validation")
    shutil.rmtree(target, ignore_errors=True)  # cases of an earlier split must not count
    failures = predict_cases(predictor, chosen, target, save_probabilities=options.save_probabilities)
    if failures:
        raise DatasetError(f"{len(failures)} validation cases failed, first '{failures[0].identifier}': {failures[0].reason}")
    labels = dataset.spec.labels

    def score(case: Case) -> CaseScore:
        prediction = target / f"{case.identifier}{dataset.spec.file_ending}"
        return score_case(case.label, prediction, targets=targets_from_labels(labels), ignore=labels.ignore, reader=dataset.reader)

    summary = summarize(each(score, chosen, threads=os.cpu_count() or 1, title="Scoring"))
    write_summary(target / "summary.json", summary)
    return summary


def model_folder(workspace: Workspace, dataset: str, plans_name: str, configuration: str, trainer: str = DEFAULT_TRAINER) -> Path:
    """Return nnU-Net's results folder of a model."""
    return workspace.results / dataset / f"{trainer}__{plans_name}__{configuration}"


def _trainer(
    model: SlabSegmenter,
    plan: Plan,
    configuration: Configuration,
    spec: DatasetSpec,
    train_cases: tuple[str, ...],
    val_cases: tuple[str, ...],
    data: Path,
    folder: Path,
    config: TrainingConfig,
    options: TrainOptions,
    device: torch.device,
    resume: Checkpoint | None,
) -> SAMTrainer:
    augmentation = Augmentation(
        patch_size=configuration.patch_size,
        mirror_axes=configuration.mirror_axes,
        masked_channels=tuple(index for index, channel in enumerate(plan.channels) if channel.within_mask),
    )
    batch_size = config.batch_size or configuration.batch_size
    workers, pin = choose_workers(config.workers, device), device.type == "cuda"
    sources = [
        PatchSource(
            cases=PreprocessedDataset(data, cases), augmentation=augmentation, batch_size=batch_size, seed=config.seed + offset, augmented=augmented
        )
        for cases, offset, augmented in ((train_cases, 0, config.augmentation == "default"), (val_cases, 1, False))
    ]
    if config.augmentation == "none" and all(source.cases.planes_fit(configuration.patch_size) for source in sources):
        embeddings = data.with_name(f"{data.name}_embeddings")
        if model.keep_embeddings(embeddings):
            logger.info("The encoder is frozen and every slice is seen whole: embeddings are computed once and kept in %s.", embeddings)
    return SAMTrainer(
        model=model,
        optimizer=make_optimizer(model, config),
        training=lambda first, steps: batches(sources[0], first_step=first, steps=steps, workers=workers, pin_memory=pin),
        validation=lambda first, steps: batches(sources[1], first_step=first, steps=steps, workers=0),
        config=config,
        labels=spec.labels,
        job=Job(
            configuration=options.configuration,
            trainer=DEFAULT_TRAINER,
            weights_sha256=configuration.weights_sha256,
        ),
        folder=folder,
        device=device,
        precision=choose_precision(config.precision, device),
        save=options.save_checkpoints,
        resume=resume,
    )


def _prepare_folder(folder: Path, plan: Plan, spec: DatasetSpec, config: TrainingConfig, *, fresh: bool) -> None:
    if fresh:
        for name in (LATEST, BEST, FINAL, "training_log.txt"):
            (folder / name).unlink(missing_ok=True)
    write_json(folder / "config.json", config)
    versions = {"samunet": samunet.__version__, "torch": torch.__version__, "python": platform.python_version(), "platform": platform.platform()}
    write_json(folder / "debug.json", {"versions": versions, "cpu_threads": torch.get_num_threads()})
    write_json(folder.parent / "dataset.json", spec.raw)
    save_plan(folder.parent / "plans.json", plan)


def _resumable(folder: Path) -> Checkpoint | None:
    """nnU-Net's order: final, latest, best; None, with a word, when there is nothing to continue."""
    for name in (FINAL, LATEST, BEST):
        if (folder / name).is_file():
            return load_checkpoint(folder / name)
    logger.info("Nothing to continue in %s; training starts from the beginning.", folder)
    return None


def _check_resume(resume: Checkpoint, config: TrainingConfig, folder: Path, plan: Plan, name: str) -> None:
    before = decode(TrainingConfig, resume.state.training, f"{folder.name}: training settings")
    changed = [key for key, value in encode(config).items() if value != encode(before)[key] and key != "workers"]
    if changed:
        was = ", ".join(f"{key} {encode(before)[key]} (now {encode(config)[key]})" for key in changed)
        raise CheckpointError(f"{folder} was trained with other settings: {was}. Continue with the same settings, or start anew without --c.")
    what = changed_for_training(load_plan(folder.parent / "plans.json"), plan, name)
    if what is not None:
        raise CheckpointError(f"{folder} was trained by another plan: {what} changed since. Restore the plan, or start anew without --c.")
    check_frozen_weights(resume.state, plan.configuration(name), folder)


def _describe(
    plan: Plan, options: TrainOptions, configuration: Configuration, device: torch.device, trainer: SAMTrainer, train_count: int, val_count: int
) -> str:
    train, frozen = (sum(p.numel() for p in trainer.model.parameters() if p.requires_grad == wanted) for wanted in (True, False))
    precision = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[trainer.precision]
    weights = "pretrained weights" if configuration.weights else "no pretrained weights"
    return (
        f"{plan.dataset} {options.configuration} fold {options.fold}: {train_count} training and {val_count} validation cases, "
        f"patch {' x '.join(map(str, configuration.patch_size))}, {configuration.backbone} ({weights}), "
        f"{train / 1e6:.1f} M parameters train, {frozen / 1e6:.1f} M are frozen, {device.type} in {precision}"
    )
