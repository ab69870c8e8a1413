"""Procedural scenes with instance masks, of which no two are alike: what a network can learn to segment from nothing.

A scene is bodies in space, seen through a grid: a slab of slices, or one slice. Zones of smooth noise lie behind them,
whose edges belong to no object. Bodies come alone, in pairs left and right of the middle, as walls with a lumen, with
parts, or as clusters of cells; families of them look alike. What a scanner or microscope does to an image comes after:
partial volume, texture, a bias field, blur, contrast, noise. No number here is from an image of anybody; all ranges are
ours.

Axes: C channels (1 gray or 3 colored), D H W voxels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy import ndimage

from samunet.core.geometry import Shape
from samunet.phantom.shapes import Body, mirrored, sheet, shrunk, star, tube, within

SMALLEST = 8  # voxels of an object that stays in the list
MOST_OBJECTS = 24
GROUPS = {1: (3, 9), 3: (5, 16)}  # in a slice, and in a slab, where most of them lie above or below each other
THICKEST = 5.0  # slices to pixels
LARGEST = 0.45  # radius of a body, as a share of the plane
COARSEST = 4.0  # pixels that were one, where an image was enlarged


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An image and what is in it."""

    image: np.ndarray
    """(C, D, H, W) float32, mean 0 and standard deviation 1."""
    parts: np.ndarray
    """(D, H, W) int16: 0, or the number of the innermost object at a voxel."""
    parents: tuple[int, ...]
    """For object 1, 2, ...: the object that it is a part of, or 0."""
    families: tuple[int, ...]
    """For object 1, 2, ...: objects of one family look alike."""
    spacing: float
    """Distance of slices as a multiple of the distance of pixels."""

    def mask(self, number: int) -> np.ndarray:
        """Return an object with all its parts, (D, H, W) bool."""
        numbers = {number}
        for child, parent in enumerate(self.parents, start=1):  # parts come after what they are part of
            if parent in numbers:
                numbers.add(child)
        return np.isin(self.parts, list(numbers))


def make_scene(seed: int, index: int, shape: Shape) -> Scene:
    """Draw scene `index` of a seed; equal arguments give equal bytes.

    Args:
        shape: (D, H, W); D = 1 gives one slice through the bodies.
    """
    rng = np.random.default_rng([seed, index])
    canvas = _Canvas.blank(rng, shape)
    outer = _background(rng, canvas)
    fewest, most = GROUPS[1 if shape[0] == 1 else 3]
    for _ in range(int(rng.integers(fewest, most))):
        _place_group(rng, canvas, outer)
    return canvas.finish(rng)


@dataclass(kw_only=True)
class _Canvas:
    """What was painted so far."""

    shape: Shape
    spacing: float
    positions: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Coordinates along D, H, W; lengths are shares of the longer side of the plane, 0 in the middle."""
    parts: np.ndarray
    intensity: np.ndarray
    """(D, H, W) float32."""
    texture: np.ndarray
    """(D, H, W) float32: how strong the texture is."""
    parents: list[int] = field(default_factory=list)
    families: list[int] = field(default_factory=list)
    looks: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Family to its intensity and texture."""

    @classmethod
    def blank(cls, rng: np.random.Generator, shape: Shape) -> _Canvas:
        spacing = 1.0 if shape[0] == 1 else float(np.exp(rng.uniform(0, math.log(THICKEST))))
        steps = np.array([spacing, 1.0, 1.0]) / max(shape[1:])
        positions = [
            ((np.arange(size) - (size - 1) / 2) * step).astype(np.float32)
            for size, step in zip(shape, steps, strict=True)
        ]
        return cls(
            shape=shape,
            spacing=spacing,
            positions=(positions[0], positions[1], positions[2]),
            parts=np.zeros(shape, np.int16),
            intensity=np.zeros(shape, np.float32),
            texture=np.full(shape, 0.1, np.float32),
        )

    def block(self, body: Body) -> tuple[slice, ...]:
        """Return the part of the grid in reach of a body; empty where it lies outside."""
        edges = []
        for axis, center in zip(self.positions, body.center, strict=True):
            step = 1 / max(self.shape[1:])
            first, last = np.searchsorted(axis, [center - body.reach - step, center + body.reach + step])
            edges.append(slice(int(first), int(last)))
        return tuple(edges)

    def coverage(self, body: Body, block: tuple[slice, ...]) -> np.ndarray:
        """Return the share of each voxel of a block that lies in a body, float32."""
        axes = [axis[part] for axis, part in zip(self.positions, block, strict=True)]
        grid = np.stack(np.broadcast_arrays(*np.ix_(*axes))).reshape(3, -1)
        level = body.level(grid).reshape([len(axis) for axis in axes])
        return np.clip(np.float32(0.5) - level * np.float32(max(self.shape[1:])), 0, 1)

    def paint(self, body: Body, family: int, *, parent: int = 0, over: bool = False) -> int:
        """Add an object and return its number; 0 where it would be too small, or another one lies there.

        Args:
            parent: what it is a part of; it shows only there.
            over: it may hide parts of objects that lie there already.
        """
        block = self.block(body)
        if any(part.stop <= part.start for part in block) or len(self.parents) >= MOST_OBJECTS:
            return 0
        share, parts = self.coverage(body, block), self.parts[block]
        inside = share > 0.5
        if parent:
            inside &= parts == parent
            share = share * (parts == parent)
        elif not over and (parts[inside] != 0).any():
            return 0
        if inside.sum() < SMALLEST:
            return 0
        self.parents.append(parent)
        self.families.append(family)
        number = len(self.parents)
        parts[inside] = number
        value, texture = self.looks[family]
        self.intensity[block] += share * (np.float32(value) - self.intensity[block])
        self.texture[block] += share * (np.float32(texture) - self.texture[block])
        return number

    def family(self, rng: np.random.Generator, *, known: float = 0.0) -> int:
        """Draw a family: one that is there already with a probability, else a new one."""
        if self.looks and rng.random() < known:
            return int(rng.choice(list(self.looks)))
        number, value = len(self.looks) + 1, rng.uniform(-1.5, 1.5)
        if self.looks and rng.random() < 0.3:  # hard to tell from another one
            value = self.looks[int(rng.choice(list(self.looks)))][0] + rng.uniform(-0.4, 0.4)
        self.looks[number] = (float(value), float(rng.choice([0.03, 0.1, 0.3])))
        return number

    def finish(self, rng: np.random.Generator) -> Scene:
        numbers, parts = np.unique(self.parts, return_inverse=True)
        kept = [int(number) for number in numbers if number]
        new = {old: index for index, old in enumerate(kept, start=1)} | {0: 0}

        def standing(number: int) -> int:  # a part of what is hidden whole is a part of what held that
            while number not in new:
                number = self.parents[number - 1]
            return new[number]

        if numbers[0] != 0:  # no background is in sight
            parts = parts + 1
        return Scene(
            image=_seen(rng, self),
            parts=parts.reshape(self.shape).astype(np.int16),
            parents=tuple(standing(self.parents[number - 1]) for number in kept),
            families=tuple(self.families[number - 1] for number in kept),
            spacing=self.spacing,
        )


def _background(rng: np.random.Generator, canvas: _Canvas) -> Body | None:
    """Paint zones that are no object, and in half of the scenes a body for all that comes; returns it."""
    zones = int(rng.integers(1, 5))
    if zones > 1:
        fields = np.stack([smooth_noise(rng, canvas.shape, int(rng.integers(2, 5))) for _ in range(zones)])
        canvas.intensity += rng.uniform(-1.2, 1.2, size=zones).astype(np.float32)[fields.argmax(axis=0)]
    if rng.random() < 0.5:
        return None
    outer = star(rng, np.zeros(3, np.float32), rng.uniform(0.35, 0.6), rough=rng.uniform(0, 0.15), stretch=1.5)
    canvas.paint(outer, canvas.family(rng), over=True)
    return outer


def _place_group(rng: np.random.Generator, canvas: _Canvas, outer: Body | None) -> None:
    """Paint one object, a pair, a wall with its lumen, an object with parts, or a cluster."""
    parent = 1 if outer is not None and canvas.parents else 0
    family = canvas.family(rng, known=0.3)
    body = _any_body(rng, canvas)
    kind = rng.choice(["one", "pair", "wall", "nested", "cluster"], p=[0.3, 0.15, 0.2, 0.15, 0.2])
    if kind == "cluster":
        for cell in _cells(rng, canvas):
            canvas.paint(cell, family, parent=parent)
        return
    number = canvas.paint(body, family, parent=parent)
    if kind == "pair":
        canvas.paint(mirrored(body, 0.0), family, parent=parent)
    if not number:
        return
    if kind == "wall":
        canvas.paint(shrunk(body, body.reach * rng.uniform(0.08, 0.25)), canvas.family(rng, known=0.5), parent=number)
    if kind == "nested":
        inner = canvas.family(rng)
        for _ in range(int(rng.integers(1, 4))):
            center = (body.center + rng.normal(size=3) * body.reach * 0.3).astype(np.float32)
            part = star(rng, center, body.reach * rng.uniform(0.15, 0.4), rough=0.2, stretch=1.5)
            canvas.paint(within(part, shrunk(body, 0.01)), inner, parent=number)


def _place(rng: np.random.Generator, canvas: _Canvas) -> np.ndarray:
    """Draw a center within the grid, (3,) float32."""
    return np.array([rng.uniform(axis[0], axis[-1]) for axis in canvas.positions], np.float32)


def _any_body(rng: np.random.Generator, canvas: _Canvas) -> Body:
    center, flat = _place(rng, canvas), canvas.shape[0] == 1
    radius = float(np.exp(rng.uniform(math.log(0.03), math.log(LARGEST))))
    kind = rng.choice(["star", "tube", "sheet"], p=[0.7, 0.2, 0.1])
    if kind == "tube":
        return tube(rng, center, rng.uniform(0.2, 0.8), rng.uniform(0.012, 0.05), flat=flat)
    if kind == "sheet":
        return sheet(rng, center, rng.uniform(0.1, 0.25), rng.uniform(0.02, 0.05))
    return star(rng, center, radius, rough=rng.uniform(0, 0.45), stretch=rng.uniform(1, 2.5))


def _cells(rng: np.random.Generator, canvas: _Canvas) -> Iterator[Body]:
    center, radius = _place(rng, canvas), rng.uniform(0.025, 0.07)
    for _ in range(int(rng.integers(3, 9))):
        shift = rng.normal(size=3) * 3 * radius * [canvas.shape[0] > 1, 1, 1]
        yield star(rng, (center + shift).astype(np.float32), radius * rng.uniform(0.8, 1.2), rough=0.1, stretch=1.4)


def _seen(rng: np.random.Generator, canvas: _Canvas) -> np.ndarray:
    """Return what an instrument makes of the painted intensities, (C, D, H, W) float32."""
    shape = canvas.shape
    grain = ndimage.uniform_filter(rng.standard_normal(shape, np.float32), [1, *[int(rng.integers(1, 5))] * 2])
    image = canvas.intensity + canvas.texture * grain / (grain.std() + np.float32(1e-6))
    if rng.random() < 0.5:
        image = image + smooth_noise(rng, shape, 2) * np.float32(rng.uniform(0, 0.4))  # a bias field
    if rng.random() < 0.5:
        image = ndimage.gaussian_filter(image, [0, *[rng.uniform(0.3, 1.2)] * 2], truncate=2.5)
    image = (image - image.mean()) / (image.std() + np.float32(1e-6))
    if rng.random() < 0.5:  # a contrast curve, either way round
        image = np.sinh(np.float32(rng.uniform(0.3, 1.2)) * image) * np.float32(rng.choice([-1.0, 1.0]))
    channels = 3 if rng.random() < 0.25 else 1
    image = image[None] if channels == 1 else _colored(rng, image)
    noise = np.float32(rng.uniform(0, 0.4) * image.std()) * rng.standard_normal(image.shape, np.float32)
    image = image + noise
    if rng.random() < 0.4:
        image = _enlarged(image, float(np.exp(rng.uniform(math.log(1.3), math.log(COARSEST)))))
    return ((image - image.mean()) / (image.std() + np.float32(1e-6))).astype(np.float32)


def _enlarged(image: np.ndarray, factor: float) -> np.ndarray:
    """Return a (C, D, H, W) image as if it had been taken with pixels so many times as wide, and enlarged."""
    for axis in (2, 3):
        size = image.shape[axis]
        count = max(2, round(size / factor))
        weights = _spline(size, count)  # smooth from pixel to pixel, both ways
        coarse = np.tensordot(weights.T / weights.sum(0)[:, None], image, axes=(1, axis))
        image = np.moveaxis(np.tensordot(weights, coarse, axes=(1, 0)), 0, axis)
    return image


def _colored(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return three channels that see the intensities differently, as stains and filters do."""
    slopes, phases = rng.uniform(0.3, 1.2, size=3), rng.uniform(-1, 1, size=3)
    return np.stack([np.tanh(slope * image + phase) for slope, phase in zip(slopes, phases, strict=True)]).astype(
        np.float32
    )


def smooth_noise(rng: np.random.Generator, shape: Shape, cells: int) -> np.ndarray:
    """Draw a field that varies over about 1 / `cells` of each axis, (D, H, W) float32, standard deviation about 1."""
    counts = [max(1, round(cells * size / max(shape))) for size in shape]
    noise = rng.standard_normal([count + 3 for count in counts], np.float32)
    for axis, (size, count) in enumerate(zip(shape, counts, strict=True)):
        noise = np.moveaxis(np.tensordot(_spline(size, count), noise, axes=(1, axis)), 0, axis)
    return noise * np.float32(3.0)  # a cubic spline averages, by 0.69 along each axis


@lru_cache(maxsize=256)
def _spline(size: int, cells: int) -> np.ndarray:
    """Return the weights of a uniform cubic B-spline's coefficients, (size, cells + 3) float32."""
    places = np.linspace(0, cells, size, endpoint=False) if size > 1 else np.array([cells / 2])
    distance = np.abs(places[:, None] + 1 - np.arange(cells + 3))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)
