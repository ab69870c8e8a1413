"""Clicks and boxes inside a network: read from prompt maps, simulated from labels, embedded as SAM does.

Axes: B batch, R foreground classes or regions, D H W voxels, N pairs of a slice and a structure, P prompt tokens,
C decoder width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor

from samunet.core.prompts import BOX, INSIDE, OUTSIDE, SHOWS
from samunet.models.rules import MODES

KIND_OF_CLICK = {OUTSIDE: 0, INSIDE: 1}
FIRST_CORNER, LAST_CORNER = 2, 3
"""Indices of SAM's point embeddings."""
NO_POINT = 4  # what SAM adds to clicks without a box
NOTHING = -1  # fills up; it takes no part in attention


class PromptTokens(NamedTuple):
    """The prompts of N pairs."""

    places: Tensor
    """(N, P, 2) x and y as shares of the padded encoder plane."""
    kinds: Tensor
    """(N, P) index of a point embedding, NO_POINT or NOTHING."""


def extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """Return where (..., n) booleans first hold, and one past where they last do; 0 and n where they nowhere do."""
    held = line.float()
    return held.argmax(-1), line.shape[-1] - held.flip(-1).argmax(-1)


def draw_mode(mode: str) -> str:
    """Return the kind of prompts of one batch."""
    kinds = [kind for kind in MODES if mode in ("mixed", kind) and kind != "mixed"]
    return kinds[int(torch.randint(len(kinds), ()))]


def simulated_clicks(target: Tensor, count: int) -> Tensor:
    """Return a prompt map with clicks in (B, R, D, H, W) bool masks: up to `count` random voxels of each slice."""
    return clicks_in(target, count) * INSIDE


def clicks_in(mask: Tensor, count: int) -> Tensor:
    """Mark up to `count` random voxels of each (H, W) plane of a bool mask, as uint8."""
    flat = mask.flatten(-2)
    chance = torch.rand(flat.shape, device=mask.device).masked_fill(~flat, -1)
    best, index = chance.topk(min(count, flat.shape[-1]), dim=-1)
    return torch.zeros_like(flat, dtype=torch.uint8).scatter_(-1, index, (best >= 0).to(torch.uint8)).view(mask.shape)


def corrected(drawn: Tensor, logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Add one click to each slice of a prompt map where the prediction, logits above 0, and the target differ.

    Args:
        drawn, logits, target: (B, R, D, H, W).
        known: (B, D, H, W) false where there is no annotation and so no click.
    """
    missed, wrong = target & (logits <= 0), ~target & (logits > 0) & known.unsqueeze(1)
    click = clicks_in(missed | wrong, 1).bool() & target.flatten(-2).any(-1)[..., None, None]
    return drawn | (click & missed).to(torch.uint8) * INSIDE | (click & wrong).to(torch.uint8) * OUTSIDE


def simulated_boxes(target: Tensor, *, overlap: float = 1.0, relaxation: int = 0) -> Tensor:
    """Return a prompt map with one box for each structure of a sample: (B, R, D, H, W) bool masks to uint8.

    A box holds the structure in all slices of the slab that have it. Each side in the plane moves by a share of the
    box's size, of at most (1 - sqrt(overlap)) / 2 in either direction, rounded toward the tight box, so that the IoU in
    the plane is `overlap` or more; then each side, along depth too, outward by up to `relaxation` voxels.
    """
    drawn = target.flatten(2).any(2)[..., None, None, None]
    for axis, others in ((2, (3, 4)), (3, (2, 4)), (4, (2, 3))):
        first, stop = extent(target.any(dim=others))
        most = (stop - first) * (1 - overlap**0.5) / 2 if axis > 2 else torch.zeros_like(first)
        moved = (most * (2 * torch.rand(2, *first.shape, device=target.device) - 1)).long()
        wider = torch.randint(relaxation + 1, moved.shape, device=target.device)
        low, high = first + moved[0] - wider[0], stop + moved[1] + wider[1]
        place = torch.arange(target.shape[axis], device=target.device)
        within = (low.unsqueeze(-1) <= place) & (place < high.unsqueeze(-1))
        drawn = drawn & within[..., None, None].movedim(2, axis)
    return drawn * torch.tensor(BOX, dtype=torch.uint8)


def read_map(drawn: Tensor, scale: float, encoder_size: tuple[int, int]) -> tuple[Tensor, PromptTokens]:
    """Find what prompts there are.

    Args:
        drawn: (B, R, D, H, W) prompt map.
        scale: encoder pixels per voxel.
        encoder_size: (H, W) of the padded plane in encoder pixels.

    Returns:
        (N, 3) sample, structure and slice of all pairs with a click inside or a box, in order; and their tokens: clicks
        first, then SAM's padding point where there is no box, or else the box's corners.
    """
    drawn = drawn.to(torch.uint8)
    pairs = (drawn & SHOWS > 0).flatten(3).any(3).nonzero()
    planes = drawn[pairs[:, 0], pairs[:, 1], pairs[:, 2]]
    clicks = (planes & (INSIDE | OUTSIDE)).nonzero()  # in the order of the pairs
    counts = torch.bincount(clicks[:, 0], minlength=len(pairs))
    most = int(counts.max()) if len(pairs) else 0
    rank = torch.arange(len(clicks), device=drawn.device) - (counts.cumsum(0) - counts)[clicks[:, 0]]
    places = torch.zeros(len(pairs), most + 2, 2, device=drawn.device)
    kinds = torch.full((len(pairs), most + 2), NOTHING, device=drawn.device)
    places[clicks[:, 0], rank] = clicks[:, [2, 1]].float()
    bits = planes[clicks[:, 0], clicks[:, 1], clicks[:, 2]]
    kinds[clicks[:, 0], rank] = torch.where((bits & INSIDE) > 0, KIND_OF_CLICK[INSIDE], KIND_OF_CLICK[OUTSIDE])
    boxed = planes & BOX > 0
    for axis, column in ((1, 0), (2, 1)):
        first, stop = extent(boxed.any(axis))
        places[:, most, column], places[:, most + 1, column] = first.float(), stop - 1.0
    has_box = boxed.flatten(1).any(1)
    kinds[:, most] = torch.where(has_box, FIRST_CORNER, NO_POINT)
    kinds[:, most + 1] = torch.where(has_box, LAST_CORNER, NOTHING)
    size = torch.tensor(encoder_size[::-1], device=drawn.device)
    return pairs, PromptTokens(places=(places + 0.5) * scale / size, kinds=kinds)


def embed(encoder: PromptEncoder, tokens: PromptTokens) -> Tensor:
    """Return SAM's (N, P, C) embeddings of prompts; those that are NOTHING are zero."""
    with torch.autocast(tokens.places.device.type, enabled=False):  # phases do not bear rounding
        placed = encoder.pe_layer._pe_encoding(tokens.places)
    table = torch.stack(
        [part.weight[0] for part in (*encoder.point_embeddings, encoder.not_a_point_embed)]
        + [placed.new_zeros(placed.shape[-1])]
    )
    somewhere = (tokens.kinds >= 0) & (tokens.kinds != NO_POINT)
    return placed * somewhere.unsqueeze(-1) + table[tokens.kinds]
