"""What all checkpoints of other programs have in common: tensors under the authors' names, which fill a network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from samunet.core.units import counted
from samunet.errors import CheckpointError


@torch.no_grad()
def fill(
    network: nn.Module, stored: Mapping[str, Tensor], names: Mapping[str, str], *, title: str, same: str, rest: bool
) -> None:
    """Copy tensors into a network.

    Args:
        stored: the authors' file.
        names: the authors' name to ours, of every tensor that is wanted.
        title: of the program.
        same: what must be as it was in the file's training, for messages.
        rest: whether the file may hold more.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or of another shape.
    """
    own = network.state_dict()
    missing, unexpected = sorted(set(names) - set(stored)), [] if rest else sorted(set(stored) - set(names))
    if missing or unexpected:
        raise CheckpointError(
            f"This is no {title} checkpoint for this network: {counted(len(missing), 'tensor')} missing "
            f"({', '.join(missing[:3])}), {len(unexpected)} unexpected ({', '.join(unexpected[:3])}). {same} must "
            "be those of its training."
        )
    for official, name in names.items():
        if stored[official].shape != own[name].shape:
            raise CheckpointError(
                f"{title} checkpoint: tensor '{official}' has shape {tuple(stored[official].shape)}, the network needs "
                f"{tuple(own[name].shape)}. {same} must be those of its training."
            )
        own[name].copy_(stored[official])
