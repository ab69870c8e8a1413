"""The checkpoint format of MA-SAM's authors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from samunet.checkpoints.foreign import fill
from samunet.models.prompt_free import PromptFreeSAM


def official_state(network: PromptFreeSAM) -> dict[str, Tensor]:
    """Return what the authors' code saves, on the CPU: adapters, FacT, prompt encoder and mask decoder by its names."""
    own = network.state_dict()
    return {official: own[name].detach().cpu().clone() for official, name in _names(network)}


def load_official(network: PromptFreeSAM, stored: Mapping[str, Tensor]) -> None:
    """Fill a network with a checkpoint of the authors' format; SAM's own weights must be in it already.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or of another shape.
    """
    same = "Backbone, rank, adapter width, upsampling and number of classes"
    fill(network, stored, dict(_names(network)), title="MA-SAM", same=same, rest=False)


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
