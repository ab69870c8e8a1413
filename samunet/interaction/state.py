"""What an annotation consists of: labels, objects, and a draft that is not accepted yet; and steps between them.

Axes: D H W voxels of the image file. A plane is named by its axis (0 D, 1 H, 2 W) and its index along it.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from samunet.core.prompts import BOX, INSIDE, MASK, OUTSIDE
from samunet.errors import ConfigError
from samunet.evaluation.colors import as_hex, label_color
from samunet.interaction.shapes import filled, in_plane, line

Voxel = tuple[int, int, int]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First and one past the last index of each axis."""
KINDS = ("point", "box", "scribble", "lasso")
DTYPES = ("bool", "uint8", "uint16", "int16", "float32")
FAST = 1  # of zlib's levels


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a volume, compressed."""

    box: Box
    dtype: str
    """One of DTYPES."""
    data: str
    """Base64 of zlib of the voxels in C order, eight to a byte where they are bool."""

    @classmethod
    def of(cls, array: np.ndarray, corner: Sequence[int] = (0, 0, 0)) -> Block:
        """Pack a (D, H, W) array that lies at `corner`."""
        plain = np.packbits(array) if array.dtype == bool else np.ascontiguousarray(array)
        data = base64.b64encode(zlib.compress(plain.data, FAST)).decode()
        return cls(box=box_at(corner, array.shape), dtype=str(array.dtype), data=data)

    def array(self) -> np.ndarray:
        """Unpack; raises ConfigError where the data is not that of the box."""
        shape = tuple(stop - first for first, stop in self.box)
        if self.dtype not in DTYPES or min(shape) < 0:
            raise ConfigError(f"A block holds {', '.join(DTYPES)}; got {self.dtype} of shape {list(shape)}.")
        count = math.prod(shape)
        size = -(-count // 8) if self.dtype == "bool" else count * np.dtype(self.dtype).itemsize
        try:
            unpacker = zlib.decompressobj()
            plain = unpacker.decompress(base64.b64decode(self.data, validate=True), size + 1)
        except (zlib.error, binascii.Error, ValueError):
            plain = b""
        if len(plain) != size or unpacker.unconsumed_tail:
            raise ConfigError(
                f"A block of shape {list(shape)} of {self.dtype} needs {size} bytes, as Base64 of zlib; its data holds "
                "others. Send it again."
            )
        if self.dtype == "bool":
            return np.unpackbits(np.frombuffer(plain, np.uint8), count=count).astype(bool).reshape(shape)
        return np.frombuffer(plain, self.dtype).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object that is annotated."""

    value: int
    """In the label file, from 1."""
    name: str
    color: str
    """As HTML writes it, e.g. "#e69f00"."""


def new_thing(value: int) -> Thing:
    """Return an object that nobody has named yet."""
    return Thing(value=value, name=f"object {value}", color=as_hex(label_color(value)))


def named_things(names: Mapping[int, str]) -> list[Thing]:
    """Return objects with the names that are given by their values."""
    return [replace(new_thing(value), name=name) for value, name in sorted(names.items())]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a person showed at once."""

    kind: str
    """One of KINDS."""
    points: tuple[Voxel, ...]
    """One voxel; two opposite corners of a box, both in it; or the corners of a scribble's or lasso's line."""
    include: bool = True
    """Shows the object; otherwise what is not of it."""

    def draw(self, drawn: np.ndarray) -> None:
        """Add the bits of `samunet.core.prompts` to a (D, H, W) uint8 map.

        Raises:
            ConfigError: the points of a scribble or lasso do not lie in one plane.
        """
        bit = INSIDE if self.include else OUTSIDE
        if self.kind == "box":
            low, high = np.min(self.points, 0), np.max(self.points, 0) + 1
            drawn[tuple(slice(*ends) for ends in zip(low, high, strict=True))] |= BOX if self.include else bit
        elif self.kind == "point":
            drawn[self.points[0]] |= bit
        else:
            axis, index, path = in_plane(self.points)
            plane = np.moveaxis(drawn, axis, 0)[index]
            if self.kind == "scribble":
                plane[line(plane.shape, path)] |= bit
            else:  # what a lasso holds is nearly the object, as an earlier mask is
                plane[filled(plane.shape, path)] |= MASK if self.include else OUTSIDE


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Prompts for one object, and what the model makes of them."""

    value: int
    axis: int = 0
    index: int | None = None
    """Of the plane that is segmented; None where the model segments volumes."""
    prompts: tuple[Prompt, ...] = ()
    mask: Block | None = None
    """Where the object is once this is accepted, in a box around it and around what it was before in the plane or
    volume; None before the model was asked."""
    quality: float | None = None
    """IoU that the model expects, in [0, 1]; None where it expects none."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation, as the journal keeps it: all that is needed to do it again without a model."""

    op: str
    at: float
    """Seconds since 1970."""
    draft: Draft | None = None
    """After it."""
    objects: tuple[Thing, ...] | None = None
    """After it, where they changed."""
    before: Block | None = None
    after: Block | None = None
    """Labels that it changed."""
    sha256: str | None = None
    """Of the file that a save wrote."""


CLASSES = "classes"  # a step that adds objects which a dataset has got since, and is never undone


class State:
    """Labels, objects and draft, moved by steps; undo and redo have no end."""

    def __init__(self, labels: np.ndarray, objects: tuple[Thing, ...]) -> None:
        self.labels = labels
        """(D, H, W) uint8 or uint16: what is accepted."""
        self._objects = objects
        self._given: tuple[Thing, ...] = ()  # by the dataset, since
        self.draft: Draft | None = None
        self._done: list[tuple[Step, Draft | None, tuple[Thing, ...]]] = []
        self._undone: list[Step] = []

    @property
    def objects(self) -> tuple[Thing, ...]:
        """What is annotated, by value."""
        things = {thing.value: thing for thing in (*self._given, *self._objects)}
        return tuple(things[value] for value in sorted(things))

    @property
    def can_undo(self) -> bool:
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        return bool(self._undone)

    def can(self, op: str) -> bool:
        """Tell whether there is something to undo or redo, where that is the step."""
        return {"undo": self.can_undo, "redo": self.can_redo}.get(op, True)

    def move(self, step: Step) -> Box | None:
        """Take a step; returns the box of what may look different, None for nothing.

        Raises:
            ConfigError: there is nothing to undo or redo.
        """
        old = self.draft
        if step.op == "undo":
            if not self._done:
                raise ConfigError("There is nothing to undo.")
            done, self.draft, self._objects = self._done.pop()
            self._undone.append(done)
            changed = self._put(done.before)
        elif step.op == "redo":
            if not self._undone:
                raise ConfigError("There is nothing to redo.")
            changed = self._do(self._undone.pop())
        elif step.op == "save":
            return None
        elif step.op == CLASSES:
            self._given += step.objects or ()
            return None
        else:
            self._undone.clear()
            changed = self._do(step)
        return hull([changed, *(draft.mask.box for draft in (old, self.draft) if draft and draft.mask)])

    def _do(self, step: Step) -> Box | None:
        self._done.append((step, self.draft, self._objects))
        self.draft = step.draft
        self._objects = self._objects if step.objects is None else step.objects
        return self._put(step.after)

    def _put(self, block: Block | None) -> Box | None:
        if block is None:
            return None
        self.labels[slices(block.box)] = block.array()
        return block.box

    def shown(self, box: Box | None = None) -> np.ndarray:
        """Return a copy of the labels, or of a box of them, as they are once the draft is accepted."""
        box = box or box_at((0, 0, 0), self.labels.shape)
        labels, draft = self.labels[slices(box)].copy(), self.draft
        if draft is not None and draft.mask is not None:
            both = overlap(box, draft.mask.box)
            part = labels[slices(both, box)]
            part[part == draft.value] = 0
            part[draft.mask.array()[slices(both, draft.mask.box)]] = draft.value
        return labels


def box_at(corner: Sequence[int], shape: Sequence[int]) -> Box:
    """Return the box of an array of some shape that lies at a corner."""
    d, h, w = ((start, start + size) for start, size in zip(corner, shape, strict=True))
    return d, h, w


def plane_box(shape: Sequence[int], axis: int, index: int | None) -> Box:
    """Return the box of a plane across an axis, or without an index of the whole volume."""
    d, h, w = ((index, index + 1) if side == axis and index is not None else (0, n) for side, n in enumerate(shape))
    return d, h, w


def hull(boxes: Iterable[Box | None]) -> Box | None:
    """Return the smallest box around boxes; None where there are none."""
    there = np.array([box for box in boxes if box is not None])
    if not len(there):
        return None
    d, h, w = zip(there[:, :, 0].min(0).tolist(), there[:, :, 1].max(0).tolist(), strict=True)
    return d, h, w


def slices(box: Box, within: Box = ((0, 0), (0, 0), (0, 0))) -> tuple[slice, slice, slice]:
    """Return where a box lies in the array of another one that holds it, or of the whole volume."""
    d, h, w = (slice(first - start, stop - start) for (first, stop), (start, _) in zip(box, within, strict=True))
    return d, h, w


def overlap(one: Box, other: Box) -> Box:
    """Return what two boxes share; nothing of it where they are apart."""
    firsts = [max(a[0], b[0]) for a, b in zip(one, other, strict=True)]
    d, h, w = ((first, max(first, min(a[1], b[1]))) for first, a, b in zip(firsts, one, other, strict=True))
    return d, h, w


def extent(mask: np.ndarray) -> Box:
    """Return the box around what a (D, H, W) mask holds; an empty one where that is nothing."""
    found = ndimage.find_objects(mask.view(np.uint8))
    d, h, w = ((side.start, side.stop) for side in found[0]) if found else ((0, 0),) * 3
    return d, h, w
