"""Models of other programs: checkpoints of authors' code, read into a fold of samunet; MA-SAM's are written too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samunet import pipeline
from samunet.checkpoints import ma_sam, med_sa, samed
from samunet.checkpoints.file import (
    CHECKPOINT_FORMAT,
    Checkpoint,
    CheckpointState,
    check_frozen_weights,
    load_checkpoint,
    load_trainable_state,
    save_checkpoint,
    trainable_state,
)
from samunet.core.codec import atomic_path, write_json
from samunet.core.dataset import read_dataset_json
from samunet.core.labels import Labels
from samunet.core.names import DEFAULT_TRAINER
from samunet.core.plan import Configuration, Plan, load_plan, save_plan
from samunet.core.results import FINAL, model_folder
from samunet.core.workspace import Workspace
from samunet.errors import CheckpointError, ConfigError
from samunet.models.sam_with_sites import AdaptedSAM
from samunet.sam.weights import read_tensors
from samunet.training.config import TrainingConfig, deciding_settings
from samunet.variants.network import build_network


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """Checkpoints of a program."""

    title: str
    variant: str
    """The method that they fit."""
    options: dict[str, Any]
    """Options of the method, with which the weights were trained."""
    load: Callable[[Any, Mapping[str, Tensor]], None]
    """Fills a network of the method."""
    regions: bool = True
    """Whether outputs may be regions; otherwise they are classes with background, of which softmax makes chances."""
    told: Callable[[Mapping[str, Tensor]], dict[str, Any]] = lambda stored: {}
    """Returns the options that a file itself tells."""


MA_SAM = Foreign(
    title="MA-SAM", variant="ma_sam", options={"pixel_range": "unit"}, load=ma_sam.load_official, regions=False
)
SAMED = Foreign(
    title="SAMed",
    variant="samed",
    options={"pixel_range": "unit"},
    load=samed.load_official,
    regions=False,
    told=samed.options_of,
)


def med_sa_of(compat: str) -> Foreign:
    """Return Medical SAM Adapter's checkpoints, of the code that `compat` of med_sa_prompted names."""
    return Foreign(
        title="Medical SAM Adapter",
        variant="med_sa_prompted",
        options={"compat": compat, "prompts": "points"},
        load=med_sa.load_official,
    )


def import_checkpoint(
    workspace: Workspace,
    dataset: str,
    source: Path,
    foreign: Foreign,
    *,
    configuration: str,
    plans_name: str,
    fold: str,
) -> Path:
    """Make a fold that can predict from a checkpoint of the authors' code; returns the checkpoint's path.

    Args:
        dataset: name of a planned dataset with the same classes.
        source: the authors' file, adapters and decoder; SAM's weights are the plan's.
        configuration: of the foreign file's variant and with pretrained weights.

    Raises:
        ConfigError: the configuration is of another variant, or has no pretrained weights.
        WeightsAbsentError, CheckpointError: a file is absent, damaged, or of another network, or the fold exists or
            would stand beside folds of another plan.
    """
    plan = pipeline.resolve(workspace, pipeline.open_plan(workspace, dataset, plans_name), configuration)
    spec = read_dataset_json(workspace.raw / dataset / "dataset.json")
    entry = plan.configuration(configuration)
    _check_method(entry, foreign, spec.labels)
    if entry.weights is None:
        raise ConfigError(
            f"Configuration '{configuration}' has no pretrained weights, on which {foreign.title} was trained. Plan "
            "with -backbone."
        )
    folder = model_folder(workspace, dataset, plans_name, configuration)
    checkpoint = folder / f"fold_{fold}" / FINAL
    if checkpoint.exists():
        raise CheckpointError(f"{checkpoint} exists already; remove it, or give another fold with -f.")
    stored = read_tensors(source)
    # The weights mean nothing with others.
    options = {**entry.variant_options, **foreign.options, **foreign.told(stored)}
    entry = replace(entry, variant_options=options)
    plan = replace(plan, configurations={**plan.configurations, configuration: entry})
    pipeline.check_other_folds(checkpoint.parent, plan, spec, configuration)
    network = _network(plan, entry, spec.labels, workspace.weights_folders, foreign)
    foreign.load(network, stored)
    state = CheckpointState(
        format=CHECKPOINT_FORMAT,
        configuration=configuration,
        trainer=DEFAULT_TRAINER,
        step=0,
        epoch=0,
        epoch_loss=0.0,
        best_dice=-1.0,
        weights_sha256=entry.weights_sha256,
        scaler={},
        training=deciding_settings(TrainingConfig(), "fp32"),
        precision="fp32",
        history={},
    )
    write_json(folder / "dataset.json", spec.raw)
    save_plan(folder / "plans.json", plan)
    save_checkpoint(
        checkpoint, Checkpoint(state=state, model=trainable_state(network, pretrained=True), optimizer={}, random={})
    )
    return checkpoint


def export_ma_sam(
    workspace: Workspace, dataset: str, target: Path, *, configuration: str, plans_name: str, fold: str
) -> Path:
    """Write a trained fold as the authors' code saves its own, a .pth file that holds tensors only; returns its path.

    Raises:
        ConfigError: the fold is of another variant.
        CheckpointError: the fold is not trained, its checkpoint is damaged, or it sits on other weights than the plan
            names.
    """
    folder = model_folder(workspace, dataset, plans_name, configuration)
    checkpoint = folder / f"fold_{fold}" / FINAL
    if not checkpoint.is_file():
        raise CheckpointError(
            f"{checkpoint} does not exist; train first: samunet_train {dataset} {configuration} {fold}"
        )
    plan, stored = load_plan(folder / "plans.json"), load_checkpoint(checkpoint, with_optimizer=False)
    entry = plan.configuration(stored.state.configuration)
    check_frozen_weights(stored.state, entry, checkpoint)
    labels = read_dataset_json(folder / "dataset.json").labels
    _check_method(entry, MA_SAM, labels)
    network = _network(plan, entry, labels, workspace.weights_folders, MA_SAM)
    load_trainable_state(network, stored.weights, checkpoint, pretrained=True)
    with atomic_path(target) as temporary:
        torch.save(ma_sam.official_state(network), temporary)
    return target


def _check_method(configuration: Configuration, foreign: Foreign, labels: Labels) -> None:
    if labels.has_regions and not foreign.regions:
        raise ConfigError(
            f"{foreign.title}'s checkpoints have an output for background and one for each class, which exclude each "
            "other; the dataset's regions may overlap. Use a dataset with classes."
        )
    if configuration.variant != foreign.variant:
        raise ConfigError(
            f"{foreign.title}'s checkpoints fit the method {foreign.variant} only; the configuration has "
            f"{configuration.variant}. Use 3d_{foreign.variant}."
        )


def _network(
    plan: Plan, configuration: Configuration, labels: Labels, weights_folders: Sequence[Path], foreign: Foreign
) -> Any:
    network = build_network(plan, configuration, labels, weights_folders)
    if not isinstance(network, AdaptedSAM):
        raise ConfigError(
            f"The method {foreign.variant} comes from an installed package here; its checkpoints cannot be exchanged."
        )
    return network
