"""What several networks and flips say of the same tiles: their mean, and how much they disagree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, combinations

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]
TINY = 1e-7  # added to no probability, but none is below it where its logarithm is taken


def flips_of(mirror_axes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return every combination of axes (0 = D), the empty one first."""
    return tuple(chain.from_iterable(combinations(mirror_axes, count) for count in range(len(mirror_axes) + 1)))


def passes(
    networks: Sequence[Network], tiles: Tensor, flips: Sequence[tuple[int, ...]], batch: int
) -> Iterator[Tensor]:
    """Yield the logits of each network for each flip of the tiles, turned back.

    Args:
        networks: each (B, C, D, H, W) to (B, K, D, H, W).
        tiles: (B, C, D, H, W).
        flips: axes to flip together (0 = D).
        batch: tiles in one forward pass; flipped copies count, but the tiles of one flip are not parted.

    Yields:
        float32 (B, K, D, H, W), a network's flips in turn.
    """
    together = max(1, batch // len(tiles))
    for network in networks:
        for first in range(0, len(flips), together):
            axes = [[axis + 2 for axis in flip] for flip in flips[first : first + together]]
            logits = network(torch.cat([tiles.flip(flip) for flip in axes])).float()
            for part, flip in zip(logits.chunk(len(axes)), axes, strict=True):
                yield part.flip(flip) if flip else part


def combine(answers: Iterable[Tensor], *, regions: bool, votes: bool = False, uncertainty: bool = False) -> Tensor:
    """Return the mean of several passes, and how much they disagree.

    The disagreement, in [0, 1], is the mutual information of the class and the pass, the entropy of the mean
    probabilities less the mean of the entropies, as a share of its largest value: 0 where all passes give equal
    probabilities, 1 where each is certain and they differ as much as they can. For regions it is the mean over them.
    Source: Houlsby et al. (2011), "Bayesian active learning for classification"; Gal et al. (2017) for networks.

    Args:
        answers: (B, K, D, H, W) logits of each pass, two or more for the disagreement; one at a time is in memory
            beside the sums.
        votes: average probabilities instead of logits.
        uncertainty: append the disagreement as a channel.

    Returns:
        (B, K, D, H, W) or (B, K + 1, D, H, W).
    """
    sums: list[Tensor] = []
    count = 0
    for logits in answers:
        count += 1
        chance = probabilities_of(logits, regions=regions) if votes or uncertainty else logits
        parts = [chance if votes else logits]
        if uncertainty:
            parts += [chance, _entropy(chance, regions=regions)]
        sums = [total + part for total, part in zip(sums, parts, strict=True)] if sums else parts
    mean = sums[0] if count == 1 else sums[0] / count
    if not uncertainty:
        return mean
    _, chances, entropy = sums
    kinds = 2 if regions else min(mean.shape[1], count)
    information = (_entropy(chances / count, regions=regions) - entropy / count) / math.log(kinds)
    return torch.cat([mean, information.clamp_(0, 1)], 1)


def probabilities_of(logits: Tensor, *, regions: bool) -> Tensor:
    """Turn (B, K, D, H, W) logits into probabilities: softmax over classes, or sigmoid for each region."""
    return logits.sigmoid() if regions else logits.softmax(1)


def logits_from(probabilities: Tensor, *, regions: bool) -> Tensor:
    """Turn (K, D, H, W) probabilities, in place, into logits that softmax or sigmoid turns back."""
    return probabilities.logit_(eps=TINY) if regions else probabilities.clamp_(min=TINY).log_()


def _entropy(chances: Tensor, *, regions: bool) -> Tensor:
    """(B, K, ...) probabilities to (B, 1, ...) nats."""
    if regions:
        return -(torch.xlogy(chances, chances) + torch.xlogy(1 - chances, 1 - chances)).mean(1, keepdim=True)
    return -torch.xlogy(chances, chances).sum(1, keepdim=True)
