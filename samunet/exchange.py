"""Models of other programs: MA-SAM's checkpoints, read into a fold of samunet and written from one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from samunet import pipeline
from samunet.checkpoint import FORMAT, Checkpoint, CheckpointState, load_checkpoint, load_trainable_state, save_checkpoint, trainable_state
from samunet.core.codec import atomic_path, encode, write_json
from samunet.core.dataset import read_dataset_json
from samunet.core.labels import Labels
from samunet.core.plan import Configuration, Plan, load_plan, save_plan
from samunet.core.results import DEFAULT_TRAINER, model_folder
from samunet.core.workspace import Workspace
from samunet.errors import CheckpointError, ConfigError
from samunet.models.promptfree import PromptFreeSAM
from samunet.network import build_network, check_frozen_weights
from samunet.sam.weights import read_tensors
from samunet.training.config import TrainingConfig
from samunet.training.trainer import FINAL
from samunet.variants._ma_sam_checkpoint import load_official, official_state


def import_ma_sam(workspace: Workspace, dataset: str, source: Path, *, configuration: str, plans_name: str, fold: str) -> Path:
    """Make a fold that can predict from a checkpoint of the authors' code; returns the checkpoint's path.

    Args:
        dataset: name of a planned dataset with the same classes.
        source: the authors' file, adapters and decoder; SAM's weights are the plan's.
        configuration: of the variant ma_sam and with pretrained weights.

    Raises:
        ConfigError: the configuration is of another variant, or has no pretrained weights.
        WeightsAbsentError, CheckpointError: a file is absent, damaged, or of another network, or the fold exists or would
            stand beside folds of another plan.
    """
    plan = pipeline.resolve(workspace, pipeline.open_plan(workspace, dataset, plans_name), configuration)
    spec = read_dataset_json(workspace.raw / dataset / "dataset.json")
    # The authors trained on pixels in [0, 1]; the weights mean nothing on others.
    entry = plan.configuration(configuration)
    entry = replace(entry, variant_options={**entry.variant_options, "pixel_range": "unit"})
    plan = replace(plan, configurations={**plan.configurations, configuration: entry})
    if entry.weights is None:
        raise ConfigError(f"Configuration '{configuration}' has no pretrained weights, and MA-SAM's files hold none of SAM's. Plan with -backbone.")
    folder = model_folder(workspace, dataset, plans_name, configuration)
    checkpoint = folder / f"fold_{fold}" / FINAL
    if checkpoint.exists():
        raise CheckpointError(f"{checkpoint} exists already; remove it, or give another fold with -f.")
    pipeline.check_other_folds(checkpoint.parent, plan, spec, configuration)
    network = _network(plan, entry, spec.labels, workspace.weights_folders)
    load_official(network, read_tensors(source))
    state = CheckpointState(
        format=FORMAT,
        configuration=configuration,
        trainer=DEFAULT_TRAINER,
        step=0,
        epoch=0,
        epoch_loss=0.0,
        best_dice=-1.0,
        weights_sha256=entry.weights_sha256,
        scaler={},
        training=encode(TrainingConfig()),
        precision="fp32",
        history={},
    )
    write_json(folder / "dataset.json", spec.raw)
    save_plan(folder / "plans.json", plan)
    save_checkpoint(checkpoint, Checkpoint(state=state, model=trainable_state(network, pretrained=True), optimizer={}, random={}))
    return checkpoint


def export_ma_sam(workspace: Workspace, dataset: str, target: Path, *, configuration: str, plans_name: str, fold: str) -> Path:
    """Write a trained fold as the authors' code saves its own, a .pth file that holds tensors only; returns its path.

    Raises:
        ConfigError: the fold is of another variant.
        CheckpointError: the fold is not trained, its checkpoint is damaged, or it sits on other weights than the plan names.
    """
    folder = model_folder(workspace, dataset, plans_name, configuration)
    checkpoint = folder / f"fold_{fold}" / FINAL
    if not checkpoint.is_file():
        raise CheckpointError(f"{checkpoint} does not exist; train first: samunet_train {dataset} {configuration} {fold}")
    plan, stored = load_plan(folder / "plans.json"), load_checkpoint(checkpoint, with_optimizer=False)
    entry = plan.configuration(stored.state.configuration)
    check_frozen_weights(stored.state, entry, checkpoint)
    network = _network(plan, entry, read_dataset_json(folder / "dataset.json").labels, workspace.weights_folders)
    load_trainable_state(network, stored.weights, checkpoint, pretrained=True)
    with atomic_path(target) as temporary:
        torch.save(official_state(network), temporary)
    return target


def _network(plan: Plan, configuration: Configuration, labels: Labels, weights_folders: Sequence[Path]) -> PromptFreeSAM:
    if configuration.variant != "ma_sam":
        raise ConfigError(f"MA-SAM's checkpoints fit the method ma_sam only; the configuration has {configuration.variant}. Use 3d_ma_sam.")
    network = build_network(plan, configuration, labels, weights_folders)
    if not isinstance(network, PromptFreeSAM):
        raise ConfigError("The method ma_sam comes from an installed package here; its checkpoints cannot be exchanged.")
    return network
