"""The checkpoint format of Medical SAM Adapter's authors: a whole network, whose adapters and decoder were trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from samunet.checkpoints.foreign import fill
from samunet.errors import CheckpointError
from samunet.models.prompted import PromptedSAM

PARALLEL = "module."  # before all names, where several GPUs trained
RELATIVE = ("attn.rel_h", "attn.rel_w")
"""Their relative positions, which stay zero; SAM's are rel_pos_h and rel_pos_w."""
MLP = {"lin1": "layers.0.0", "lin2": "fc"}  # of the decoder's layers: SAM's names to theirs
TABLE = "image_encoder.pos_embed"  # theirs is resized at every pass, ours once, here


@torch.no_grad()
def load_official(network: PromptedSAM, stored: Mapping[str, Tensor]) -> None:
    """Fill a network that was built as the authors' code has it; SAM's own weights must be in it already.

    Raises:
        CheckpointError: a tensor is missing or of another shape, or the file sits on other weights of SAM than the
            network.
    """
    stored = {name.removeprefix(PARALLEL): tensor for name, tensor in stored.items()}
    names = dict(_names(network))
    needed = [name for name in _untrained(network) if name not in stored]
    if needed:
        raise CheckpointError(
            f"The Medical SAM Adapter checkpoint has no '{needed[0]}', which tells on which weights of SAM it was "
            "trained; give the whole network, as the authors' code saves it."
        )
    fill(network, stored, names, title="Medical SAM Adapter", same="Backbone and ratio", rest=True)
    own = network.state_dict()
    positions = [name for name, tensor in stored.items() if name.endswith(RELATIVE) and tensor.any()]
    if positions:
        raise CheckpointError(
            f"Medical SAM Adapter checkpoint: '{positions[0]}' is not zero, as it is in the authors' code."
        )
    others = [
        name for name, mine in _untrained(network).items() if name != TABLE and not torch.equal(own[mine], stored[name])
    ]
    if others:
        raise CheckpointError(
            f"The Medical SAM Adapter checkpoint sits on other weights of SAM than the plan's: '{others[0]}' differs."
        )
    table = stored[TABLE].movedim(-1, 1)
    own[TABLE].copy_(F.interpolate(table, size=own[TABLE].shape[1:3], mode="bicubic").movedim(1, -1))


def _untrained(network: PromptedSAM) -> dict[str, str]:
    """Map the authors' tensor names to ours, of what stays SAM's; relative positions are others there."""
    encoder = [f"image_encoder.{name}" for name in network.image_encoder.state_dict() if "rel_pos" not in name]
    return {name: name for name in encoder} | {
        f"prompt_encoder.{name}": f"head.prompt_encoder.{name}" for name in network.head.prompt_encoder.state_dict()
    }


def _names(network: PromptedSAM) -> Iterator[tuple[str, str]]:
    """Pairs of the authors' tensor name and ours, of what was trained."""
    parts = {"Space": "space", "MLP": "mlp"} | ({"Depth": "depth"} if network.sites[0].depth is not None else {})
    for index in range(len(network.sites)):
        for official, part in parts.items():
            for layer, own in (("D_fc1", "down"), ("D_fc2", "up")):
                for kind in ("weight", "bias"):
                    yield (
                        f"image_encoder.blocks.{index}.{official}_Adapter.{layer}.{kind}",
                        f"sites.{index}.{part}.{own}.{kind}",
                    )
    for name in network.head.mask_decoder.state_dict():
        official = name
        for own, theirs in MLP.items():
            if name.startswith("transformer.layers."):
                official = official.replace(f".mlp.{own}.", f".mlp.{theirs}.")
        yield f"mask_decoder.{official}", f"head.mask_decoder.{name}"
