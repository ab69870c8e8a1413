"""The default planner: nnU-Net's rules for spacing, transpose and patch; SAM's needs decide the rest.

Axes are (D, H, W) after the transpose unless a name says otherwise. Sources: Isensee et al., nnU-Net, Nature Methods
2021.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from samunet.core.dataset import DatasetSpec
from samunet.core.fingerprint import ClassSize, Fingerprint
from samunet.core.geometry import Shape, Triple, shape3, triple, unit_of
from samunet.core.history import Axes
from samunet.core.labels import left_right_pairs
from samunet.core.plan import ChannelPlan, Configuration, Plan, Preference, Seen, Topology
from samunet.core.units import counted
from samunet.errors import PlanningError
from samunet.ops.normalize import scheme_for
from samunet.ops.resample import ANISOTROPY
from samunet.planning.topology import divisors, topology_for
from samunet.sam.backbones import TOKEN_PIXELS

SMALLEST_BATCH = 2  # nnU-Net's
LARGEST_SHARE = 0.05  # nnU-Net: a batch covers at most 5 % of the dataset's voxels
MASK_BELOW = 0.75  # nnU-Net: normalize within the nonzero region when cropping leaves less than this
START_VOXELS = {2: 2048**2, 3: 256**3}  # nnU-Net's patch before it is cut to the image and the memory
WIDE_FROM_GIB = 12.0  # from here on the convolutional path gets nnU-Net's 32 base features instead of 24
MAX_WIDTH = {2: 512, 3: 320}  # nnU-Net's
# Of the voxels that the convolutional path alone would get: less, and finer tokens than the coarsest are not worth
# their memory.
KEPT_SHARE = 0.9
# Width over diameter: 0.6 in a disk, below this where a structure is about four times as long as wide, e.g. a vessel.
DRAWN_OUT = 0.5
# Of the voxels that the convolutional path alone would get: with less, activations are better computed twice than kept.
SPARE_BELOW = 0.6
MOST_WORK = 1.5  # of a step with finer tokens than the coarsest, as a multiple of one with the coarsest


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the plan is for."""

    memory_gib: float = 8.0
    precision: str = "mixed"
    backbone: str
    backbone_reason: str
    weights: str | None = None
    """Path of the pretrained weights."""
    weights_sha256: str | None = None
    spacing: Triple | None = None
    """mm, in the files' axis order; overrides the rule."""
    keep_orientation: bool = False
    """Leave the axes of all files as they are."""
    plans_name: str
    reader: str


@dataclass(frozen=True, kw_only=True)
class PlannedMethod:
    """What the planner asks of an adaptation method."""

    variant: str
    dimensions: int
    preferred: Callable[[Topology, Shape, float], Sequence[Preference]]
    """(topology, patch, smallest class in voxels) to what the method asks for, best first; the first affordable."""
    cost: Callable[[Topology, Shape, float, int], float]
    """(topology, patch, encoder scale, batch size) to GiB of one training step."""
    convolutions: ConvolutionalPath | None = None
    """None for methods that see an image through the encoder only."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The method's options that the plan is to name."""
    sparing: PlannedMethod | None = None
    """The same method with options that need less memory and more time."""


@dataclass(frozen=True, kw_only=True)
class ConvolutionalPath:
    """What a method would be without its encoder."""

    cost: Callable[[Topology, Shape, int], float]
    """(topology, patch, batch size) to GiB of one training step without the encoder."""
    work: Callable[[Topology, Shape, float], float]
    """(topology, patch, encoder scale) to the operations of one sample's training step with the encoder."""


def plan(fingerprint: Fingerprint, dataset: DatasetSpec, target: Target, methods: Mapping[str, PlannedMethod]) -> Plan:
    """Decide everything between raw files and network for each configuration; raises PlanningError where no patch fits
    the memory target.

    Args:
        methods: configuration name to method; 3D configurations of 2D data are left out.
    """
    reasons: dict[str, str] = {}
    orientation = _orientation(fingerprint, target, reasons)
    seen = _seen(fingerprint, orientation)
    if orientation is not None:
        fingerprint = replace(
            fingerprint, cases={name: case.turned(orientation) for name, case in fingerprint.cases.items()}
        )
    file_spacing = _target_spacing(fingerprint, target, reasons)
    transpose = _transpose(file_spacing, fingerprint, reasons)
    spacing = triple([file_spacing[axis] for axis in transpose])
    median_shape = _median_shape(fingerprint, file_spacing, transpose)
    mirrored = _mirrored_axes(fingerprint, dataset, transpose, reasons)
    configurations = {
        name: _configure(name, method, fingerprint, spacing, median_shape, target, mirrored, reasons)
        for name, method in methods.items()
        if not (fingerprint.planar and method.dimensions == 3)
    }
    reasons["backbone"] = target.backbone_reason
    return Plan(
        dataset=dataset.name,
        plans_name=target.plans_name,
        reader=target.reader,
        memory_gib=target.memory_gib,
        precision=target.precision,
        asked_spacing=target.spacing,
        transpose=transpose,
        channels=_channels(fingerprint, dataset, reasons),
        configurations=configurations,
        reasons=reasons,
        orientation=orientation,
        seen=seen,
        measured=fingerprint.measured,
    )


def _orientation(fingerprint: Fingerprint, target: Target, reasons: dict[str, str]) -> str | None:
    """Return how the files' axes lie in most cases; None for 2D images and where all files are to stay as they are."""
    if fingerprint.planar:
        return None
    counts = Counter(case.orientation for case in fingerprint.cases.values())
    (usual, cases), *others = counts.most_common()
    seen = f"x, y, z run toward {usual[::-1]}"
    if target.keep_orientation:
        reasons["orientation"] = (
            f"all files stay as they are, as asked for with --keep_orientation; in {cases} of "
            f"{counted(counts.total(), 'case')} {seen}"
        )
        return None
    reasons["orientation"] = (
        f"{seen} in all training cases; a case to predict that lies otherwise is turned, and its segmentation back"
    )
    if others:
        listed = ", ".join(f"{orientation[::-1]} ({count})" for orientation, count in others)
        reasons["orientation"] = (
            f"{seen} in {cases} of {counted(counts.total(), 'case')}; the others, {listed}, are turned to it before "
            "anything else, and segmentations back (--keep_orientation leaves all as they are)"
        )
    return usual


def _seen(fingerprint: Fingerprint, orientation: str | None) -> Seen:
    cases = [case if orientation is None else case.turned(orientation) for case in fingerprint.cases.values()]
    spacings = np.array([case.spacing for case in cases])
    extents = spacings * np.array([case.shape for case in cases])
    ranges = np.array([case.intensity_ranges for case in cases])  # (cases, channels, 2)
    return Seen(
        orientations=dict(Counter(case.orientation for case in fingerprint.cases.values()).most_common()),
        spacing=(triple(spacings.min(axis=0)), triple(spacings.max(axis=0))),
        extent=(triple(extents.min(axis=0)), triple(extents.max(axis=0))),
        intensities=tuple(
            (float(low), float(high))
            for low, high in zip(ranges[..., 0].min(axis=0), ranges[..., 1].max(axis=0), strict=True)
        ),
        narrowest=tuple((ranges[..., 1] - ranges[..., 0]).min(axis=0).tolist()),
    )


def _target_spacing(fingerprint: Fingerprint, target: Target, reasons: dict[str, str]) -> Triple:
    """nnU-Net's 3d_fullres spacing in the files' axis order."""
    if target.spacing is not None:
        reasons["spacing"] = f"{_lengths(target.spacing, fingerprint)} as asked for with -overwrite_target_spacing"
        return target.spacing
    spacings = np.array([case.spacing for case in fingerprint.cases.values()])
    shapes = np.array([case.shape_after_crop for case in fingerprint.cases.values()])
    result, shape = np.median(spacings, axis=0), np.median(shapes, axis=0)
    reasons["spacing"] = f"{_lengths(result, fingerprint)}, the median of {counted(len(spacings), 'training case')}"
    if not fingerprint.measured:
        unit = _unit(fingerprint)
        reasons["spacing"] = (
            f"none: files tell no size of their {unit}, so that sizes count in {unit} and images stay as fine as they "
            "are"
        )
    thick = int(np.argmax(result))
    others = [axis for axis in range(3) if axis != thick]
    if (
        not fingerprint.planar
        and result[thick] > ANISOTROPY * max(result[others])
        and shape[thick] * ANISOTROPY < min(shape[others])
    ):
        fine = float(np.percentile(spacings[:, thick], 10))
        result[thick] = (
            fine if fine >= max(result[others]) else max(result[others]) + min(1e-5, 0.01 * max(result[others]))
        )
        reasons["spacing"] += (
            f"; across the thick slices the 10th percentile, {result[thick]:.3g} mm, so that few cases lose slices"
        )
    return triple(result)


def _transpose(spacing: Triple, fingerprint: Fingerprint, reasons: dict[str, str]) -> Axes:
    if fingerprint.planar:
        reasons["slicing axis"] = "2D images have one slice"
        return (0, 1, 2)
    axis = int(np.argmax(spacing))
    reasons["slicing axis"] = f"file axis {axis}, the one with the largest spacing ({spacing[axis]:.3g} mm)"
    if not fingerprint.measured:
        reasons["slicing axis"] = (
            f"file axis {axis}; files tell no size of their voxels, and none of them is taken for longer than the "
            "others"
        )
    rest = [other for other in range(3) if other != axis]
    return (axis, rest[0], rest[1])


def _median_shape(fingerprint: Fingerprint, spacing: Triple, transpose: Axes) -> Triple:
    shapes = [
        [round(old / new * size) for old, new, size in zip(case.spacing, spacing, case.shape_after_crop, strict=True)]
        for case in fingerprint.cases.values()
    ]
    return triple(np.median(shapes, axis=0)[list(transpose)].tolist())


def _mirrored_axes(
    fingerprint: Fingerprint, dataset: DatasetSpec, transpose: Axes, reasons: dict[str, str]
) -> tuple[int, ...]:
    """Return the axes after the transpose along which a flipped image is as good as the image itself."""
    pairs = left_right_pairs(dataset.labels)
    if not pairs:
        reasons["mirroring"] = "along every axis; no two labels differ only in their side"
        return (0, 1, 2)
    sided = {
        axis for axis in range(3) for case in fingerprint.cases.values() if case.orientation[transpose[axis]] in "LR"
    }
    (left, _), (right, _) = pairs[0]
    reasons["mirroring"] = (
        f"not along {', '.join('DHW'[axis] for axis in sorted(sided))}, from left to right: '{left}' would become "
        f"'{right}'"
    )
    return tuple(axis for axis in range(3) if axis not in sided)


def _configure(
    name: str,
    method: PlannedMethod,
    fingerprint: Fingerprint,
    spacing: Triple,
    median_shape: Triple,
    target: Target,
    mirrored: tuple[int, ...],
    reasons: dict[str, str],
) -> Configuration:
    class_name, smallest = smallest_class(fingerprint, spacing)
    method, (topology, patch, preference, beside) = _spared(method, spacing, median_shape, smallest, target)
    scale = preference.scale
    share = LARGEST_SHARE * float(np.prod(median_shape)) * len(fingerprint.cases) / float(np.prod(patch))
    batch = SMALLEST_BATCH
    while batch + 1 <= round(share) and method.cost(topology, patch, scale, batch + 1) <= target.memory_gib:
        batch += 1
    cost = method.cost(topology, patch, scale, batch)
    whole = (
        "the whole median case"
        if all(a >= b for a, b in zip(patch, median_shape, strict=True))
        else "the largest part of a case that fits"
    )
    if method.dimensions == 2:
        whole = (
            "the whole median slice"
            if all(a >= b for a, b in zip(patch[1:], median_shape[1:], strict=True))
            else "the largest part of a slice that fits"
        )
    reasons[f"{name}: patch"] = (
        f"{_times(patch)} voxels, {whole} within {target.memory_gib:g} GiB (estimated need {cost:.1f} GiB at batch "
        f"{batch})"
    )
    if beside.alone is not None and beside.alone != patch:
        reasons[f"{name}: patch"] += f"; the convolutions alone would get {_times(beside.alone)}"
    if method.dimensions == 3:
        thickness = f" of {spacing[0]:.3g} mm" if fingerprint.measured else ""
        reasons[f"{name}: slab depth"] = f"{patch[0]} slices{thickness}; the median case has {median_shape[0]:.0f}"
        if preference.depth is not None:
            reasons[f"{name}: slab depth"] += f"; {method.variant} asks for {preference.depth}"
    if method.options:
        named = ", ".join(f"{option} {value}" for option, value in method.options.items())
        reasons[f"{name}: options"] = (
            f"{named}: needs less memory and more time; with less than {SPARE_BELOW:.0%} of the voxels that the "
            "convolutions alone would get, the patch is worth it"
        )
    reasons[f"{name}: batch"] = (
        f"{batch}: at least {SMALLEST_BATCH}, at most 5 % of the training voxels per batch, and what fits the memory"
    )
    pixels = f"{scale:g} encoder pixel{'s' if scale != 1 else ''} per voxel"
    reasons[f"{name}: encoder grid"] = (
        f"{pixels}: {preference.reason}; the smallest class is '{class_name}'{beside.refused}"
    )
    return Configuration(
        variant=method.variant,
        dimensions=method.dimensions,
        data_identifier=f"{target.plans_name}_{method.dimensions}d",
        spacing=spacing,
        median_shape=median_shape,
        patch_size=patch,
        batch_size=batch,
        backbone=target.backbone,
        weights=target.weights,
        weights_sha256=target.weights_sha256,
        encoder_scale=scale,
        topology=topology,
        mirror_axes=tuple(axis for axis in mirrored if axis >= 3 - method.dimensions),
        variant_options=dict(method.options),
    )


@dataclass(frozen=True, kw_only=True)
class _Beside:
    """What a choice is explained with."""

    alone: Shape | None
    """Patch that the convolutional path alone would get."""
    refused: str
    """Why it is not the method's first preference; empty where it is."""


_Choice = tuple[Topology, Shape, Preference, _Beside]


def _spared(
    method: PlannedMethod, spacing: Triple, median_shape: Triple, smallest: float, target: Target
) -> tuple[PlannedMethod, _Choice]:
    """Choose with a method as it is, or in its sparing form where the encoder would cost much of the patch."""
    grid = (spacing, median_shape, smallest, target)
    if method.sparing is None:
        return method, _choose(method, *grid)
    try:
        choice = _choose(method, *grid)
    except PlanningError:
        return method.sparing, _choose(method.sparing, *grid)
    patch, alone = choice[1], choice[3].alone
    if alone is None or math.prod(patch) >= SPARE_BELOW * math.prod(alone):
        return method, choice
    spared = _choose(method.sparing, *grid)
    return (method.sparing, spared) if math.prod(spared[1]) > math.prod(patch) else (method, choice)


def _choose(method: PlannedMethod, spacing: Triple, median_shape: Triple, smallest: float, target: Target) -> _Choice:
    """Take the largest patch whose cheapest preference fits the memory, and the first preference affordable there.

    The convolutions see every voxel, so the encoder's grid never costs the patch.
    """
    grid = (method.dimensions, spacing, median_shape, target)
    depth = method.preferred(*next(_patches(*grid)), smallest)[0].depth
    alone = None
    if (without := method.convolutions) is not None:
        fitting = (
            patch
            for topology, patch in _patches(*grid)
            if without.cost(topology, patch, SMALLEST_BATCH) <= target.memory_gib
        )
        alone = next(fitting, None)
    for topology, patch in _patches(*grid, depth):
        preferences = method.preferred(topology, patch, smallest)
        refusals: list[str] = []
        for preference in preferences:
            refusal = _refusal(method, topology, patch, preference, preferences[-1], alone, target)
            if refusal is None:
                return topology, patch, preference, _Beside(alone=alone, refused=f"; {refusals[0]}" if refusals else "")
            refusals.append(refusal)
    need = method.cost(topology, patch, preference.scale, SMALLEST_BATCH)
    raise PlanningError(
        f"No patch fits {target.memory_gib:g} GiB: {_times(patch)} voxels at batch {SMALLEST_BATCH} need about "
        f"{need:.1f} GiB. Raise -gpu_memory_target, or choose a smaller -backbone."
    )


def _refusal(
    method: PlannedMethod,
    topology: Topology,
    patch: Shape,
    preference: Preference,
    coarsest: Preference,
    alone: Shape | None,
    target: Target,
) -> str | None:
    """Say why a preference cannot be afforded with this patch; None when it can.

    The coarsest is bound by memory only.
    """
    tokens, largest = (f"tokens of {TOKEN_PIXELS / choice.scale:g} voxels" for choice in (preference, coarsest))
    wanted = 1 if preference is coarsest else math.ceil(preference.slices / patch[0])
    if method.cost(topology, patch, preference.scale, max(SMALLEST_BATCH, wanted)) > target.memory_gib:
        several = f" {wanted} times" if wanted > SMALLEST_BATCH else ""
        return f"{tokens} do not fit {target.memory_gib:g} GiB with this patch{several}"
    if method.convolutions is None or preference is coarsest:
        return None
    if alone is not None and math.prod(patch) < KEPT_SHARE * math.prod(alone):
        return f"{tokens} are for patches with {KEPT_SHARE:.0%} of the voxels that the convolutions alone would get"
    work, least = (method.convolutions.work(topology, patch, choice.scale) for choice in (preference, coarsest))
    if work > MOST_WORK * least:
        return (
            f"{tokens} would make a step {work / least:.1f} times as dear as {largest} do, and {MOST_WORK:g} is the "
            "most"
        )
    return None


def _patches(
    dimensions: int, spacing: Triple, median_shape: Triple, target: Target, depth: int | None = None
) -> Iterator[tuple[Topology, Shape]]:
    """Give nnU-Net's cube cut to the median case, then ever smaller patches, off the axis that sticks out most.

    Args:
        depth: most slices.
    """
    base_width = 32 if target.memory_gib >= WIDE_FROM_GIB else 24
    axes = [0, 1, 2] if dimensions == 3 else [1, 2]
    aspect = 1 / np.array(spacing)[axes]
    edge = (START_VOXELS[dimensions] / np.prod(aspect)) ** (1 / dimensions)
    sides = [1, 1, 1]
    for axis, length in zip(axes, np.round(aspect * edge), strict=True):
        sides[axis] = max(1, int(min(length, np.ceil(median_shape[axis]))))
    sides[0] = min(sides[0], depth or sides[0])

    def stages(size: Sequence[int]) -> tuple[Topology, Shape]:
        return topology_for(size, spacing, base_width=base_width, max_width=MAX_WIDTH[dimensions])

    while True:
        topology, patch = stages(sides)
        yield topology, patch
        step = divisors(topology)
        candidates = [axis for axis in axes if patch[axis] > 2 * step[axis]]
        if not candidates:
            return
        longest = max(candidates, key=lambda axis: patch[axis] / median_shape[axis])

        def shortened(by: int, patch: Shape = patch, longest: int = longest) -> list[int]:
            return [size - by if axis == longest else size for axis, size in enumerate(patch)]

        # A shorter side may be halved less often: 256 is followed by 224.
        finer = divisors(stages(shortened(step[longest]))[0])
        sides = shortened(finer[longest])


def smallest_class(fingerprint: Fingerprint, spacing: Triple) -> tuple[str, float]:
    """Return the smallest class in the plane, and its typical size in voxels: diameter, or width if drawn out."""
    sizes = {size.name: _typical_mm(size) for size in fingerprint.classes if size.cases}
    name = min(sizes, key=lambda key: sizes[key])
    return name, sizes[name] / float(np.sqrt(spacing[1] * spacing[2]))


def _typical_mm(size: ClassSize) -> float:
    diameter, width = size.in_plane_mm[1], size.width_mm[1]
    return width if width < DRAWN_OUT * diameter else diameter


def _channels(fingerprint: Fingerprint, dataset: DatasetSpec, reasons: dict[str, str]) -> tuple[ChannelPlan, ...]:
    masked = fingerprint.median_relative_size_after_crop < MASK_BELOW
    channels = []
    for name, intensities in zip(dataset.channels, fingerprint.intensities, strict=True):
        scheme = scheme_for(name)
        channels.append(
            ChannelPlan(name=name, scheme=scheme, within_mask=masked and scheme == "zscore", intensities=intensities)
        )
    reasons["normalization"] = (
        "; ".join(f"{channel.name}: {channel.scheme}" for channel in channels) + ", chosen by the channel names"
    )
    if masked:
        reasons["normalization"] += "; z-scores within the nonzero region, because cropping leaves "
        reasons["normalization"] += f"{fingerprint.median_relative_size_after_crop:.0%} of the median case"
    return tuple(channels)


def _times(shape: Shape) -> str:
    return " x ".join(str(size) for size in shape3(shape))


def _lengths(values: np.ndarray | Triple, fingerprint: Fingerprint) -> str:
    """Write (D, H, W), of 2D images (H, W)."""
    return " x ".join(f"{value:.3g}" for value in values[1 if fingerprint.planar else 0 :]) + f" {_unit(fingerprint)}"


def _unit(fingerprint: Fingerprint) -> str:
    return unit_of(fingerprint.measured, fingerprint.planar)
