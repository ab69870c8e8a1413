"""What several networks and flips say of the same tiles: their mean, and how much they disagree."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain, combinations

import torch
from torch import Tensor
from torch.nn import functional as F

Network = Callable[[Tensor], Tensor]
TINY = 1e-7  # added to no probability, but none is below it where its logarithm is taken


def flips_of(mirror_axes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return every combination of axes (0 = D), the empty one first."""
    return tuple(chain.from_iterable(combinations(mirror_axes, count) for count in range(len(mirror_axes) + 1)))


def passes(networks: Sequence[Network], tiles: Tensor, flips: Sequence[tuple[int, ...]], batch: int) -> list[Tensor]:
    """Return the logits of each network for each flip of the tiles, turned back.

    Args:
        networks: each (B, C, D, H, W) to (B, K, D, H, W).
        tiles: (B, C, D, H, W).
        flips: axes to flip together (0 = D).
        batch: tiles in one forward pass; flipped copies count.

    Returns:
        float32 tensors (B, K, D, H, W), a network's flips in turn.
    """
    axes = [[axis + 2 for axis in flip] for flip in flips]
    copies = torch.cat([tiles.flip(flip) for flip in axes])
    found = []
    for network in networks:
        logits = torch.cat([network(part).float() for part in copies.split(batch)])
        found += [part.flip(flip) for part, flip in zip(logits.split(len(tiles)), axes, strict=True)]
    return found


def mean(found: Sequence[Tensor]) -> Tensor:
    """Return the mean of equally shaped tensors."""
    total = found[0]
    for other in found[1:]:
        total = total + other
    return total / len(found)


def probabilities_of(logits: Tensor, *, regions: bool) -> Tensor:
    """Turn (B, K, D, H, W) logits into probabilities: softmax over classes, or sigmoid for each region."""
    return logits.sigmoid() if regions else logits.softmax(1)


def logits_from(probabilities: Tensor, *, regions: bool) -> Tensor:
    """Turn (K, D, H, W) probabilities, in place, into logits that softmax or sigmoid turns back."""
    return probabilities.logit_(eps=TINY) if regions else probabilities.clamp_(min=TINY).log_()


def disagreement(found: Sequence[Tensor], *, regions: bool) -> Tensor:
    """Return how much several passes disagree, in [0, 1].

    It is the mutual information of the class and the pass, the entropy of the mean probabilities less the mean of the entropies, as a
    share of its largest value; 0 where all passes give equal probabilities, 1 where each is certain and they differ as much as they
    can. For regions it is the mean over them. Source: Houlsby et al. (2011), "Bayesian active learning for classification"; Gal et
    al. (2017) for networks.

    Args:
        found: two or more (B, K, D, H, W) logits.

    Returns:
        (B, 1, D, H, W).
    """
    chances = [probabilities_of(logits, regions=regions) for logits in found]
    information = _entropy(mean(chances), regions=regions) - mean([_entropy(chance, regions=regions) for chance in chances])
    kinds = 2 if regions else min(chances[0].shape[1], len(chances))
    return (information / math.log(kinds)).clamp(0, 1)


def _entropy(chances: Tensor, *, regions: bool) -> Tensor:
    """(B, K, ...) probabilities to (B, 1, ...) nats."""
    if regions:
        either = F.binary_cross_entropy(chances, chances, reduction="none")
        return either.mean(1, keepdim=True)
    return -torch.xlogy(chances, chances).sum(1, keepdim=True)
