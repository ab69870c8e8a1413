"""One file a checkpoint: safetensors with the state as JSON in its header. No pickle, no clock times, no paths.

Tensors are named "model.<parameter>", "average.<parameter>", "optimizer.<parameter>.<slot>" and "random.<generator>";
the header key "samunet" holds everything else, and checksums of it all. Weights that training does not change are not
stored but named by their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from samunet.checkpoints.transfer import transfer
from samunet.core.codec import atomic_path, decode, encode, parse_json
from samunet.core.plan import Configuration
from samunet.core.ranges import Count, OneOf, Sha256, Within
from samunet.core.units import counted
from samunet.errors import CheckpointError

HEADER_KEY = "samunet"
CHECKSUMS = "sha256"  # key beside the fields of the state: of what predicts, state included, and of all else
PREDICTS = ("model.", "average.")
CHECKPOINT_FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class CheckpointState:
    """What a checkpoint knows beside its tensors."""

    format: int
    configuration: str
    """Configuration name, e.g. 3d_adapter."""
    trainer: str
    step: Count
    """Optimizer steps done."""
    epoch: Count
    """Epochs done."""
    epoch_loss: float
    """Sum of the losses of the steps since then."""
    best_dice: Annotated[float, Within(-1, 1)]
    """Best smoothed training-time Dice so far; -1 before the first epoch."""
    weights_sha256: Sha256 | None
    """SHA-256 of the pretrained file below; None when every weight is stored here."""
    scaler: dict[str, Any]
    """State of the fp16 loss scaler; empty where there is none."""
    training: dict[str, Any]
    """The training configuration."""
    precision: Annotated[str, OneOf("bf16", "fp16", "fp32")]
    """Number format of the training: bf16, fp16 or fp32."""
    history: dict[str, tuple[float | None, ...]]
    """Logged values, one per epoch; None where there was none."""
    pace: dict[str, Any] = field(default_factory=dict)
    """State of the pace of a training that was told its minutes; empty for others."""
    made_of: dict[str, str] = field(default_factory=dict)
    """Hashes of split, labels' meaning, cases' files and plan; empty in files of earlier versions."""
    patient_from: Count = 0
    """Epoch from which epochs count for patience."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Of a pretraining: what its network is and learns; empty for others."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One saved moment of training."""

    state: CheckpointState
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    """States of torch's generators, "cpu.<process>" and "cuda.<process>"; empty where training does not go on."""
    average: dict[str, Tensor] = field(default_factory=dict)
    """Moving averages of weights that train; empty without."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """What predicts: the model, with the averages where there are some."""
        return {**self.model, **self.average}


def trainable_state(model: nn.Module, *, pretrained: bool) -> dict[str, Tensor]:
    """Return what building the model again does not give back: parameters that train, and buffers.

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
    own = trainable_state(model, pretrained=pretrained)
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    misfits = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unexpected or misfits:
        raise CheckpointError(
            f"Checkpoint {where} does not fit the plan: {counted(len(missing), 'tensor')} missing {missing[:2]}, "
            f"{len(unexpected)} unexpected {unexpected[:2]}, {len(misfits)} of another shape {misfits[:2]}. "
            "Use the plan it was trained with, or train again."
        )
    model.load_state_dict(state, strict=False)


def load_fitting(model: nn.Module, state: Mapping[str, Tensor], where: Path, *, pretrained: bool) -> str:
    """Fill a model with those weights of another training that fit, see `samunet.checkpoints.transfer`, and return a
    sentence on what was done.

    Raises:
        CheckpointError: none fits.
    """
    done = transfer(model, state, into=trainable_state(model, pretrained=pretrained))
    if not done.loaded and not done.adapted:
        raise CheckpointError(
            f"No weight of {where} fits this network; give a checkpoint of the same method and a like plan, which has "
            "no more features in a stage."
        )
    return f"Started from weights of {where}: {done}"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written; what lay there before is as it was.
    """
    tensors = {f"model.{name}": tensor for name, tensor in checkpoint.model.items()}
    tensors |= {f"average.{name}": tensor for name, tensor in checkpoint.average.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in checkpoint.optimizer.items()}
    tensors |= {f"random.{name}": tensor for name, tensor in checkpoint.random.items()}
    whole, fields = _on_cpu(tensors), encode(checkpoint.state)
    fields[CHECKSUMS] = _checksums(whole, fields, with_optimizer=True)
    _write(path, whole, {HEADER_KEY: json.dumps(fields, sort_keys=True)})


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _checksums(tensors: Mapping[str, Tensor], fields: Mapping[str, Any], *, with_optimizer: bool) -> list[str]:
    """Return the SHA-256 of what predicts, and of what only resuming needs, unless that was not read."""
    predicts = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    rest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        _add(predicts if name.startswith(PREDICTS) else rest, name, tensor)
    return [predicts.hexdigest(), *([rest.hexdigest()] if with_optimizer else [])]


def _add(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
    digest.update(tensor.flatten().view(torch.uint8).numpy().data)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, kinds, shapes and values of tensors on the CPU."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        _add(digest, name, tensor)
    return digest.hexdigest()


def _write(path: Path, whole: Mapping[str, Tensor], metadata: dict[str, str] | None) -> None:
    try:
        with atomic_path(path) as temporary:
            save_file(dict(whole), temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be written ({error}); earlier checkpoints are whole. Make space, or the folder writable, "
            "and go on with --c."
        ) from None


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any] | None = None) -> None:
    """Write tensors and JSON values to a safetensors file, whole or not at all; raises CheckpointError as
    `save_checkpoint` does.
    """
    metadata = {key: json.dumps(value, sort_keys=True) for key, value in (header or {}).items()}
    _write(path, _on_cpu(tensors), metadata or None)


def _read(path: Path, *, with_optimizer: bool) -> tuple[str | None, dict[str, Tensor]]:
    """Return the header and the tensors of one file.

    Safetensors opens it twice, and a training that goes on may put the next one in its place between the two.
    """
    while True:
        try:
            before = path.stat()
            with safe_open(path, framework="pt", device="cpu") as file:
                header = (file.metadata() or {}).get(HEADER_KEY)
                names = [name for name in file.keys() if with_optimizer or name.startswith(PREDICTS)]  # noqa: SIM118 - not a dict
                tensors = {name: file.get_tensor(name) for name in names}
            after = path.stat()
        except FileNotFoundError:
            raise CheckpointError(f"Checkpoint {path} does not exist.") from None
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"Checkpoint {path} cannot be read ({error}); it is damaged. Use another checkpoint, or train again."
            ) from None
        if (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns):
            return header, tensors


def load_checkpoint(path: Path, *, with_optimizer: bool = True) -> Checkpoint:
    """Read a checkpoint to the CPU.

    Args:
        with_optimizer: also read what only resuming needs.

    Raises:
        CheckpointError: the file is absent, damaged (which a checksum tells too), or not a samunet checkpoint.
    """
    header, tensors = _read(path, with_optimizer=with_optimizer)
    if header is None:
        raise CheckpointError(f"File {path} is not a samunet checkpoint; its header lacks the key '{HEADER_KEY}'.")
    fields = parse_json(header, f"The header of checkpoint {path}")
    version = fields.get("format") if isinstance(fields, dict) else None
    if version != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"Checkpoint {path} has format {version}; this version of samunet reads format {CHECKPOINT_FORMAT}. Train "
            "again."
        )
    if CHECKSUMS in fields:  # checkpoints of earlier versions have none
        stored = fields.pop(CHECKSUMS)
        computed = _checksums(tensors, fields, with_optimizer=with_optimizer)
        if not isinstance(stored, list) or len(stored) != 2 or stored[: len(computed)] != computed:
            raise CheckpointError(
                f"Checkpoint {path} is not as it was written, by its checksum. Use another checkpoint, or train again."
            )
    return Checkpoint(
        state=decode(CheckpointState, fields, path.name),
        model=_part(tensors, "model."),
        optimizer=_part(tensors, "optimizer."),
        random=_part(tensors, "random."),
        average=_part(tensors, "average."),
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
                name.removeprefix(prefix): tensor
                for name, tensor in stored.items()
                if name.startswith(prefix) and "." not in name[len(prefix) :]
            }
            if slots:
                # The fused one keeps steps there.
                optimizer.state[parameter] = {slot: value.to(parameter.device) for slot, value in slots.items()}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def check_frozen_weights(state: CheckpointState, configuration: Configuration, where: Path) -> None:
    """Raise CheckpointError when a checkpoint sits on other pretrained weights than the plan names."""
    if state.weights_sha256 != configuration.weights_sha256:
        raise CheckpointError(
            f"{where} was trained on pretrained weights with SHA-256 {state.weights_sha256}; the plan names "
            f"{configuration.weights} with "
            f"{configuration.weights_sha256}. Plan with the same file."
        )
