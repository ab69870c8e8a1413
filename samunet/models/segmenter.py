"""The contracts between methods and the rest.

A `SlabSegmenter` must have `forward`, `loss` (or `sums` and `terms`) and `parameter_groups`; the others have a default
that does nothing. A `PromptedSegmenter` segments what prompts show.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from samunet.core.batch import Batch


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that train alike."""

    part: str
    """"head" or "backbone": which of the two peak learning rates."""
    parameters: tuple[nn.Parameter, ...]
    scale: float = 1.0
    """Factor on that rate."""


class SlabSegmenter(nn.Module):
    """A network on slabs of slices."""

    mean_over_samples = False
    """True where the loss of a batch is the mean of its samples' losses: its parts need not know of each other."""
    progress = 0.0
    """Share of the training that was over when the epoch began, which training sets, for a loss that changes."""

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, D, H, W) normalized image to (B, K, D, H, W) logits, K = labels.outputs."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return named scalar loss terms; the total is their sum."""
        return self.terms(self.sums(batch))

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        """Return sums over the batch from which `terms` computes the loss.

        A method whose loss looks at the whole batch at once gives these two instead of `loss`: then a batch may be
        split into parts, on one device or several, and trains the same objective (samunet.training.accumulate).
        """
        raise NotImplementedError

    def terms(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the named loss terms of a batch from its sums."""
        raise NotImplementedError

    def answer(self, batch: Batch) -> Tensor:
        """Return the logits of a validation batch, by which training judges itself."""
        return self(batch.image)

    def merge(self) -> None:
        """Fold what training kept apart into fewer operations, for prediction only; logits stay equal to rounding."""

    def keep_embeddings(self, folder: Path) -> bool:
        """Keep on disk what a frozen encoder gives for each slice; return False, and do nothing, where it trains.

        Worth its disk space only where the same slices come again, as they do without augmentation.
        """
        return False

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """Return the trainable parameters, each once."""
        raise NotImplementedError


ABSENT = -20.0
"""Logit that a `PromptedSegmenter` gives a structure in a slice where no prompt shows it."""


class PromptedSegmenter(SlabSegmenter):
    """A network that segments what prompts show: `forward` takes a map of them beside the image."""

    prompts: str
    """Kind of prompts that it was trained with: "points", "iterative", "box" or "mixed"."""
    whole_object = False
    """True where a prompt in one slice shows the structure in the whole patch; otherwise each slice needs its own."""

    def forward(self, image: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Segment what prompts show.

        Args:
            image: (B, C, D, H, W) normalized image.
            drawn: (B, R, D, H, W) prompt map (see `samunet.core.prompts`), a plane for each of `labels.channels`; None
                answers as SAM does without prompts, alike for all structures.

        Returns:
            (B, K, D, H, W) logits, K = labels.outputs; ABSENT for a structure in a slice, or with `whole_object` in a
            patch, without prompts.
        """
        raise NotImplementedError

    def answer(self, batch: Batch) -> Tensor:
        """Return the logits of a validation batch, with prompts made from its labels."""
        raise NotImplementedError


def groups_around(
    network: nn.Module, encoder: ImageEncoderViT | None, *, layer_decay: float = 1.0
) -> tuple[ParameterGroup, ...]:
    """Split a network's trainable parameters into its SAM encoder's and the rest.

    Args:
        encoder: None for a network without one.
        layer_decay: learning rate of an encoder block as a share of the next block's; patches and positions count as
            the block before the first.
    """
    depth = len(encoder.blocks) if encoder is not None else 0
    by_layer: dict[int, list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters() if encoder is not None else ():
        if parameter.requires_grad:
            by_layer.setdefault(_blocks_after(name, depth) if layer_decay < 1 else 0, []).append(parameter)
    of_encoder = {id(parameter) for parameters in by_layer.values() for parameter in parameters}
    head = tuple(
        parameter for parameter in network.parameters() if parameter.requires_grad and id(parameter) not in of_encoder
    )
    backbone = (
        ParameterGroup(part="backbone", parameters=tuple(layer), scale=layer_decay**below)
        for below, layer in by_layer.items()
    )
    return (ParameterGroup(part="head", parameters=head), *backbone)


def _blocks_after(name: str, depth: int) -> int:
    """Count the layers from an encoder's parameter to the neck: 0 in the neck, 1 in the last block."""
    part, *rest = name.split(".")
    if part == "blocks":
        return depth - int(rest[0])
    return 0 if part == "neck" else depth + 1
