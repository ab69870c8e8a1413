"""What requests hold, and volumes made of it; see `samunet.serving.app` for the meaning of voxels and arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from samunet.core.geometry import IDENTITY_DIRECTION, Geometry
from samunet.core.volume import Volume
from samunet.errors import ConfigError
from samunet.interaction.state import Block, Voxel

MOST_VOXELS = 2**30  # of an image that a program sends
STRICT: dict[str, Any] = {"extra": "forbid"}


@dataclass(kw_only=True)
class Array:
    """A block of values."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    box: list[list[int]]
    dtype: str
    data: str


@dataclass(kw_only=True)
class Image:
    """An image to annotate: a case of the server by its name, or an array of one channel with its grid."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    name: str
    array: Array | None = None
    spacing: list[float] | None = None
    """x, y, z in mm."""
    origin: list[float] | None = None
    """LPS position of voxel [0, 0, 0] in mm."""
    direction: list[list[float]] | None = None
    """LPS unit vectors of x, y and z."""


@dataclass(kw_only=True)
class OfObject:
    """Which object, and how it is meant."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    object: int = 1
    axis: int = 0
    over: bool = False
    """It may take voxels of other objects."""


@dataclass(kw_only=True)
class Interaction(OfObject):
    include_interaction: bool = True
    run_prediction: bool = True


@dataclass(kw_only=True)
class Point(Interaction):
    coordinates: list[int]


@dataclass(kw_only=True)
class BBox(Interaction):
    bbox: list[list[int]]
    """First and one past the last index along x, y and z."""


@dataclass(kw_only=True)
class Line(Interaction):
    points: list[list[int]]
    """Corners of a line within a plane."""


@dataclass(kw_only=True)
class Stroke(OfObject):
    points: list[list[int]]
    radius: float
    """In mm."""
    erase: bool = False


@dataclass(kw_only=True)
class InitialSegmentation(OfObject):
    initial_seg: Array
    """Of the image's shape; what is not 0 is the object."""


@dataclass(kw_only=True)
class Carry(OfObject):
    index: int
    """Of the plane that shows the object."""
    step: int = 1
    most: int = 1000


@dataclass(kw_only=True)
class Naming:
    """An object's new name; without an object a new one."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    name: str | None = None
    object: int | None = None


@dataclass(kw_only=True)
class Fault:
    """Why a request was refused."""

    error: str


def voxels(points: list[list[int]]) -> list[Voxel]:
    """Turn [x, y, z] into (d, h, w); what does not fit is left for the session to refuse."""
    return [tuple(point[::-1]) for point in points]  # type: ignore[misc]


def array_of(given: Array, shape: tuple[int, ...]) -> np.ndarray:
    """Unpack an array that must have a (D, H, W) shape; raises ConfigError where it has another."""
    if given.box != [[0, size] for size in shape]:
        raise ConfigError(
            f"The array's box must be {[[0, size] for size in shape]}, as z, y, x; got {given.box!r:.80}."
        )
    d, h, w = ((first, stop) for first, stop in given.box)
    return Block(box=(d, h, w), dtype=given.dtype, data=given.data).array()


def volume_of(body: Image) -> Volume:
    """Make a volume of an image that a program sent."""
    box = body.array.box if body.array is not None else []
    if len(box) != 3 or any(len(ends) != 2 or ends[0] != 0 or ends[1] < 1 for ends in box):
        raise ConfigError(f"An image's box is [[0, z], [0, y], [0, x]], its sizes; got {box!r:.80}.")
    shape = (box[0][1], box[1][1], box[2][1])
    if body.array is None or math.prod(shape) > MOST_VOXELS:
        raise ConfigError(f"An image has {MOST_VOXELS} voxels at most; this one has {math.prod(shape)}.")
    spacing = body.spacing if body.spacing is not None else [1.0, 1.0, 1.0]
    origin = body.origin if body.origin is not None else [0.0, 0.0, 0.0]
    direction = body.direction if body.direction is not None else [list(axis) for axis in IDENTITY_DIRECTION[::-1]]
    numbers = [*spacing, *origin, *(value for axis in direction for value in axis)]
    sizes = [len(spacing), len(origin), *(len(axis) for axis in direction)]
    if sizes != [3] * 5 or not np.isfinite(numbers).all():
        raise ConfigError("Spacing and origin are three finite numbers, direction three times three, for x, y and z.")
    turned = np.array(direction[::-1], float)
    if not np.allclose(turned @ turned.T, np.eye(3), atol=1e-3) or min(spacing) <= 0:
        raise ConfigError("Spacings must be above 0 mm, and directions unit vectors at right angles.")
    d, h, w = (tuple(axis) for axis in turned.tolist())
    geometry = Geometry(
        shape=shape,
        spacing=(spacing[2], spacing[1], spacing[0]),
        origin=(origin[0], origin[1], origin[2]),
        direction=(d, h, w),
        measured=body.spacing is not None,
        directed=body.direction is not None,
    )
    array = array_of(body.array, shape).astype(np.float32)
    if not np.isfinite(array).all():
        raise ConfigError("The image holds values that are not finite; replace them first.")
    return Volume(array=array[None], geometry=geometry)
