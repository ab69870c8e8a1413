"""Preprocessed cases to a trained and validated fold."""

from __future__ import annotations

import logging
import math
import os
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from samunet.checkpoints.file import load_checkpoint
from samunet.core.codec import digest, encode, write_json
from samunet.core.cost import COST
from samunet.core.dataset import Case, DatasetSpec, read_dataset_json
from samunet.core.lock import held, reading
from samunet.core.names import DEFAULT_TOLERANCE_MM
from samunet.core.plan import Plan, changed_for_training, digest_for_training, load_plan
from samunet.core.results import BEST, FINAL, LATEST, VALIDATION, VALIDATION_BEST, Seeds, Spread, model_folder
from samunet.core.units import counted
from samunet.core.workspace import Workspace
from samunet.errors import CheckpointError, ConfigError, DatasetError
from samunet.evaluation.score import Measures, scorer
from samunet.evaluation.summary import SUMMARY, CaseScore, Summary, read_summary, summarize, target_key, write_summary
from samunet.inference.files import predict_cases
from samunet.inference.load import load_predictor
from samunet.inference.options import FileOptions
from samunet.inference.prompted_predictor import PromptedPredictor
from samunet.machine.hardware import choose_device
from samunet.machine.progress import each
from samunet.pipeline.datasets import groups_of, keep_up_splits, open_dataset, refuse_proposals
from samunet.pipeline.options import TrainOptions
from samunet.pipeline.planning import open_plan, resolve
from samunet.pipeline.predicting import within_memory
from samunet.pipeline.run import build_trainer, settings_to_train, settle
from samunet.pipeline.simulated_prompts import prompts_for_validation
from samunet.planning.splits import Split, split_for_fold
from samunet.preprocessing.run import check_made_by
from samunet.preprocessing.storage import stored_cases
from samunet.training.config import TrainingConfig, settings_from
from samunet.training.cost import write_cost
from samunet.training.processes import joined
from samunet.training.stopping import StopRequest
from samunet.training.trainer import SAMTrainer

logger = logging.getLogger(__name__)

MOST_SCORED = 8  # cases at a time, as samunet_evaluate_folder


def train(
    workspace: Workspace, dataset_name: str, settings: TrainingConfig | Mapping[str, Any], options: TrainOptions
) -> Path:
    """Train one fold, validate it on whole cases, and return the fold's folder; checkpoint_final is absent where it was
    asked to stop.

    Args:
        settings: all of them; or those that differ from the defaults, and for a training that continues from its own.

    Raises:
        ConfigError: the fold is trained already, and is neither to go on nor to be replaced.
        InUseError: another command trains this fold, or writes the preprocessed cases.
    """
    plan = resolve(workspace, open_plan(workspace, dataset_name, options.plans_name), options.configuration)
    data = workspace.preprocessed / dataset_name / plan.configuration(options.configuration).data_identifier
    model = model_folder(workspace, dataset_name, options.plans_name, options.configuration)
    folder = model / f"fold_{options.fold}{options.variation}"
    if options.rank > 0:
        return _train(workspace, plan, data, folder, settings, options)
    with held(folder), reading(data):
        return _train(workspace, plan, data, folder, settings, options)


def _train(
    workspace: Workspace,
    plan: Plan,
    data: Path,
    folder: Path,
    settings: TrainingConfig | Mapping[str, Any],
    options: TrainOptions,
) -> Path:
    dataset_name, configuration = plan.dataset, plan.configuration(options.configuration)
    if not (data / "dataset.json").is_file():
        raise DatasetError(
            f"{dataset_name} is not preprocessed for {options.configuration} ({data} is absent). "
            f"Run first: samunet_preprocess -d {dataset_name} -c {options.configuration} -plans_name {plan.plans_name}"
        )
    spec = replace(read_dataset_json(data / "dataset.json"), name=dataset_name)
    split = fold_split(workspace, spec, stored_cases(data), options.fold)
    if not options.proposals:
        refuse_proposals(workspace, spec, sorted({*split.train, *split.val}))
    files = check_made_by(data, sorted({*split.train, *split.val}), spec, plan, configuration)
    device = choose_device(options.device)
    if options.only_validate and options.rank > 0:
        return folder
    if not options.only_validate:
        check_other_folds(folder, plan, spec, options.configuration, own=not options.resume)
        made_of = {
            "the split": digest([split.train, split.val]),
            "the meaning of the labels": digest([spec.labels.channels, spec.labels.regions_order, spec.labels.ignore]),
            "the files of cases": files,
            "the plan": digest_for_training(plan, options.configuration),
        }
        places = {"data": data, "folder": folder}
        run = settle(options, settings, plan=plan, spec=spec, split=split, made_of=made_of, device=device, **places)
        with (
            joined(options.rank, options.processes, device) as processes,
            StopRequest(folder, options.run.max_hours) as stopping,
        ):
            trainer = build_trainer(workspace, run, processes, stopping)
            try:
                finished = trainer.train()
                if finished:
                    _write_cost(trainer)
                    trainer.finish()
            finally:
                trainer.log.close()
        if not finished or options.rank > 0:
            return folder
    if options.only_validate or (options.validate and options.save_checkpoints):
        summary = validate(workspace, dataset_name, folder, split.val, options)
        of_cases = counted(len(split.val), "validation case")
        logger.info("Mean foreground Dice of %s: %.4f", of_cases, summary.foreground_mean.dice)
    return folder


def _write_cost(trainer: SAMTrainer) -> None:
    """Write what a training took that has come to its end, also where its run before was killed after the last step."""
    folder, state, trained = trainer.run.folder, trainer.state, trainer.state.step > trainer.taken_up_at
    if not trainer.processes.first or not (trained or not any((folder / name).is_file() for name in (COST, FINAL))):
        return
    write_cost(
        folder,
        trainer.run.device,
        minutes=trainer.schedule.minutes,
        wall_seconds=sum(trainer.log.times.get("seconds", [])),
        epochs=state.epoch,
        steps=state.step,
        last_learning_rate=max(group["lr"] for group in state.optimizer.param_groups),
    )


def train_seeds(
    workspace: Workspace, dataset_name: str, settings: Mapping[str, Any], options: TrainOptions, count: int
) -> Path | None:
    """Train a fold with several seeds, counting up from the one given, and write mean and spread of their Dice; raises
    CheckpointError where a seed was trained with other settings.

    The first seed's folder is the fold's own; the others' names end in _seed_<seed>, and prediction leaves them alone.
    A seed that is trained and validated already is not trained again. `max_hours` holds for all seeds together.

    Returns:
        The report's path; None when asked to stop before the last seed was done.
    """
    if options.extend:
        raise ConfigError("--extend adds epochs to one training; give it with the --seed of each, without --seeds.")
    first = int(settings.get("seed", TrainingConfig().seed))
    plan = resolve(workspace, open_plan(workspace, dataset_name, options.plans_name), options.configuration)
    planned_batch = plan.configuration(options.configuration).batch_size
    model = model_folder(workspace, dataset_name, options.plans_name, options.configuration)
    dice: dict[str, list[float | None]] = {}
    begun = time.monotonic()
    for seed in range(first, first + count):
        of_seed = replace(options, variation="" if seed == first else f"_seed_{seed}", validate=True)
        folder = model / f"fold_{options.fold}{of_seed.variation}"
        scores = folder / (VALIDATION_BEST if options.validate_best else VALIDATION) / SUMMARY
        done = is_finished(folder) and not options.overwrite
        if done:
            all_settings = {**encode(settings_from(settings)), "seed": seed}
            settings_to_train(all_settings, load_checkpoint(folder / FINAL), folder, planned_batch=planned_batch)
        if not (done and scores.is_file()):
            if hours := options.run.max_hours:
                hours -= (time.monotonic() - begun) / 3600
                if hours <= 0:
                    return None
            run = replace(options.run, max_hours=hours)
            train(workspace, dataset_name, {**settings, "seed": seed}, replace(of_seed, only_validate=done, run=run))
        if not is_finished(folder):
            return None
        summary = read_summary(scores)
        means = {target_key(target): metrics for target, metrics in summary.mean.items()}
        for name, metrics in {**means, "foreground_mean": summary.foreground_mean}.items():
            dice.setdefault(name, []).append(None if math.isnan(metrics.dice) else metrics.dice)
    spread = {}
    for name, values in dice.items():
        defined = [value for value in values if value is not None]
        if defined:
            deviation = statistics.stdev(defined) if len(defined) > 1 else None
            spread[name] = Spread(mean=statistics.fmean(defined), standard_deviation=deviation, each=tuple(values))
            text = f"{spread[name].mean:.4f}, standard deviation {deviation or math.nan:.4f}"
            logger.info("Dice of %s over %s: %s", name, counted(count, "seed"), text)
    report = model / f"fold_{options.fold}_seeds.json"
    write_json(report, Seeds(seeds=tuple(range(first, first + count)), dice=spread))
    return report


def is_finished(folder: Path) -> bool:
    """Tell whether a fold is trained to its end, and no training is under way that is to replace or extend it."""
    return (folder / FINAL).is_file() and not (folder / LATEST).is_file()


def fold_split(workspace: Workspace, spec: DatasetSpec, cases: Sequence[str], fold: str) -> Split:
    """Return a fold's cases, by the split and the groups that the raw dataset gives, if any.

    Args:
        spec: of the preprocessed cases; the raw dataset's groups come first, for they may have been added later.
    """
    groups = groups_of(workspace, spec, cases)
    split = split_for_fold(
        workspace.preprocessed / spec.name, cases, fold, raw_folder=workspace.raw / spec.name, groups=groups
    )
    if fold != "all":
        keep_up_splits(workspace, spec, cases)
    return split


def check_other_folds(folder: Path, plan: Plan, spec: DatasetSpec, name: str, *, own: bool = False) -> None:
    """Raise CheckpointError when trained folds beside `folder` are of another plan or other labels: all folds of a
    model share both.

    Args:
        own: look at a finished model in `folder` too, which predicts until a new one is there.
    """
    others = [
        path.parent.name
        for path in sorted(folder.parent.glob("fold_*/checkpoint_*"))
        if path.parent != folder or (own and (folder / FINAL).is_file())
    ]
    saved = folder.parent / "plans.json"
    if not others or not saved.is_file():
        return
    changed = changed_for_training(load_plan(saved), plan, name)
    if changed is None and read_dataset_json(folder.parent / "dataset.json").labels != spec.labels:
        changed = "labels"
    if changed is not None:
        raise CheckpointError(
            f"{folder.parent} holds {others[0]}, which was trained by another plan: {changed} changed since. Folds of "
            "one model share a plan; restore it, move the trained folds away, or plan under a name of its own "
            "(-overwrite_plans_name)."
        )


def validate(
    workspace: Workspace, dataset_name: str, folder: Path, identifiers: Sequence[str], options: TrainOptions
) -> Summary:
    """Predict whole cases from the raw images with a trained fold, score them, and write validation/summary.json."""
    checkpoint = BEST if options.validate_best else FINAL
    predictor = load_predictor(
        folder.parent,
        folds=[f"{options.fold}{options.variation}"],
        checkpoint=checkpoint,
        device=options.device,
        weights_folders=workspace.weights_folders,
    )
    dataset = open_dataset(workspace, dataset_name)
    cases = [case for case in dataset.cases if case.identifier in set(identifiers)]
    target = folder / (VALIDATION_BEST if options.validate_best else VALIDATION)
    shutil.rmtree(target, ignore_errors=True)  # cases of an earlier split must not count
    prompts = None
    if isinstance(predictor, PromptedPredictor):
        prompts = prompts_for_validation(predictor, cases, dataset)
    files = FileOptions(save_probabilities=options.save_probabilities, prompts=prompts, ending=dataset.spec.file_ending)
    files = within_memory(files, predictor)
    if failures := predict_cases(predictor, cases, target, files).failures:
        raise DatasetError(
            f"{counted(len(failures), 'validation case')} failed, first '{failures[0].identifier}': "
            f"{failures[0].reason}"
        )
    score_of = scorer(dataset.spec.labels, dataset.reader, Measures(tolerance=DEFAULT_TOLERANCE_MM))

    def score(case: Case) -> CaseScore:
        if case.label is None:
            raise DatasetError(f"Case '{case.identifier}' has no reference; add it to the dataset, or remove the case.")
        return score_of(case.label, target / f"{case.identifier}{dataset.spec.file_ending}")

    scored = each(score, cases, threads=min(MOST_SCORED, os.cpu_count() or 1), title="Scoring")
    summary = summarize(scored, None if prompts is None else prompts.origin, tolerance=DEFAULT_TOLERANCE_MM)
    write_summary(target / SUMMARY, summary)
    return summary
