"""The arrows between the nouns, and the only place where stages meet.

dataset -> fingerprint -> plan -> preprocessed cases -> checkpoint -> predictions -> scores.
"""

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
from samunet.checking.run import CheckReport, check_dataset
from samunet.checkpoint import Checkpoint, load_checkpoint
from samunet.core.codec import decode, encode, read_json, write_json
from samunet.core.dataset import Case, DatasetSpec, group_channels, read_dataset_json, training_cases
from samunet.core.fingerprint import Fingerprint
from samunet.core.geometry import Shape, Triple
from samunet.core.plan import DEFAULT_PLANS_NAME, Configuration, Plan, Topology, check_plans_name, load_plan, parse_configuration_name, save_plan
from samunet.core.plugins import load_variant
from samunet.core.workspace import Workspace
from samunet.data.augmentation import Augmentation
from samunet.data.dataset import PreprocessedDataset
from samunet.data.loader import PatchSource, batches
from samunet.errors import CheckpointError, ConfigError, DatasetError
from samunet.evaluation.score import score_case, targets_from_labels
from samunet.evaluation.summary import CaseScore, Summary, summarize, write_summary
from samunet.hardware import choose_device, choose_precision, choose_workers
from samunet.imageio import ImageReader, reader_for
from samunet.inference.files import Failure, predict_cases
from samunet.inference.predictor import PredictionOptions, Predictor, finished_folds
from samunet.models.segmenter import NetworkSpec, SlabSegmenter
from samunet.network import build_network, check_frozen_weights
from samunet.ops.normalize import scheme_for
from samunet.planning.extract import describes, extract_fingerprint
from samunet.planning.planners.default import Method, Target
from samunet.planning.planners.default import plan as make_plan
from samunet.planning.splits import split_for_fold
from samunet.preprocessing.run import preprocess_dataset
from samunet.progress import each
from samunet.sam.build import Backbone, backbone_named
from samunet.sam.checkpoints import find_weights, trusted_sha256
from samunet.sam.weights import check_weights
from samunet.storage import stored_cases
from samunet.training.config import TrainingConfig
from samunet.training.trainer import BEST, FINAL, LATEST, Job, SAMTrainer, make_optimizer

logger = logging.getLogger(__name__)

FINGERPRINT_FILE = "samunet_fingerprint.json"
DEFAULT_CONFIGURATIONS = ("3d_adapter", "2d_adapter")
DEFAULT_TRAINER = SAMTrainer.__name__
EMBEDDED_BACKBONE = "vit_tiny"


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """A dataset of nnUNet_raw, ready to be read."""

    folder: Path
    spec: DatasetSpec
    cases: tuple[Case, ...]
    reader: ImageReader


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What a user may ask of a plan."""

    plans_name: str = DEFAULT_PLANS_NAME
    memory_gib: float = 8.0
    """Of the GPU to plan for."""
    spacing: Triple | None = None
    """mm, in the files' axis order; overrides the rule."""
    backbone: str = "auto"
    weights: str | None = None
    """SAM checkpoint in the official layout: a path, or the name of an official one."""
    sha256: str | None = None
    """Of a checkpoint that is none of the official ones."""

    def __post_init__(self) -> None:
        check_plans_name(self.plans_name)


def open_dataset(workspace: Workspace, wanted: str | int) -> RawDataset:
    """Find a raw dataset by id or name and read its description; raises DatasetError when something is missing."""
    name = workspace.dataset_name(wanted)
    folder = workspace.raw / name
    spec = read_dataset_json(folder / "dataset.json")
    cases = training_cases(folder, spec)
    return RawDataset(folder=folder, spec=spec, cases=cases, reader=reader_for(spec.file_ending, spec.reader, cases[0].images[0]))


def check(workspace: Workspace, wanted: str | int, *, threads: int, quiet: bool = False) -> CheckReport:
    """Find everything that is wrong with a raw dataset, before anything of it is used."""
    return check_dataset(workspace.raw / workspace.dataset_name(wanted), threads=threads, quiet=quiet)


def extract(workspace: Workspace, dataset: RawDataset, *, threads: int, clean: bool, quiet: bool = False) -> Fingerprint:
    """Measure a dataset and keep the result; an existing fingerprint of the very same files is used unless `clean`."""
    path = workspace.preprocessed / dataset.spec.name / FINGERPRINT_FILE
    if path.is_file() and not clean and (known := _kept_fingerprint(path, dataset, threads=threads, quiet=quiet)) is not None:
        return known
    fingerprint = extract_fingerprint(dataset.spec, dataset.cases, dataset.reader, threads=threads, quiet=quiet)
    write_json(path, fingerprint)
    return fingerprint


def _kept_fingerprint(path: Path, dataset: RawDataset, *, threads: int, quiet: bool) -> Fingerprint | None:
    """Return a saved fingerprint if it has today's form and is of the very same files."""
    try:
        known = decode(Fingerprint, read_json(path), path.name)
    except ConfigError as error:
        logger.info("%s The dataset is measured anew.", error)
        return None
    if not describes(known, dataset.spec, dataset.cases, threads=threads, quiet=quiet):
        logger.info("The dataset has changed since %s was made; measuring anew.", path)
        return None
    logger.info("Using the fingerprint %s (--clean measures anew).", path)
    return known


def plan(workspace: Workspace, dataset: RawDataset, fingerprint: Fingerprint, options: PlanOptions) -> Plan:
    """Plan the default configurations and save the plan.

    Raises:
        WeightsAbsentError: the weights that are given, or that the backbone needs, are not on this machine.
        CheckpointError: the weights do not fit, or nothing says that their file can be trusted.
    """
    names = tuple(name for name in DEFAULT_CONFIGURATIONS if not (fingerprint.planar and name.startswith("3d")))
    made = _plan(workspace, dataset.spec, fingerprint, options, names, dataset.reader.name)
    save_plan(plan_path(workspace, dataset.spec.name, options.plans_name), made)
    return made


def plan_path(workspace: Workspace, dataset: str, plans_name: str) -> Path:
    """Return where a dataset's plan lies."""
    return workspace.preprocessed / dataset / f"{plans_name}.json"


def open_plan(workspace: Workspace, dataset: str, plans_name: str) -> Plan:
    """Read a saved plan; raises ConfigError that says how to make it when it is absent."""
    path = plan_path(workspace, dataset, plans_name)
    if not path.is_file():
        number = dataset[len("Dataset") :].split("_")[0].lstrip("0") or "0"
        raise ConfigError(f"{dataset} has no plan '{plans_name}' ({path}). Make it first: samunet_plan_and_preprocess -d {number}")
    return load_plan(path)


def resolve(workspace: Workspace, saved: Plan, name: str) -> Plan:
    """Return a plan that holds the configuration `name`, computed from the fingerprint when the saved one lacks it.

    Raises:
        ConfigError: the name is no configuration; the nearest one is named.
    """
    if name in saved.configurations:
        return saved
    dimensions, variant = parse_configuration_name(name)
    load_variant(variant)
    path = workspace.preprocessed / saved.dataset / FINGERPRINT_FILE
    fingerprint = decode(Fingerprint, read_json(path), path.name)
    if fingerprint.planar and dimensions == 3:
        raise ConfigError(f"{saved.dataset} holds 2D images, so configuration '{name}' does not exist; use 2d_adapter.")
    known = next(iter(saved.configurations.values()))
    options = PlanOptions(
        plans_name=saved.plans_name,
        memory_gib=saved.memory_gib,
        spacing=saved.asked_spacing,
        backbone=known.backbone,
        weights=known.weights,
        sha256=known.weights_sha256,
    )
    spec = read_dataset_json(workspace.raw / saved.dataset / "dataset.json")
    made = _plan(workspace, spec, fingerprint, options, (name,), saved.reader)
    own_reasons = {decision: reason for decision, reason in made.reasons.items() if decision.startswith(f"{name}:")}
    return replace(saved, configurations={**saved.configurations, **made.configurations}, reasons={**saved.reasons, **own_reasons})


def preprocess(workspace: Workspace, dataset: RawDataset, plan: Plan, name: str, *, threads: int, quiet: bool = False) -> Path:
    """Preprocess every training case for one configuration; returns the folder."""
    configuration = plan.configuration(name)
    folder = workspace.preprocessed / plan.dataset / configuration.data_identifier
    preprocess_dataset(folder, dataset.spec, dataset.cases, plan, configuration, dataset.reader, threads=threads, quiet=quiet)
    return folder


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
    split = split_for_fold(workspace.preprocessed / dataset_name, stored_cases(data), options.fold, raw_folder=workspace.raw / dataset_name)
    folder = model_folder(workspace, dataset_name, options.plans_name, options.configuration) / f"fold_{options.fold}"
    device = choose_device(options.device)
    if not options.only_validate:
        resume = _resumable(folder) if options.resume else None
        if resume is not None:
            _check_resume(resume, config, folder, configuration, options.configuration)
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


def trained_models(workspace: Workspace) -> tuple[Path, ...]:
    """List every model folder of samunet that has a finished fold."""
    found = sorted(workspace.results.glob(f"Dataset*/{DEFAULT_TRAINER}__*__*"))
    return tuple(folder for folder in found if finished_folds(folder))


def cases_to_predict(source: Path, spec: DatasetSpec, folder: Path) -> tuple[Case, ...]:
    """List the cases of an input folder, or the one case of an input file.

    Raises:
        DatasetError: the input is absent or holds no file of the dataset's ending.
    """
    if source.is_file():
        stem = source.name.removesuffix(spec.file_ending)
        if stem == source.name:
            raise DatasetError(f"Input {source} does not end in {spec.file_ending}, the ending of {spec.name}; convert it.")
        return (Case(identifier=stem.removesuffix("_0000"), images=_channels_beside(source, spec), label=None),)
    if not source.is_dir():
        raise DatasetError(f"Input {source} does not exist; give a folder of images named <case>_0000{spec.file_ending}, or one such file.")
    grouped = group_channels(source, spec.file_ending)
    if not grouped:
        raise DatasetError(f"Input folder {source} holds no file named <case>_0000{spec.file_ending}, the form this model was trained on.")
    if source.resolve() == folder.resolve():
        raise DatasetError(f"Input and output are the same folder {source}; give another output folder.")
    return tuple(Case(identifier=name, images=files, label=None) for name, files in grouped.items())


def predict(
    predictor: Predictor, cases: Sequence[Case], folder: Path, *, save_probabilities: bool, skip_existing: bool, readers: int, writers: int
) -> tuple[Failure, ...]:
    """Predict cases into a folder, with the dataset.json and plans.json that evaluation needs."""
    spec = predictor.dataset
    wanted = [case for case in cases if not (skip_existing and _is_done(folder, case, spec, save_probabilities))]
    if len(wanted) < len(cases):
        logger.info("%d of %d cases are already predicted.", len(cases) - len(wanted), len(cases))
    write_json(folder / "dataset.json", spec.raw)
    save_plan(folder / "plans.json", predictor.plan)
    return predict_cases(
        predictor, wanted, folder, save_probabilities=save_probabilities, readers=readers, writers=writers, quiet=predictor.options.quiet
    )


def prediction_options(*, step_size: float, flips: bool, device: torch.device, quiet: bool) -> PredictionOptions:
    """Return sliding-window options with a tile batch that suits the device."""
    return PredictionOptions(step_size=step_size, flips=flips, tile_batch=1 if device.type == "cpu" else 4, quiet=quiet)


def _plan(workspace: Workspace, spec: DatasetSpec, fingerprint: Fingerprint, options: PlanOptions, names: Sequence[str], reader: str) -> Plan:
    backbone, weights, sha256, reason = _choose_backbone(options, workspace.weights_folders)
    target = Target(
        memory_gib=options.memory_gib,
        backbone=backbone.name,
        backbone_reason=reason,
        weights=None if weights is None else str(weights),
        weights_sha256=sha256,
        spacing=options.spacing,
        plans_name=options.plans_name,
        reader=reader,
    )
    methods = {name: _method(name, spec, backbone, pretrained=weights is not None) for name in names}
    return make_plan(fingerprint, spec, target, methods)


def _choose_backbone(options: PlanOptions, folders: Sequence[Path]) -> tuple[Backbone, Path | None, str | None, str]:
    """Return the backbone, its weights file and that file's hash, and the reason."""
    if options.backbone == "auto" and options.weights is None:
        reason = (
            f"{EMBEDDED_BACKBONE}, without pretrained weights; to start from SAM plan again with "
            "-backbone vit_b (samunet_weights download sam_vit_b gets its checkpoint)"
        )
        return backbone_named(EMBEDDED_BACKBONE), None, None, reason
    backbone = backbone_named("vit_b" if options.backbone == "auto" else options.backbone)
    if options.weights is None and not backbone.pretrained:
        return backbone, None, None, f"{backbone.name} as asked for, without pretrained weights"
    weights = find_weights(options.weights or f"sam_{backbone.name}", folders)
    sha256 = trusted_sha256(weights, options.sha256, folders)
    check_weights(backbone, weights)
    return backbone, weights, sha256, f"{backbone.name} with the pretrained weights {weights.name}"


def _method(name: str, spec: DatasetSpec, backbone: Backbone, *, pretrained: bool) -> Method:
    dimensions, variant_name = parse_configuration_name(name)
    variant = load_variant(variant_name)
    schemes = tuple(scheme_for(channel) for channel in spec.channels)

    def cost(topology: Topology, patch: Shape, scale: float, batch: int) -> float:
        network = NetworkSpec(
            schemes=schemes,
            labels=spec.labels,
            spacing=(1.0, 1.0, 1.0),
            patch_size=patch,
            encoder_scale=scale,
            topology=topology,
            pretrained=pretrained,
        )
        return variant.cost(network, backbone, batch)

    return Method(variant=variant_name, dimensions=dimensions, preferred=variant.preferred, cost=cost)


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


def _check_resume(resume: Checkpoint, config: TrainingConfig, folder: Path, configuration: Configuration, name: str) -> None:
    before = decode(TrainingConfig, resume.state.training, f"{folder.name}: training settings")
    changed = [key for key, value in encode(config).items() if value != encode(before)[key] and key != "workers"]
    if changed:
        was = ", ".join(f"{key} {encode(before)[key]} (now {encode(config)[key]})" for key in changed)
        raise CheckpointError(f"{folder} was trained with other settings: {was}. Continue with the same settings, or start anew without --c.")
    earlier = load_plan(folder.parent / "plans.json").configuration(name)
    without = {"weights": None, "weights_sha256": None}  # the file may have moved; its content is compared below
    if replace(earlier, **without) != replace(configuration, **without):
        raise CheckpointError(
            f"{folder} was trained by another plan: configuration {name} has changed since. Restore the plan, or start anew without --c."
        )
    check_frozen_weights(resume.state, configuration, folder)


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


def _channels_beside(source: Path, spec: DatasetSpec) -> tuple[Path, ...]:
    """All channel files of a case that is named by its first file."""
    stem = source.name.removesuffix(spec.file_ending)
    if not stem.endswith("_0000"):
        return (source,)
    return tuple(sorted(source.parent.glob(f"{stem[:-5]}_[0-9][0-9][0-9][0-9]{spec.file_ending}")))


def _is_done(folder: Path, case: Case, spec: DatasetSpec, save_probabilities: bool) -> bool:
    done = (folder / f"{case.identifier}{spec.file_ending}").is_file()
    return done and (not save_probabilities or (folder / f"{case.identifier}.npz").is_file())
