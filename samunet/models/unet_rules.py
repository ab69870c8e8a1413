"""What a U-Net by nnU-Net's topology rule costs; nothing here needs torch."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

from samunet.core.geometry import Shape
from samunet.core.plan import Topology
from samunet.models.spec import NetworkSpec

FEATURE_BYTES = 8.5  # fitted to measured steps on a CPU in bf16


def convolutions_gib(spec: NetworkSpec, batch_size: int, first: int = 0) -> float:
    """Estimate the memory of one mixed-precision training step in GiB, without the logits.

    A feature needs about FEATURE_BYTES; a weight 16 bytes with its gradient and the optimizer's state.

    Args:
        spec, batch_size: data and plan.
        first: stage at which the decoder ends; 0 is full resolution.
    """
    widths, voxels = spec.topology.widths, stage_voxels(spec)
    of_encoder = [1] + [2] * (len(voxels) - 1)
    features = sum(count * width * size for count, width, size in zip(of_encoder, widths, voxels, strict=True))
    features += sum(2 * width * size for width, size in zip(widths[first:-1], voxels[first:-1], strict=True))
    trained = 16 * convolution_weights(len(spec.schemes), spec.topology)
    return (batch_size * FEATURE_BYTES * features + trained) / 2**30


def stage_voxels(spec: NetworkSpec) -> list[int]:
    """Return the voxels of every stage of the convolutional path."""
    return [
        math.prod(-(-size // stride) for size, stride in zip(spec.patch_size, total, strict=True))
        for total in cumulative(spec.topology)
    ]


def convolution_weights(channels: int, topology: Topology) -> int:
    """Count the weights of the convolutional path; a convolution has a bias and its norm two weights per channel."""
    upward = sum(topology.widths[:-1])  # transposed convolutions have no norm
    return sum(weights + 3 * outputs for _, weights, outputs in convolutions(channels, topology)) - 2 * upward


def convolutions(channels: int, topology: Topology) -> list[tuple[int, int, int]]:
    """Return the stage whose voxels every convolution visits, its kernels' weights and its output channels."""
    widths, strides, kernels = topology.widths, topology.strides, topology.kernels
    layers = []
    for stage, (inputs, width, kernel) in enumerate(zip((channels, *widths), widths, kernels, strict=False)):
        layers += [(stage, inputs * width * math.prod(kernel), width)]
        layers += [(stage, width * width * math.prod(kernel), width)] if stage else []
    for stage, (skip, below) in enumerate(pairwise(widths)):
        layers += [(stage + 1, below * skip * math.prod(strides[stage + 1]), skip)]
        layers += [(stage, 2 * skip * skip * math.prod(kernels[stage]), skip)]
    return layers


def cumulative(topology: Topology) -> list[Shape]:
    """Return the (D, H, W) stride of every stage against the image."""
    return list(
        accumulate(topology.strides, lambda total, stride: tuple(a * b for a, b in zip(total, stride, strict=True)))
    )
