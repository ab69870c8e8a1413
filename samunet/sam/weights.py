"""Load official SAM weights into a model of any input size.

Position tables are resized once, here: bilinear for the absolute table, linear for the relative tables of
global blocks, align_corners=False, no antialiasing (SAMed, MA-SAM).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from samunet.errors import CheckpointError, WeightsAbsentError
from samunet.sam.build import BACKBONES, Backbone


def load_weights(sam: Sam, backbone: Backbone, path: Path) -> None:
    """Fill a SAM with the weights of a file in the official layout (.pth, or .safetensors with the same names).

    Raises:
        WeightsAbsentError: the file does not exist.
        CheckpointError: the file is damaged, is another backbone's, or has missing or unexpected tensors.
    """
    stored = _read(path)
    _check_backbone(stored, backbone, path)
    wanted = sam.state_dict()
    fitted = {name: _fit(name, tensor, wanted[name].shape) if name in wanted else tensor for name, tensor in stored.items()}
    missing, unexpected = sorted(set(wanted) - set(fitted)), sorted(set(fitted) - set(wanted))
    if missing or unexpected:
        raise CheckpointError(
            f"Weights file {path} is not a SAM {backbone.name} checkpoint: {len(missing)} tensors are missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} are unexpected ({', '.join(unexpected[:3])}). Use the official file."
        )
    misfits = [name for name, tensor in fitted.items() if tensor.shape != wanted[name].shape]
    if misfits:
        name = misfits[0]
        raise CheckpointError(
            f"Weights file {path}: tensor '{name}' has shape {tuple(fitted[name].shape)}, the model needs {tuple(wanted[name].shape)}. "
            "Use the official file."
        )
    sam.load_state_dict(fitted)


def check_weights(backbone: Backbone, path: Path) -> None:
    """Raise the errors of `load_weights` that need no model: an absent or damaged file, or another backbone's."""
    _check_backbone(_read(path), backbone, path)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsAbsentError(f"Weights file {path} does not exist. Put SAM's official checkpoint there, or correct the path where it is given.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # readers raise many kinds on damaged or hostile files; each means that this file cannot be used
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"Weights file {path} cannot be read ({reason}); it is damaged or no checkpoint. Download it again.") from None
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise CheckpointError(f"Weights file {path} does not hold a plain table of tensors; use SAM's official checkpoint.")
    return stored


def _check_backbone(stored: dict[str, Tensor], wanted: Backbone, path: Path) -> None:
    table = stored.get("image_encoder.pos_embed")
    if table is None:
        raise CheckpointError(f"Weights file {path} is not a SAM checkpoint; it lacks 'image_encoder.pos_embed'. Use the official file.")
    width = table.shape[-1]
    depth = len({name.split(".")[2] for name in stored if name.startswith("image_encoder.blocks.")})
    if (width, depth) != (wanted.width, wanted.depth):
        name = next((known.name for known in BACKBONES if (known.width, known.depth) == (width, depth)), "unknown")
        raise CheckpointError(
            f"Weights file {path} holds backbone {name} (width {width}, {depth} blocks); the plan asks for {wanted.name} "
            f"(width {wanted.width}, {wanted.depth} blocks). Give the matching file, or plan again with -backbone {name}."
        )


def _fit(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    """Resize a position table to the model's grid; other tensors come back as they are."""
    if tensor.shape == shape or tensor.ndim != len(shape):
        return tensor
    if name == "image_encoder.pos_embed":
        return F.interpolate(tensor.permute(0, 3, 1, 2), size=tuple(shape[1:3]), mode="bilinear").permute(0, 2, 3, 1)
    if name.endswith(("rel_pos_h", "rel_pos_w")) and tensor.shape[1] == shape[1]:
        return F.interpolate(tensor.T.unsqueeze(0), size=int(shape[0]), mode="linear").squeeze(0).T
    return tensor
