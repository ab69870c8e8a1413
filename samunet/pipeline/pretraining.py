"""From nothing but a seed number to a pretrained promptable network, by procedural scenes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

import samunet
from samunet.checkpoints.file import load_checkpoint, save_tensors
from samunet.core.codec import encode, write_json
from samunet.core.dataset import DatasetSpec
from samunet.core.fingerprint import IntensityStatistics
from samunet.core.labels import parse_labels
from samunet.core.lock import held
from samunet.core.plan import ChannelPlan, Configuration, Plan, Topology
from samunet.core.results import FINAL
from samunet.data.loader import batches
from samunet.machine.hardware import choose_device, choose_precision, choose_workers
from samunet.models.segmenter import SlabSegmenter
from samunet.pipeline.run import assemble, prepare, refuse_trained, resumable, settings_to_train
from samunet.planning.splits import Split
from samunet.pretraining.network import PretrainingNetwork
from samunet.pretraining.recipe import Learning, Recipe
from samunet.pretraining.source import SceneSource
from samunet.training.config import RunConfig
from samunet.training.processes import joined
from samunet.training.run import Run, Sources
from samunet.training.stopping import StopRequest
from samunet.variants.network import build_network

logger = logging.getLogger(__name__)

SEED_WEIGHTS, CARD = "seed.safetensors", "seed.json"
NOTHING_SEEN = IntensityStatistics(
    mean=0.0, median=0.0, std=1.0, minimum=-4.0, maximum=4.0, percentile_00_5=-3.0, percentile_99_5=3.0
)


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """Where a pretraining goes, and what to do around it."""

    folder: Path
    recipe: Recipe = Recipe()
    learning: Learning = Learning()
    device: str | None = None
    resume: bool = False
    overwrite: bool = False
    """A pretraining from the beginning may replace a finished one."""
    run: RunConfig = RunConfig()
    rank: int = 0
    processes: int = 1
    command: tuple[str, ...] = ()


def pretrain(options: PretrainOptions) -> Path | None:
    """Pretrain a network on scenes; returns the file of its weights, or None where it was asked to stop.

    Raises:
        ConfigError: the folder holds a finished pretraining, and is neither to go on nor to be replaced.
        InUseError: another command pretrains there.
    """
    if options.rank > 0:
        return _pretrain(options)
    with held(options.folder):
        return _pretrain(options)


def _pretrain(options: PretrainOptions) -> Path | None:
    run = _settle(options)
    with (
        joined(options.rank, options.processes, run.device) as processes,
        StopRequest(run.folder, options.run.max_hours) as stopping,
    ):
        prepare(run)
        model = _network(run, options).to(run.device)
        trainer = assemble(
            run, model, _sources(run, options.recipe, processes.items(run.config.batch_size)), processes, stopping
        )
        try:
            finished = trainer.train()
            if finished:
                trainer.finish()
        finally:
            trainer.log.close()
    return write_seed(run.folder, options.recipe) if finished and options.rank == 0 else None


def _settle(options: PretrainOptions) -> Run:
    folder = options.folder / "fold_all"
    resume = resumable(folder) if options.resume else None
    if resume is None:
        refuse_trained(folder, overwrite=options.overwrite)
    device, plan = choose_device(options.device), plan_of(options.recipe)
    name = next(iter(plan.configurations))
    config = settings_to_train(
        encode(options.learning), resume, folder, planned_batch=plan.configuration(name).batch_size
    )
    raw = {"channel_names": {"0": "scene"}, "labels": {"background": 0, "object": 1}, "file_ending": ".nii.gz"}
    spec = DatasetSpec(
        name=plan.dataset,
        channels=("scene",),
        labels=parse_labels(raw["labels"]),  # type: ignore[arg-type]
        file_ending=".nii.gz",
        num_training=0,
        reader=None,
        raw=raw | {"numTraining": 0},
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
        command=options.command,
    )


def plan_of(recipe: Recipe) -> Plan:
    """Return the plan of the network that a recipe pretrains."""
    flat = recipe.dimensions == 2
    # Slices are thick where a slab's voxels are; they meet early and are pooled late.
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
        median_shape=tuple(float(size) for size in recipe.shape),  # type: ignore[arg-type]
        patch_size=recipe.shape,
        batch_size=8 if flat else 2,
        backbone=recipe.backbone or "vit_nano",
        weights=None,
        weights_sha256=None,
        encoder_scale=2.0,
        topology=Topology(strides=strides, kernels=kernels, widths=widths),
        mirror_axes=(1, 2),
        variant_options={
            "sam_path": bool(recipe.backbone),
            "class_tokens": recipe.tokens,
            "maps": recipe.maps,
        },
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


def _network(run: Run, options: PretrainOptions) -> SlabSegmenter:
    network = build_network(run.plan, run.configuration, run.spec.labels)
    model = PretrainingNetwork(network, run.configuration.topology.widths[0], auxiliary=options.recipe.auxiliary)  # type: ignore[arg-type]
    return model


def _sources(run: Run, recipe: Recipe, items: range) -> Sources:
    training, validation = (
        SceneSource(shape=recipe.shape, batch_size=run.config.batch_size, seed=run.config.seed + offset)
        for offset in (0, 1 << 32)
    )
    workers = choose_workers(run.config.workers, run.device)
    return Sources(
        training=lambda first, steps: batches(
            training, first_step=first, steps=steps, workers=workers, pin_memory=run.device.type == "cuda", items=items
        ),
        validation=lambda first, steps: batches(validation, first_step=first, steps=steps, workers=0, items=items),
        cases=lambda step: [f"scene {step * run.config.batch_size + item}" for item in items],
    )


def write_seed(folder: Path, recipe: Recipe) -> Path:
    """Write the weights of a finished pretraining as fp16, and a card that says what they are; returns their path."""
    checkpoint = load_checkpoint(folder / FINAL)
    prefix = "network."
    weights = {
        name.removeprefix(prefix): tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.weights.items()
        if name.startswith(prefix)
    }
    path = folder.parent / SEED_WEIGHTS
    save_tensors(path, weights)
    write_json(
        folder.parent / CARD,
        {
            "recipe": encode(recipe),
            "training": checkpoint.state.training,
            "steps": checkpoint.state.step,
            "samunet": samunet.__version__,
            "contains": "weights learned from procedural scenes; no image of any patient",
        },
    )
    return path
