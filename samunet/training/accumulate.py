"""One gradient of one batch from its parts, for losses that look at the whole batch too.

A Dice over the batch is no sum over parts, so adding up the gradients of the parts' losses trains another objective.
The sums inside it are: S = sum of S_i over parts i. A first pass without gradient finds S and from it dL/dS; a second
pass takes the gradient of dL/dS . S_i, part by part, which adds up to dL/dtheta exactly. It costs one more forward
pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from samunet.core.batch import Batch
from samunet.models.segmenter import SlabSegmenter

Sums = dict[str, Tensor]


def split(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch into at most `parts` batches of about equal size."""
    pieces = zip(batch.image.chunk(parts), batch.label.chunk(parts), strict=True)
    return [Batch(image=image, label=label) for image, label in pieces]


def backward(
    network: SlabSegmenter,
    parts: Sequence[Batch],
    *,
    autocast: Callable[[], AbstractContextManager[object]],
    scale: Callable[[Tensor], Tensor],
    reduce: Callable[[Sums], Sums] | None = None,
    samples: int | None = None,
) -> Tensor:
    """Add the gradient of the whole batch's loss to the parameters' gradients.

    Args:
        parts: of one batch; each is run alone.
        autocast: makes the context of a forward pass.
        scale: applied to what is differentiated, as a gradient scaler does.
        reduce: sums over processes, each of which holds parts of the batch; gradients must then be summed, not
            averaged.
        samples: of the whole batch, where other processes hold a part of it.

    Returns:
        The loss, without gradient; with `reduce` this process's share of it, so that shares too are summed. Losses that
        are not made of sums are averaged over the parts by their number of samples.
    """
    held = sum(len(part.image) for part in parts)
    whole = samples or held
    additive = type(network).loss is SlabSegmenter.loss and not network.mean_over_samples
    if not additive or (len(parts) == 1 and reduce is None):
        return _backward_of_means(network, parts, autocast, scale, whole)
    device = parts[0].image.device
    states: list[tuple[Tensor, Tensor | None]] = []
    total: Sums = {}
    with torch.no_grad():
        for part in parts:
            states.append(_random_state(device))
            with autocast():
                sums = network.sums(part)
            total = {name: total[name] + value if total else value for name, value in sums.items()}
    total = {name: value.requires_grad_() for name, value in (reduce(total) if reduce else total).items()}
    loss = torch.stack(list(network.terms(total).values())).sum()
    slopes = torch.autograd.grad(loss, list(total.values()), allow_unused=True)
    for part, state in zip(parts, states, strict=True):
        _set_random_state(device, state)  # the same dropout as in the first pass
        with autocast():
            sums = network.sums(part)
        moving = [
            (sums[name] * slope).sum()
            for name, slope in zip(total, slopes, strict=True)
            if slope is not None and sums[name].requires_grad
        ]
        scale(torch.stack(moving).sum()).backward()
    return loss.detach() * (held / whole)


def _backward_of_means(
    network: SlabSegmenter,
    parts: Sequence[Batch],
    autocast: Callable[[], AbstractContextManager[object]],
    scale: Callable[[Tensor], Tensor],
    samples: int,
) -> Tensor:
    total = torch.zeros((), device=parts[0].image.device)
    for part in parts:
        with autocast():
            loss = torch.stack(list(network.loss(part).values())).sum() * (len(part.image) / samples)
        scale(loss).backward()
        total += loss.detach()
    return total


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    own = None
    if device.type == "cuda":
        own = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        own = torch.mps.get_rng_state()
    return torch.get_rng_state(), own


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device) if device.type == "cuda" else torch.mps.set_rng_state(state[1])
