"""Models of other programs: MA-SAM's checkpoints, read into a fold of samunet and written from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from samunet.checkpoint import FORMAT, Checkpoint, CheckpointState, load_checkpoint, load_trainable_state, save_checkpoint, trainable_state
from samunet.core.codec import atomic_path
from samunet.core.labels import Labels
from samunet.core.plan import Configuration, Plan
from samunet.errors import ConfigError
from samunet.models.promptfree import PromptFreeSAM
from samunet.network import build_network, check_frozen_weights
from samunet.sam.weights import read_tensors
from samunet.variants import ma_sam


def import_ma_sam(
    source: Path,
    checkpoint: Path,
    *,
    plan: Plan,
    name: str,
    labels: Labels,
    trainer: str,
    training: Mapping[str, Any],
    weights_folders: Sequence[Path] = (),
) -> None:
    """Turn a checkpoint of the authors' code into one of samunet.

    Args:
        source: the authors' file, adapters and decoder; SAM's weights are the plan's.
        checkpoint: the file to write.
        name: configuration of the plan, of the variant ma_sam and with pretrained weights.
        trainer, training: what the checkpoint says it was made with.

    Raises:
        ConfigError: the configuration is of another variant, or has no pretrained weights.
        WeightsAbsentError, CheckpointError: a file is absent, damaged, or of another network.
    """
    configuration = plan.configuration(name)
    if configuration.weights is None:
        raise ConfigError(f"Configuration '{name}' has no pretrained weights, and MA-SAM's files hold none of SAM's. Plan with -backbone.")
    network = _network(plan, configuration, labels, weights_folders)
    ma_sam.load_official(network, read_tensors(source))
    state = CheckpointState(
        format=FORMAT,
        configuration=name,
        trainer=trainer,
        step=0,
        epoch=0,
        best_dice=-1.0,
        weights_sha256=configuration.weights_sha256,
        scaler={},
        training=dict(training),
        history={},
    )
    save_checkpoint(checkpoint, Checkpoint(state=state, model=trainable_state(network, pretrained=True), optimizer={}, random=None))


def export_ma_sam(checkpoint: Path, target: Path, *, plan: Plan, labels: Labels, weights_folders: Sequence[Path] = ()) -> None:
    """Write a trained fold as the authors' code saves its own: a .pth file that holds tensors only.

    Raises:
        ConfigError: the checkpoint is of another variant.
        CheckpointError: the checkpoint is absent or damaged, or sits on other weights than the plan names.
    """
    stored = load_checkpoint(checkpoint, with_optimizer=False)
    configuration = plan.configuration(stored.state.configuration)
    check_frozen_weights(stored.state, configuration, checkpoint)
    network = _network(plan, configuration, labels, weights_folders)
    load_trainable_state(network, stored.model, checkpoint, pretrained=True)
    with atomic_path(target) as temporary:
        torch.save(ma_sam.official_state(network), temporary)


def _network(plan: Plan, configuration: Configuration, labels: Labels, weights_folders: Sequence[Path]) -> PromptFreeSAM:
    if configuration.variant != "ma_sam":
        raise ConfigError(f"MA-SAM's checkpoints fit the method ma_sam only; the configuration has {configuration.variant}. Use 3d_ma_sam.")
    network = build_network(plan, configuration, labels, weights_folders)
    if not isinstance(network, PromptFreeSAM):
        raise ConfigError("The method ma_sam comes from an installed package here; its checkpoints cannot be exchanged.")
    return network
