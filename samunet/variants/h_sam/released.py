"""Weights of H-SAM's authors, in a network with the gate "released"; the encoder's come with SAM's checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from samunet.errors import CheckpointError
from samunet.variants.h_sam.network import HSAM

NAMES = (
    (r"w_([ab])_(\d+)", lambda found: _lora(found[1], int(found[2]))),
    (r"mask_decoder2\.transformer2\.(.+)", r"head.second.transformer.\1"),
    (r"mask_decoder2\.output_hypernetworks_mlps2\.(.+)", r"head.second.output_hypernetworks_mlps.\1"),
    (r"mask_decoder2\.(.+)", r"head.second.\1"),
    (r"((?:mask_decoder|prompt_encoder)\..+)", r"head.\1"),
)
WITHOUT_EFFECT = re.compile(
    r"prompt_encoder2\.|mask_decoder2\.(self_attn2?|norm[12]|mlp|med_sel|iou_prediction_head)\."
    r"|mask_decoder2\.transformer2\.layers\.\d+\.cross_attn_\w+\.norm[123]\."
)
"""The first prompt encoder again, what leads to a gate that is always one, norms that nothing calls, a quality that
nothing reads."""


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
    own, taken = network.state_dict(), {}
    idle = tuple(name for name in stored if WITHOUT_EFFECT.match(name))
    for name in stored.keys() - set(idle):
        ours = next((re.sub(old, new, name) for old, new in NAMES if re.fullmatch(old, name)), name)
        if ours not in own or own[ours].shape != stored[name].shape:
            raise CheckpointError(
                f"Tensor '{name}' {tuple(stored[name].shape)} of the authors' file has no place in this network. Build it "
                'with the gate "released", the rank and the number of classes of the file.'
            )
        taken[ours] = stored[name]
    missing = [name for name in own if name.startswith(("head.", "sites.")) and name not in taken]
    if missing:
        raise CheckpointError(
            f"The authors' file lacks {len(missing)} tensors, '{missing[0]}' among them; it is damaged."
        )
    network.load_state_dict(own | taken)
    return idle


def _lora(matrix: str, number: int) -> str:
    """Return the name of A or B of the update with that number: q of block 0, v of block 0, q of block 1, ..."""
    return f"sites.{number // 2}.{('query', 'value')[number % 2]}.{'ab'.index(matrix)}.weight"
