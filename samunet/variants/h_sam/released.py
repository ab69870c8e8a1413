"""Weights of H-SAM's authors, in a network with the gate "released"; the encoder's come with SAM's checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from samunet.core.units import counted
from samunet.errors import CheckpointError
from samunet.variants.h_sam.network import HSAM

SECOND = {"transformer2.": "transformer.", "output_hypernetworks_mlps2.": "output_hypernetworks_mlps."}
WITHOUT_EFFECT = re.compile(
    r"prompt_encoder2\.|prompt_encoder\.point_embeddings\.([4-9]|\d\d)\."
    r"|mask_decoder2\.(self_attn2?|norm[12]|mlp|med_sel|iou_prediction_head)\."
    r"|mask_decoder2\.transformer2\.layers\.\d+\.cross_attn_\w+\.norm[123]\."
)
"""The first prompt encoder again, points that nobody sets, what leads to a gate that is always one and to a quality
that nobody reads, norms that nothing calls."""


def load_released(network: HSAM, stored: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Fill a network with the tensors of a file that the authors' training wrote.

    Args:
        network: built with the gate "released" and the file's rank, for as many classes.
        stored: the file's tensors by their names.

    Returns:
        The file's names that have no effect in the authors' network either, and no place in this one.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape.
    """
    own = network.state_dict()
    idle = tuple(name for name in stored if WITHOUT_EFFECT.match(name))
    taken = {_our_name(name): tensor for name, tensor in stored.items() if not WITHOUT_EFFECT.match(name)}
    wanted = {name: own[name].shape for name in own if name.startswith(("head.", "sites."))}
    given = {name: tensor.shape for name, tensor in taken.items()}
    if wanted != given:
        names = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise CheckpointError(
            f"{counted(len(names), 'tensor')} of the authors' file and of this network differ, '{names[0]}' among "
            "them. Build the "
            'network with the gate "released", the rank and the number of classes of the file.'
        )
    network.load_state_dict(own | taken)
    return idle


def _our_name(theirs: str) -> str:
    """Return where a tensor belongs; "w_a_003" is A of v in block 1, after those of q and v in block 0."""
    if update := re.fullmatch(r"w_([ab])_(\d+)", theirs):
        number = int(update[2])
        return f"sites.{number // 2}.{('query', 'value')[number % 2]}.{'ab'.index(update[1])}.weight"
    if theirs.startswith("mask_decoder2."):
        return re.sub(
            "|".join(SECOND), lambda found: SECOND[found[0]], f"head.second.{theirs.removeprefix('mask_decoder2.')}"
        )
    return f"head.{theirs}"
