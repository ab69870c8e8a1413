"""Load official SAM weights into a model of any input size.

Position tables are resized once, here: bilinear for the absolute table, linear for the relative tables of
global blocks, align_corners=False, no antialiasing (SAMed, MA-SAM).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from samunet.errors import CheckpointError, WeightsAbsentError
from samunet.sam import hq
from samunet.sam.backbones import BACKBONES, Backbone


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of every tensor; the names are the model's, `unexpected` the file's."""

    loaded: tuple[str, ...]
    resized: tuple[str, ...]
    """Loaded after resizing: position tables."""
    missing: tuple[str, ...]
    """In the model and not in the file."""
    unexpected: tuple[str, ...]
    """In the file and not in the model."""
    misfitting: tuple[str, ...]
    """In both with shapes that no resizing brings together."""

    def __str__(self) -> str:
        parts = [
            f"{len(self.loaded) + len(self.resized)} tensors loaded, {len(self.resized)} of them resized to the plan's "
            "token grid"
        ]
        for title, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.misfitting),
        ):
            if names:
                parts.append(f"{len(names)} {title} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
        return "; ".join(parts)


def load_weights(sam: Sam, backbone: Backbone, path: Path) -> LoadReport:
    """Fill a SAM with the weights of a file in the official layout (.pth, or .safetensors with the same names).

    What HQ-SAM's checkpoints have beyond SAM's goes to `samunet.sam.hq`.

    Raises:
        WeightsAbsentError: the file does not exist.
        CheckpointError: the file is damaged, is another backbone's, or has missing or unexpected tensors.
    """
    stored = read_tensors(path)
    _check_backbone(stored, backbone, path)
    stored = hq.take_in(sam, stored)
    own = sam.state_dict()
    fitted = {name: _fit(name, tensor, own[name].shape) for name, tensor in stored.items() if name in own}
    misfitting = tuple(name for name, tensor in fitted.items() if tensor.shape != own[name].shape)
    resized = tuple(name for name in fitted if fitted[name] is not stored[name])
    report = LoadReport(
        loaded=tuple(name for name in fitted if name not in {*resized, *misfitting}),
        resized=resized,
        missing=tuple(sorted(set(own) - set(stored))),
        unexpected=tuple(sorted(set(stored) - set(own))),
        misfitting=misfitting,
    )
    if report.missing or report.unexpected or report.misfitting:
        raise CheckpointError(
            f"Weights file {path} is not a SAM {backbone.name} checkpoint: {report}. Use the official file."
        )
    sam.load_state_dict(fitted)
    return report


def check_weights(backbone: Backbone, path: Path) -> None:
    """Raise the errors of `load_weights` that need no model: an absent or damaged file, or another backbone's."""
    _check_backbone(read_tensors(path), backbone, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a flat table of tensors, .pth or .safetensors, to the CPU; of a training's .pth, what it calls state_dict.

    Raises:
        WeightsAbsentError: the file does not exist.
        CheckpointError: the file is damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise WeightsAbsentError(f"Weights file {path} does not exist. Put the file there, or correct the path.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # readers raise many kinds on damaged or hostile files; each means that this file cannot be used
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"Weights file {path} cannot be read ({reason}); it is damaged or no checkpoint. Download it again."
        ) from None
    if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
        stored = stored["state_dict"]
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise CheckpointError(
            f"Weights file {path} does not hold a plain table of tensors; use a checkpoint in the official layout."
        )
    return stored


def _check_backbone(stored: dict[str, Tensor], wanted: Backbone, path: Path) -> None:
    table = stored.get("image_encoder.pos_embed")
    if table is None:
        raise CheckpointError(
            f"Weights file {path} is not a SAM checkpoint; it lacks 'image_encoder.pos_embed'. Use the official file."
        )
    width = table.shape[-1]
    depth = len({name.split(".")[2] for name in stored if name.startswith("image_encoder.blocks.")})
    if (width, depth) != (wanted.width, wanted.depth):
        name = next((known.name for known in BACKBONES if (known.width, known.depth) == (width, depth)), "unknown")
        raise CheckpointError(
            f"Weights file {path} holds backbone {name} (width {width}, {depth} blocks); the plan asks for "
            f"{wanted.name} (width {wanted.width}, {wanted.depth} blocks). Give the matching file, or plan again with "
            f"-backbone {name}."
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
