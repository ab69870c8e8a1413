"""The checkpoint format of MA-SAM's authors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from samunet.errors import CheckpointError
from samunet.models.prompt_free import PromptFreeSAM


def official_state(network: PromptFreeSAM) -> dict[str, Tensor]:
    """Return what the authors' code saves, on the CPU: adapters, FacT, prompt encoder and mask decoder by its names."""
    own = network.state_dict()
    return {official: own[name].detach().cpu().clone() for official, name in _names(network)}


@torch.no_grad()
def load_official(network: PromptFreeSAM, stored: Mapping[str, Tensor]) -> None:
    """Fill a network with a checkpoint of the authors' format; SAM's own weights must be in it already.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or of another shape.
    """
    own, names = network.state_dict(), dict(_names(network))
    missing, unexpected = sorted(set(names) - set(stored)), sorted(set(stored) - set(names))
    if missing or unexpected:
        raise CheckpointError(
            f"This is no MA-SAM checkpoint for this network: {len(missing)} tensors are missing "
            f"({', '.join(missing[:3])}), {len(unexpected)} are "
            f"unexpected ({', '.join(unexpected[:3])}). Backbone, rank, upsampling and number of classes must be those "
            "of its training."
        )
    for official, name in names.items():
        if stored[official].shape != own[name].shape:
            raise CheckpointError(
                f"MA-SAM checkpoint: tensor '{official}' has shape {tuple(stored[official].shape)}, the network needs "
                f"{tuple(own[name].shape)}. "
                "Backbone, rank, adapter width and number of classes must be those of its training."
            )
        own[name].copy_(stored[official])


def _names(network: PromptFreeSAM) -> Iterator[tuple[str, str]]:
    """Pairs of the authors' tensor name and ours."""
    has_factors = network.sites[0].factors is not None
    if has_factors:
        yield "image_encoder.FacTu.weight", "sites.0.factors.down.weight"
        yield "image_encoder.FacTv.weight", "sites.0.factors.up.weight"
    parts = {
        "norm": ("norm", "weight bias"),
        "linear_down": ("down", "weight"),
        "conv": ("depth", "weight bias"),
        "linear_up": ("up", "weight"),
    }
    for index in range(len(network.sites)):
        if has_factors:
            yield f"q_FacTs_{index:03d}", f"sites.{index}.query.weight"
            yield f"v_FacTs_{index:03d}", f"sites.{index}.value.weight"
        for place, suffix in (("before", ""), ("after", "_2")):
            for official, (part, kinds) in parts.items():
                for kind in kinds.split():
                    block = f"image_encoder.ImageEncoderViT.blocks.{index}.Block"
                    yield f"{block}.adapter_{official}{suffix}.{kind}", f"sites.{index}.{place}.{part}.{kind}"
    for name in network.head.state_dict():
        yield name, f"head.{name}"
