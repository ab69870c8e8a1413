"""One file a checkpoint: safetensors with the state as JSON in its header. No pickle, no clock times, no paths.

Tensors are named "model.<parameter>", "optimizer.<parameter>.<slot>" and "random.torch"; the header key "samunet"
holds everything else. Weights that training does not change are not stored but named by their SHA-256.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from samunet.core.codec import atomic_path, decode, encode
from samunet.errors import CheckpointError

HEADER_KEY = "samunet"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class CheckpointState:
    """What a checkpoint knows beside its tensors."""

    format: int
    configuration: str
    """Configuration name, e.g. 3d_adapter."""
    trainer: str
    step: int
    """Optimizer steps done."""
    epoch: int
    """Epochs done."""
    best_dice: float
    """Best smoothed training-time Dice so far; -1 before the first epoch."""
    weights_sha256: str | None
    """SHA-256 of the pretrained file below; None when every weight is stored here."""
    scaler: dict[str, Any]
    """State of the fp16 loss scaler; empty where there is none."""
    training: dict[str, Any]
    """The training configuration."""
    history: dict[str, tuple[float | None, ...]]
    """Logged values, one an epoch; None where there was none."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One saved moment of training."""

    state: CheckpointState
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: Tensor | None
    """State of torch's CPU generator."""


def trainable_state(model: nn.Module, *, pretrained: bool) -> dict[str, Tensor]:
    """Return what building the model anew does not give back: parameters that train, and buffers.

    Args:
        pretrained: frozen parameters come from a file; otherwise they are random and belong to the state too.
    """
    kept = {name for name, parameter in model.named_parameters() if parameter.requires_grad or not pretrained}
    kept |= {name for name, _ in model.named_buffers()}
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if name in kept}


def load_trainable_state(model: nn.Module, state: dict[str, Tensor], where: Path, *, pretrained: bool) -> None:
    """Put a trainable state into a model built from the same plan; `pretrained` as for `trainable_state`.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape.
    """
    wanted = trainable_state(model, pretrained=pretrained)
    missing, unexpected = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    misfits = [name for name in wanted if name in state and wanted[name].shape != state[name].shape]
    if missing or unexpected or misfits:
        raise CheckpointError(
            f"Checkpoint {where} does not fit the plan: {len(missing)} tensors are missing {missing[:2]}, {len(unexpected)} unexpected "
            f"{unexpected[:2]}, {len(misfits)} of another shape {misfits[:2]}. Use the plan it was trained with, or train again."
        )
    model.load_state_dict(state, strict=False)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically."""
    tensors = {f"model.{name}": tensor for name, tensor in checkpoint.model.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in checkpoint.optimizer.items()}
    if checkpoint.random is not None:
        tensors["random.torch"] = checkpoint.random
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(whole, temporary, metadata={HEADER_KEY: json.dumps(encode(checkpoint.state), sort_keys=True)})


def load_checkpoint(path: Path, *, with_optimizer: bool = True) -> Checkpoint:
    """Read a checkpoint to the CPU.

    Args:
        with_optimizer: also read what only resuming needs.

    Raises:
        CheckpointError: the file is absent, damaged, or not a samunet checkpoint.
    """
    if not path.is_file():
        raise CheckpointError(f"Checkpoint {path} does not exist.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            names = [name for name in file.keys() if with_optimizer or name.startswith("model.")]  # noqa: SIM118 - not a dict
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"Checkpoint {path} cannot be read ({error}); it is damaged. Use another checkpoint, or train again.") from None
    if header is None:
        raise CheckpointError(f"File {path} is not a samunet checkpoint; its header lacks the key '{HEADER_KEY}'.")
    fields = json.loads(header)
    if fields.get("format") != FORMAT:
        raise CheckpointError(f"Checkpoint {path} has format {fields.get('format')}; this version of samunet reads format {FORMAT}. Train again.")
    return Checkpoint(
        state=decode(CheckpointState, fields, path.name),
        model=_part(tensors, "model."),
        optimizer=_part(tensors, "optimizer."),
        random=tensors.get("random.torch"),
    )


def optimizer_state(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> dict[str, Tensor]:
    """Return an optimizer's tensors as "<parameter>.<slot>"; `names` maps id(parameter) to its name."""
    return {
        f"{names[id(parameter)]}.{slot}": value if isinstance(value, Tensor) else torch.tensor(float(value))
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, names: dict[int, str], stored: dict[str, Tensor]) -> None:
    """Put tensors from `optimizer_state` back, on each parameter's device."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = names[id(parameter)] + "."
            slots = {
                name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix) and "." not in name[len(prefix) :]
            }
            if slots:
                optimizer.state[parameter] = {slot: value if slot == "step" else value.to(parameter.device) for slot, value in slots.items()}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
