"""The checkpoint format of SAMed's authors: LoRA, prompt encoder and mask decoder, one table of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import Tensor, nn

from samunet.checkpoints.foreign import fill
from samunet.errors import CheckpointError
from samunet.models.prompt_free import PromptFreeSAM
from samunet.sam.decoder import IMAGE_TO_TOKEN, SELF, TOKEN_TO_IMAGE

ENCODER = "w"  # of LoRA's tensors in the encoder's blocks, numbered q, v, q, v, ...
DECODER = {SELF: "sa", TOKEN_TO_IMAGE: "cti", IMAGE_TO_TOKEN: "cit"}  # SAMed_s: in the decoder's layers, likewise
LAST = "fati"  # SAMed_s: in the attention after them


def options_of(stored: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options of samed that a file tells: LoRA's rank, and whether it adapts the decoder (SAMed_s).

    Raises:
        CheckpointError: it is no file of SAMed.
    """
    first = stored.get(f"{ENCODER}_a_000")
    if first is None or first.ndim != 2:
        raise CheckpointError(f"This is no SAMed checkpoint: it lacks '{ENCODER}_a_000', LoRA's first tensor.")
    return {"rank": first.shape[0], "adapt_decoder": f"{LAST}_qa" in stored}


def load_official(network: PromptFreeSAM, stored: Mapping[str, Tensor]) -> None:
    """Fill a network with a checkpoint of the authors' format; SAM's own weights must be in it already.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or of another shape.
    """
    same = "Backbone, rank and number of classes"
    fill(network, stored, dict(_names(network)), title="SAMed", same=same, rest=False)


def _names(network: PromptFreeSAM) -> Iterator[tuple[str, str]]:
    """Pairs of the authors' tensor name and ours."""
    for index in range(len(network.sites)):
        yield from _numbered(ENCODER, index, f"sites.{index}.{{}}")
    adapted = cast("nn.ModuleList | None", network.head.sites)
    for index in range(len(adapted) - 1 if adapted is not None else 0):
        for attention, prefix in DECODER.items():
            yield from _numbered(prefix, index, f"head.sites.{index}.{{}}.{attention}")
    if adapted is not None:
        for kind, part in (("q", "query"), ("v", "value")):
            for layer, letter in enumerate("ab"):
                last = f"head.sites.{len(adapted) - 1}.{part}.{TOKEN_TO_IMAGE}.{layer}.weight"
                yield f"{LAST}_{kind}{letter}", last
    for name in network.head.state_dict():
        if not name.startswith("sites.") and (adapted is None or not name.startswith("mask_decoder.transformer.")):
            yield name, f"head.{name}"


def _numbered(prefix: str, index: int, place: str) -> Iterator[tuple[str, str]]:
    """Pairs for the updates of q and v in one attention; `place` has a gap for which of the two."""
    for offset, part in enumerate(("query", "value")):
        for layer, letter in enumerate("ab"):
            yield f"{prefix}_{letter}_{2 * index + offset:03d}", f"{place.format(part)}.{layer}.weight"
