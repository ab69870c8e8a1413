"""Bring a labeled image onto another one by SimpleITK, first by an affine map and then by a deformation.

Both are looked at on grids of about equal steps along all axes, with orientation and position left out: they are cases
of one kind, and their centers start on each other. Lengths count steps of the fixed image, whatever a voxel measures.

Axes: K classes, D H W voxels of the fixed image's reduced grid.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import SimpleITK as sitk

from samunet.core.codec import encode
from samunet.core.geometry import Geometry, Triple, shape3, triple
from samunet.core.process import stop_with_parent
from samunet.core.ranges import Within, check_ranges
from samunet.core.volume import Volume
from samunet.machine.progress import pool_of

logger = logging.getLogger(__name__)

START = "import sys; sys.path[:] = sys.argv[2:]; from samunet.fewshot.registration import serve; serve(sys.argv[1])"
BINS, SAMPLES, LEAST_SAMPLES = 32, 0.1, 20_000
LEVELS = (4, 2, 1)
ITK_ERROR = "ITK ERROR:"
SMALLEST = 8  # voxels along the shortest side of a level
THINNEST = 4  # voxels along any side, for ITK's recursive filters
AFFINE_STEPS, DEMON_STEPS, DEMON_SIGMA = 100, 50, 1.5
CONTROL_POINTS = 8  # of B-splines, a side
AROUND = 5  # voxels about the structures within which two images are compared


@dataclass(frozen=True, kw_only=True)
class Registration:
    """How images are registered."""

    deformation: Literal["demons", "bsplines", "none"] = "demons"
    """What follows the affine map."""
    side: Annotated[int, Within(16, 256)] = 128
    """Voxels along the longest side."""
    seconds: Annotated[float, Within(0, above=True)] = 300.0
    """After which a pair is given up."""

    def __post_init__(self) -> None:
        check_ranges(self, "Registration")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A labeled image that is to be brought onto another one."""

    fixed: Volume
    moving: Volume
    label: np.ndarray
    """(D, H, W) of the moving image."""
    values: tuple[int, ...]
    settings: Registration
    name: str = "a pair"
    """For messages."""


@dataclass(frozen=True, kw_only=True)
class Warped:
    """A label on another image."""

    soft: np.ndarray
    """(K, D, H, W) float16 share of each class, on the whole extent of the fixed image."""
    likeness: float
    """Correlation of the two images about the structures, -1 to 1."""


def register(pair: Pair) -> Warped:
    """Register one pair in this process."""
    flat, grids = all(volume.geometry.shape[0] == 1 for volume in (pair.fixed, pair.moving)), _alike(pair)
    fixed, moving = (
        _normalized(volume.array, grid, pair.settings.side, flat=flat)
        for volume, grid in zip((pair.fixed, pair.moving), grids, strict=True)
    )
    moving = sitk.HistogramMatching(moving, fixed, numberOfHistogramLevels=128, numberOfMatchPoints=7)
    transform: sitk.Transform = _affine(fixed, moving)
    if pair.settings.deformation == "bsplines":
        transform = sitk.CompositeTransform([transform, _bsplines(fixed, moving, transform)])
    elif pair.settings.deformation == "demons":
        transform = sitk.CompositeTransform([transform, _demons(fixed, moving, transform)])
    soft = []
    for value in pair.values:
        mask = _image((pair.label == value).astype(np.float32), grids[1], flat=flat)
        soft.append(sitk.GetArrayFromImage(sitk.Resample(mask, fixed, transform, sitk.sitkLinear, 0.0)))
    seen = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0))
    shares = np.stack(soft)
    likeness = _likeness(sitk.GetArrayFromImage(fixed), seen, shares.sum(0) > 0.5)
    shares = shares[:, None] if flat else shares
    return Warped(soft=shares.astype(np.float16), likeness=likeness)


def register_all(pairs: Sequence[Pair], *, workers: int) -> list[Warped | None]:
    """Register pairs, `workers` at a time, each in a process of its own, which ends when its time is up.

    Returns:
        What came of each pair; None where it took longer than its time or failed.
    """
    with tempfile.TemporaryDirectory() as scratch, pool_of(workers) as pool:
        files = [Path(scratch) / f"{number}.npz" for number in range(len(pairs))]
        return list(pool.map(_in_a_process, pairs, files))


def _in_a_process(pair: Pair, file: Path) -> Warped | None:
    words = {
        "settings": encode(pair.settings),
        "values": pair.values,
        **{
            name: {"spacing": volume.geometry.spacing, "measured": volume.geometry.measured}
            for name, volume in (("fixed", pair.fixed), ("moving", pair.moving))
        },
    }
    np.savez(file, words=json.dumps(words), label=pair.label, fixed=pair.fixed.array, moving=pair.moving.array)
    paths = [path or os.getcwd() for path in sys.path]
    try:
        subprocess.run(
            [sys.executable, "-c", START, str(file), *paths],
            timeout=pair.settings.seconds,
            check=True,
            stderr=subprocess.PIPE,
        )
    except subprocess.TimeoutExpired:
        return None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        told = [line.partition(ITK_ERROR)[2].strip() for line in lines if ITK_ERROR in line]
        reason = [*lines[-1:], *told] or [f"its process ended with {error.returncode}"]
        logger.warning("Registration of %s failed: %s", pair.name, reason[-1])
        return None
    with np.load(file) as done:
        return Warped(soft=done["soft"], likeness=float(done["likeness"]))


def serve(file: str) -> None:
    """Register the pair in a file, and leave what comes of it there."""
    stop_with_parent()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    with np.load(file) as given:
        words = json.loads(str(given["words"]))
        volumes = []
        for name in ("fixed", "moving"):
            array = given[name]
            geometry = Geometry(shape=shape3(array.shape[1:]), **words[name])
            volumes.append(Volume(array=array, geometry=geometry))
        settings = Registration(**words["settings"])
        values, label = tuple(words["values"]), given["label"]
    result = register(Pair(fixed=volumes[0], moving=volumes[1], label=label, values=values, settings=settings))
    np.savez(file, soft=result.soft, likeness=result.likeness)


def _alike(pair: Pair) -> tuple[Triple, Triple]:
    """Return the (D, H, W) spacing of the fixed and of the moving grid in steps of the fixed one's reduced grid; where
    only one of them tells the size of its voxels, each in steps of its own.
    """
    grids, side = (pair.fixed.geometry, pair.moving.geometry), pair.settings.side
    own = [_step(list(zip(grid.shape, grid.spacing, strict=True))[grid.shape[0] == 1 :], side) for grid in grids]
    units = own if grids[0].measured != grids[1].measured else own[:1] * 2
    fixed, moving = (triple([step / unit for step in grid.spacing]) for grid, unit in zip(grids, units, strict=True))
    return fixed, moving


def _step(axes: Sequence[tuple[int, float]], side: int) -> float:
    """Return the step of a reduced grid, by voxels and spacing of each axis."""
    return max(max(n * step for n, step in axes) / side, min(step for _, step in axes))


def _image(array: np.ndarray, spacing: Triple, *, flat: bool) -> sitk.Image:
    """Return an ITK image with its center at 0; of one slice in two dimensions, where that is all there is."""
    image = sitk.GetImageFromArray(array[0] if flat else array)
    image.SetSpacing(tuple(reversed(spacing))[: image.GetDimension()])
    image.SetOrigin([-(n - 1) / 2 * step for n, step in zip(image.GetSize(), image.GetSpacing(), strict=True)])
    return image


def _normalized(channels: np.ndarray, spacing: Triple, side: int, *, flat: bool) -> sitk.Image:
    """Return the mean of the channels, z-scored, at most `side` voxels of about equal steps along each axis."""
    array = channels.mean(0)
    low, high = np.percentile(array, (0.5, 99.5))
    array = np.clip(array, low, high)
    image = _image(((array - array.mean()) / (array.std() + 1e-6)).astype(np.float32), spacing, flat=flat)
    axes = list(zip(image.GetSize(), image.GetSpacing(), strict=True))
    size = [max(THINNEST, round(n * step / _step(axes, side))) for n, step in axes]
    steps = [n * step / reduced for (n, step), reduced in zip(axes, size, strict=True)]
    blur = [max(0.0, 0.5 * (new / old - 1) * old) for new, old in zip(steps, image.GetSpacing(), strict=True)]
    smooth = sitk.DiscreteGaussian(image, [sigma**2 for sigma in blur]) if max(blur) else image
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing(steps)
    grid.SetOrigin([-(n - 1) / 2 * width for n, width in zip(size, steps, strict=True)])
    place = sitk.Transform(image.GetDimension(), sitk.sitkIdentity)
    return sitk.Resample(smooth, grid, place, sitk.sitkLinear, 0.0, sitk.sitkFloat32, True)


def _levels(image: sitk.Image) -> tuple[int, ...]:
    return tuple(level for level in LEVELS if min(image.GetSize()) // level >= SMALLEST) or (1,)


def _method(fixed: sitk.Image) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    share = min(1.0, max(SAMPLES, LEAST_SAMPLES / math.prod(fixed.GetSize())))
    method.SetMetricSamplingPercentage(share, seed=1234)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _affine(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    method, levels, dimension = _method(fixed), _levels(fixed), fixed.GetDimension()
    method.SetShrinkFactorsPerLevel(levels)
    method.SetSmoothingSigmasPerLevel([level / 2 if level > 1 else 0 for level in levels])
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, AFFINE_STEPS, 0.5)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(sitk.AffineTransform(dimension), inPlace=True)
    return method.Execute(fixed, moving)


def _bsplines(fixed: sitk.Image, moving: sitk.Image, affine: sitk.Transform) -> sitk.Transform:
    order = 3
    mesh = [CONTROL_POINTS - order] * fixed.GetDimension()
    method = _method(fixed)
    method.SetMovingInitialTransform(affine)
    method.SetInitialTransform(sitk.BSplineTransformInitializer(fixed, mesh, order), inPlace=True)
    method.SetShrinkFactorsPerLevel(_levels(fixed)[-2:])
    method.SetSmoothingSigmasPerLevel([0.0] * len(_levels(fixed)[-2:]))
    method.SetOptimizerAsLBFGSB(gradientConvergenceTolerance=1e-5, numberOfIterations=50)
    return method.Execute(fixed, moving)


def _demons(fixed: sitk.Image, moving: sitk.Image, affine: sitk.Transform) -> sitk.Transform:
    start = sitk.Resample(moving, fixed, affine, sitk.sitkLinear, 0.0, sitk.sitkFloat32, True)
    field: sitk.Image | None = None
    for level in _levels(fixed):
        one, other = (_smaller(image, level) for image in (fixed, start))
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(DEMON_STEPS)
        demons.SetSmoothDisplacementField(True)
        demons.SetStandardDeviations(DEMON_SIGMA)
        if field is None:
            field = demons.Execute(one, other)
        else:
            identity = sitk.Transform(one.GetDimension(), sitk.sitkIdentity)
            before = sitk.Resample(field, one, identity, sitk.sitkLinear, 0.0, field.GetPixelID(), True)
            field = demons.Execute(one, other, before)
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def _smaller(image: sitk.Image, level: int) -> sitk.Image:
    if level == 1:
        return image
    variance = [(level / 2 * step) ** 2 for step in image.GetSpacing()]
    return sitk.Shrink(sitk.DiscreteGaussian(image, variance), [level] * image.GetDimension())


def _likeness(fixed: np.ndarray, seen: np.ndarray, mask: np.ndarray) -> float:
    """Return the correlation of two arrays in the box about a mask; -1 where that is empty."""
    if not mask.any():
        return -1.0
    box = tuple(
        slice(max(0, int(places.min()) - AROUND), int(places.max()) + AROUND + 1) for places in np.nonzero(mask)
    )
    one, other = fixed[box].ravel(), seen[box].ravel()
    if not one.std() or not other.std():
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
