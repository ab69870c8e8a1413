"""From nothing but a seed number to a pretrained promptable network, by procedural scenes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

import samunet
from samunet.checkpoints.file import Checkpoint, load_checkpoint
from samunet.checkpoints.seeds import SHIPPED, save_seed
from samunet.core.codec import decode, encode, read_json, write_json
from samunet.core.dataset import DatasetSpec
from samunet.core.fingerprint import IntensityStatistics
from samunet.core.geometry import triple
from samunet.core.labels import parse_labels
from samunet.core.lock import held
from samunet.core.plan import ChannelPlan, Configuration, Plan, Topology
from samunet.core.results import FINAL
from samunet.data.loader import batches
from samunet.errors import CheckpointError, ConfigError
from samunet.machine.hardware import choose_device, choose_precision, choose_workers
from samunet.pipeline.run import assemble, prepare, refuse_trained, resumable, settings_to_train, start_from_seed
from samunet.planning.splits import Split
from samunet.pretraining.network import PretrainingNetwork
from samunet.pretraining.recipe import Learning, Recipe
from samunet.pretraining.source import TARGET, SceneSource
from samunet.training.config import RunConfig
from samunet.training.processes import Processes
from samunet.training.run import Run, Sources
from samunet.training.stopping import StopRequest
from samunet.variants.network import build_network
from samunet.variants.sam_unet_prompted.network import PromptedSAMUNet

SEED_WEIGHTS, CARD, RECIPE = "seed.safetensors", "seed.json", "recipe.json"
NOTHING_SEEN = IntensityStatistics(
    mean=0.0, median=0.0, std=1.0, minimum=-4.0, maximum=4.0, percentile_00_5=-3.0, percentile_99_5=3.0
)


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """Where a pretraining goes, and what to do around it."""

    folder: Path
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Recipe` that were given; the others have their defaults, or their values where it goes on."""
    learning: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Learning`, likewise."""
    device: str | None = None
    resume: bool = False
    overwrite: bool = False
    """A pretraining from the beginning may replace a finished one."""
    start: Path | None = None
    """Seed to start from; the one that comes with samunet is "seed"."""
    run: RunConfig = RunConfig()
    command: tuple[str, ...] = ()
    """What the user typed, for debug.json."""


def pretrain(options: PretrainOptions) -> Path | None:
    """Pretrain a network on scenes; returns the file of its weights, or None where it was asked to stop.

    Raises:
        ConfigError: the folder holds a finished pretraining, and is neither to go on nor to be replaced; or the recipe
            contradicts itself.
        CheckpointError: the pretraining to go on with has another recipe or other settings.
        InUseError: another command pretrains there.
    """
    with held(options.folder):
        folder = options.folder / "fold_all"
        resume = resumable(folder) if options.resume else None
        begun = options.folder / RECIPE
        options = _with_begun(options, begun) if options.resume and resume is None and begun.is_file() else options
        recipe = _recipe(options, resume)
        run = _settle(options, recipe, resume, folder)
        with StopRequest(folder, options.run.max_hours) as stopping:
            prepare(run)
            network = build_network(run.plan, run.configuration, run.spec.labels)
            features = run.configuration.topology.widths[0]
            model = PretrainingNetwork(cast(PromptedSAMUNet, network), features, auxiliary=recipe.auxiliary)
            started = None
            if options.start is not None and resume is None:
                started = start_from_seed(network, options.start, recipe.dimensions)
            if resume is None:
                start = options.start if options.start in (None, SHIPPED) else options.start.absolute()
                asked = {"recipe": options.recipe, "learning": options.learning, "start": start and str(start)}
                write_json(begun, asked)
            trainer = assemble(run, model.to(run.device), _sources(run, recipe), Processes(), stopping)
            if started:
                trainer.log.line(started)
            try:
                finished = trainer.train()
                if finished:
                    trainer.finish()
            finally:
                trainer.log.close()
        return write_seed(folder) if finished else None


def _with_begun(options: PretrainOptions, begun: Path) -> PretrainOptions:
    """Return the options with those of a pretraining that was stopped before its first checkpoint."""
    asked = read_json(begun)
    if set(asked) != {"recipe", "learning", "start"}:
        raise CheckpointError(f"{begun} is of an earlier version, and there is no checkpoint; start again without --c.")
    if options.start is not None:
        raise ConfigError("-pretrained_weights is where a pretraining begins; leave it out with --c.")
    for part, given in (("recipe", options.recipe), ("learning", options.learning)):
        _refuse_changes(options.folder, asked[part], {name: given[name] for name in given if name in asked[part]})
    start = None if asked["start"] is None else Path(asked["start"])
    recipe, learning = {**asked["recipe"], **options.recipe}, {**asked["learning"], **options.learning}
    return replace(options, recipe=recipe, learning=learning, start=start)


def _refuse_changes(folder: Path, before: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if before[name] != value:
            raise CheckpointError(
                f"{folder} was pretrained with {name} {before[name]} (now {value}). Continue with the same, or start "
                "again without --c."
            )


def _recipe(options: PretrainOptions, resume: Checkpoint | None) -> Recipe:
    """Return what was asked for, or what a pretraining goes on with."""
    if resume is None:
        return Recipe(**options.recipe)
    if not resume.state.recipe:
        raise CheckpointError(f"{options.folder} was pretrained by an earlier version; start again without --c.")
    _refuse_changes(options.folder, resume.state.recipe, options.recipe)
    return decode(Recipe, resume.state.recipe, f"{options.folder}: recipe")


def _settle(options: PretrainOptions, recipe: Recipe, resume: Checkpoint | None, folder: Path) -> Run:
    if resume is None:
        refuse_trained(folder, overwrite=options.overwrite, ways_on=("--c writes its weights again",))
    device, plan = choose_device(options.device), plan_of(recipe)
    name = next(iter(plan.configurations))
    settings = encode(Learning(**options.learning)) if resume is None else options.learning
    batch = plan.configuration(name).batch_size
    config = settings_to_train(settings, resume, folder, planned_batch=batch, extendable=False)
    labels = {"background": 0, "object": TARGET}
    raw = {"channel_names": {"0": "scene"}, "labels": labels, "numTraining": 0, "file_ending": ".nii.gz"}
    spec = DatasetSpec(
        name=plan.dataset,
        channels=("scene",),
        labels=parse_labels(labels),
        file_ending=".nii.gz",
        num_training=0,
        reader=None,
        raw=raw,
    )
    return Run(
        plan=plan,
        name=name,
        spec=spec,
        fold="all",
        split=Split(train=(), val=()),
        data=folder,
        folder=folder,
        config=config,
        control=options.run,
        device=device,
        precision=choose_precision(config.precision, device),
        resume=resume,
        recipe=encode(recipe),
        command=options.command,
    )


def plan_of(recipe: Recipe) -> Plan:
    """Return the plan of the network that a recipe pretrains."""
    flat = recipe.dimensions == 2
    # Slices of a slab are up to several times as thick as its pixels: they are pooled last.
    strides = tuple(
        (1, 1, 1) if not stage else (1, 2, 2) if flat or stage < recipe.stages - 2 else (2, 2, 2)
        for stage in range(recipe.stages)
    )
    kernels = ((1, 3, 3) if flat else (3, 3, 3),) * recipe.stages
    widths = tuple(min(recipe.width * 2**stage, 8 * recipe.width) for stage in range(recipe.stages))
    configuration = Configuration(
        variant="sam_unet_prompted",
        dimensions=recipe.dimensions,
        data_identifier="scenes",
        spacing=(1.0, 1.0, 1.0),
        median_shape=triple(recipe.shape),
        patch_size=recipe.shape,
        batch_size=8 if flat else 2,
        backbone=recipe.backbone or "vit_nano",
        weights=None,
        weights_sha256=None,
        encoder_scale=2.0,
        topology=Topology(strides=strides, kernels=kernels, widths=widths),
        mirror_axes=(1, 2),
        variant_options={"sam_path": bool(recipe.backbone), "class_tokens": recipe.tokens, "maps": recipe.maps},
    )
    name = f"{recipe.dimensions}d_sam_unet_prompted"
    return Plan(
        dataset="Dataset000_Scenes",
        plans_name="samunetScenes",
        reader="SimpleITKIO",
        memory_gib=8.0,
        precision="mixed",
        asked_spacing=None,
        transpose=(0, 1, 2),
        channels=(ChannelPlan(name="scene", scheme="zscore", within_mask=False, intensities=NOTHING_SEEN),),
        configurations={name: configuration},
        reasons={"all": "made for pretraining on procedural scenes"},
    )


def _sources(run: Run, recipe: Recipe) -> Sources:
    training, validation = (
        SceneSource(shape=recipe.shape, batch_size=run.config.batch_size, seed=run.config.seed + offset)
        for offset in (0, 1 << 32)
    )
    workers = choose_workers(run.config.workers, run.device)
    return Sources(
        training=lambda first, steps: batches(
            training, first_step=first, steps=steps, workers=workers, pin_memory=run.device.type == "cuda"
        ),
        validation=lambda first, steps: batches(validation, first_step=first, steps=steps, workers=0),
        cases=lambda step: [f"scene {step * run.config.batch_size + item}" for item in range(run.config.batch_size)],
    )


def write_seed(folder: Path) -> Path:
    """Write the weights of a finished pretraining as fp16, and a card that says what they are; returns their path."""
    checkpoint = load_checkpoint(folder / FINAL)
    prefix = "network."  # of PretrainingNetwork
    weights = {
        name.removeprefix(prefix): tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.weights.items()
        if name.startswith(prefix)
    }
    card = {
        "recipe": checkpoint.state.recipe,
        "training": checkpoint.state.training,
        "steps": checkpoint.state.step,
        "dice": checkpoint.state.history["mean_fg_dice"][-1],
        "samunet": samunet.__version__,
        "contains": "weights learned from procedural scenes; no image of any patient",
    }
    path = folder.parent / SEED_WEIGHTS
    save_seed(path, weights, card)
    write_json(folder.parent / CARD, card)
    return path
