"""Bodies as functions of the position: negative inside, zero on the surface.

Axes: N positions, 3 for (d, h, w). Lengths are shares of the longer side of the plane: a scene is about one wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Level = Callable[[np.ndarray], np.ndarray]
"""(3, N) float32 positions to (N,) float32: signed, in about the unit of the positions near the surface."""
HARMONICS = 4
CURVE_POINTS = 20


@dataclass(frozen=True, kw_only=True)
class Body:
    """A shape in its place."""

    level: Level
    center: np.ndarray
    """(3,) float32."""
    reach: float
    """No part of the body is farther from the center than this."""


def rotation(rng: np.random.Generator) -> np.ndarray:
    """Draw a (3, 3) float32 rotation, uniform over all of them."""
    quaternion = rng.normal(size=4)
    a, b, c, d = quaternion / np.linalg.norm(quaternion)
    rows = [
        [1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c)],
    ]
    return np.array(rows, np.float32)


def star(rng: np.random.Generator, center: np.ndarray, radius: float, *, rough: float, stretch: float) -> Body:
    """Draw a star-like body: seen from the center every ray leaves it once.

    Args:
        radius: of the ball that is bent, the geometric mean of its half-axes.
        rough: 0 for an ellipsoid; 0.4 for deep bays.
        stretch: longest to shortest half-axis at most.
    """
    axes = np.exp(rng.uniform(-0.5, 0.5, size=3) * math.log(stretch))
    radii = (radius * axes / np.prod(axes) ** (1 / 3)).astype(np.float32)
    turn = rotation(rng) / radii[:, None]
    waves = (
        rng.normal(size=(HARMONICS, 3)).astype(np.float32) * np.linspace(1.5, 4.0, HARMONICS, dtype=np.float32)[:, None]
    )
    phases = rng.uniform(0, 2 * math.pi, size=(HARMONICS, 1)).astype(np.float32)
    heights = (rough * rng.uniform(0, 1, size=HARMONICS) / np.arange(1, HARMONICS + 1)).astype(np.float32)
    shortest = float(radii.min())

    def level(positions: np.ndarray) -> np.ndarray:
        local = turn @ (positions - center[:, None])
        distance = np.sqrt(np.einsum("in,in->n", local, local)) + np.float32(1e-6)
        surface = 1 + heights @ np.cos(waves @ (local / distance) + phases)
        return (distance - surface) * shortest

    return Body(level=level, center=center, reach=float(radii.max() * (1 + heights.sum())))


def tube(rng: np.random.Generator, center: np.ndarray, length: float, radius: float, *, flat: bool) -> Body:
    """Draw a bent tube, along a quadratic curve, whose radius changes by up to a third from end to end.

    Args:
        flat: the curve stays in the plane, as in an image of one slice.
    """
    ends = rng.normal(size=(3, 3))
    if flat:
        ends[:, 0] = 0
    ends *= length / (2 * np.linalg.norm(ends, axis=1, keepdims=True))
    ends[2] = -ends[0] + 0.3 * ends[2]
    t = np.linspace(0, 1, max(CURVE_POINTS, int(1.5 * length / radius)))[:, None]
    curve = ((1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]).astype(np.float32)
    radii = (radius * (1 + rng.uniform(-0.33, 0.33) * t[:, 0])).astype(np.float32)

    def level(positions: np.ndarray) -> np.ndarray:
        local = positions - center[:, None]
        squares = (curve**2).sum(axis=1)[:, None] - 2 * (curve @ local) + np.einsum("in,in->n", local, local)
        return (np.sqrt(np.maximum(squares, 0)) - radii[:, None]).min(axis=0)

    return Body(level=level, center=center, reach=float(np.linalg.norm(curve, axis=1).max() + radii.max()))


def sheet(rng: np.random.Generator, center: np.ndarray, extent: float, thickness: float) -> Body:
    """Draw a curved sheet with a round rim."""
    turn = rotation(rng)
    bend = rng.uniform(-0.8, 0.8, size=2).astype(np.float32) / np.float32(extent)

    def level(positions: np.ndarray) -> np.ndarray:
        local = turn @ (positions - center[:, None])
        beside = np.sqrt(local[1] ** 2 + local[2] ** 2) - np.float32(extent)
        through = np.abs(local[0] - bend[0] * local[1] ** 2 - bend[1] * local[2] ** 2) - np.float32(thickness / 2)
        return np.maximum(beside, through)

    return Body(level=level, center=center, reach=2 * extent + thickness)


def shrunk(body: Body, by: float) -> Body:
    """Return what is left of a body when a layer of a thickness is taken off."""
    return Body(level=lambda positions: body.level(positions) + np.float32(by), center=body.center, reach=body.reach)


def mirrored(body: Body, middle: float) -> Body:
    """Return a body's twin on the other side of the plane w = `middle`."""
    sign = np.array([1, 1, -1], np.float32)
    shift = np.array([0, 0, 2 * middle], np.float32)

    def level(positions: np.ndarray) -> np.ndarray:
        return body.level(positions * sign[:, None] + shift[:, None])

    return Body(level=level, center=body.center * sign + shift, reach=body.reach)


def within(body: Body, outer: Body) -> Body:
    """Return the part of a body that lies in another one."""
    return Body(
        level=lambda positions: np.maximum(body.level(positions), outer.level(positions)),
        center=body.center,
        reach=body.reach,
    )
