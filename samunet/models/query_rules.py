"""The stages of MaskSAM's prompt generator, and what they keep in memory; nothing here needs torch."""

from __future__ import annotations

import math

from samunet.sam.backbones import TOKEN_PIXELS

STAGES = 4
"""Blocks of the encoder that are joined one after the other, from the last to the first."""


def generator_widths(decoder_width: int) -> list[int]:
    """Return the channels of the stages."""
    return [max(8, decoder_width // (2 if stage < 2 else 4)) for stage in range(STAGES)]


def generator_doublings(encoder_scale: float) -> int:
    """Return how often the token grid doubles on its way to the voxels; later stages refine."""
    return max(0, int(math.log2(TOKEN_PIXELS / encoder_scale)))


def generator_values(decoder_width: int, encoder_scale: float) -> int:
    """Return how many numbers the stages keep for the gradient for each token: three maps of every block, and what they join."""
    doublings, total = generator_doublings(encoder_scale), 0
    for stage, width in enumerate(generator_widths(decoder_width), start=1):
        levels = [4**level for level in range(1, min(stage, doublings) + 1)] or [1]
        total += width * (3 * sum(levels) + 5 * levels[-1])
    return total
