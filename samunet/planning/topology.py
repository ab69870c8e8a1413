"""How often a U-Net halves each axis, and with which kernels.

Source: nnU-Net's rule (Isensee et al., 2021, supplement): halve the axes whose spacing is within a factor of two of
the finest one, while they keep at least four features.
"""

from __future__ import annotations

from collections.abc import Sequence

from samunet.core.geometry import Shape, Triple, shape3
from samunet.core.plan import Topology

SMALLEST_EDGE = 4  # nnU-Net's: features along an axis at the bottleneck


def topology_for(
    patch_size: Sequence[int], spacing: Triple, *, base_width: int, max_width: int
) -> tuple[Topology, Shape]:
    """Return stages for a patch, and the patch padded up so that every stride divides it.

    Args:
        patch_size: (D, H, W) voxels; an axis of length 1 is never halved and keeps kernel size 1.
        spacing: mm.
        base_width: features of stage 0, doubled at each stage up to `max_width`.
    """
    size, current = list(patch_size), list(spacing)
    alive = [axis for axis in range(3) if patch_size[axis] > 1]
    kernel = [1, 1, 1]
    strides, kernels = [(1, 1, 1)], []
    while True:
        candidates = [axis for axis in alive if size[axis] >= 2 * SMALLEST_EDGE]
        finest = min((current[axis] for axis in candidates), default=0.0)
        halved = [axis for axis in candidates if current[axis] < 2 * finest]
        if len(halved) == 1 and size[halved[0]] < 3 * SMALLEST_EDGE:
            break
        if not halved:
            break
        _grow(kernel, current, alive)
        kernels.append(shape3(kernel))
        strides.append(shape3([2 if axis in halved else 1 for axis in range(3)]))
        for axis in halved:
            size[axis] = -(-size[axis] // 2)
            current[axis] *= 2
    kernels.append(shape3([3 if axis in alive else 1 for axis in range(3)]))
    widths = tuple(min(base_width * 2**stage, max_width) for stage in range(len(strides)))
    divisor = [1, 1, 1]
    for stride in strides:
        divisor = [a * b for a, b in zip(divisor, stride, strict=True)]
    padded = shape3([-(-edge // part) * part for edge, part in zip(patch_size, divisor, strict=True)])
    return Topology(strides=tuple(strides), kernels=tuple(kernels), widths=widths), padded


def divisors(topology: Topology) -> Shape:
    """Return the product of strides per axis: patches must be multiples of it."""
    product = [1, 1, 1]
    for stride in topology.strides:
        product = [a * b for a, b in zip(product, stride, strict=True)]
    return shape3(product)


def _grow(kernel: list[int], spacing: list[float], alive: list[int]) -> None:
    """Give an axis kernel size 3, for good, once its spacing is within a factor of two of the finest."""
    finest = min(spacing[axis] for axis in alive)
    for axis in alive:
        if spacing[axis] < 2 * finest:
            kernel[axis] = 3
