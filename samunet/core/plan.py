"""The plan: every decision between the raw files and the network, with its reason."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from samunet.core.codec import decode, digest, read_json, write_json
from samunet.core.fingerprint import IntensityStatistics
from samunet.core.geometry import NO_FLIPS, Flips, Geometry, Triple, turn_between
from samunet.core.history import Axes, check_transpose
from samunet.core.names import fault_of_name
from samunet.core.ranges import Axis, Count, Form, OneOf, Orientation, Real, Sha256, Spacing, Voxels, Within
from samunet.errors import ConfigError, did_you_mean

SIZES_LATER_READ = ("NaturalImage2DIO", "Tiff3DIO")  # readers that once took 1 for every size
ALIASES = {"adapter": "sam_unet", "adapter_prompted": "sam_unet_prompted"}
# Never nnU-Net's, and never "__", which separates names in folders.
PLANS_NAME = re.compile(r"samunet[A-Za-z0-9.-]*(_[A-Za-z0-9.-]+)*")
FOLDER_NAME = Form(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "the name of a folder, of letters, digits, '.', '-' and '_', 100 at most"
)
PATCH_VOXELS, ENCODER_SIDE = 2**28, 8192  # at most; planning stays below 2**24 and 1024
Step = Annotated[int, Within(1, 16)]
Length = Annotated[float, Within(0, 1e9)]
Stages = tuple[tuple[Step, Step, Step], ...]
MOVE_PLANS = "bring plans of other datasets over with samunet_move_plans_between_datasets"
NO_LOW_RESOLUTION = (
    "samunet has no cascade and no low-resolution configuration, because SAM sees whole planes at once; use 3d_adapter "
    "instead."
)
NNUNET_ONLY = {
    "3d_lowres": NO_LOW_RESOLUTION,
    "3d_cascade_fullres": NO_LOW_RESOLUTION,
    "3d_fullres": "its place has 3d_adapter here.",
}


@dataclass(frozen=True, kw_only=True)
class ChannelPlan:
    """How one input channel is normalized."""

    name: str
    scheme: str
    """One of samunet.ops.normalize.SCHEMES."""
    within_mask: bool
    """Take statistics inside the nonzero region only and leave the rest as it is."""
    intensities: IntensityStatistics
    """Foreground statistics of the training cases."""


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Stages of a U-Net (nnU-Net's rule): one entry per stage."""

    strides: Stages
    """(D, H, W) stride of each stage's first convolution; all ones for stage 0."""
    kernels: Stages
    """(D, H, W) kernel size of each stage."""
    widths: tuple[Annotated[int, Within(1, 4096)], ...]
    """Feature channels of each stage."""

    def __post_init__(self) -> None:
        lengths = [len(self.strides), len(self.kernels), len(self.widths)]
        if len(set(lengths)) > 1 or not 1 <= lengths[0] <= 16:
            raise ConfigError(
                f"strides, kernels and widths must have one entry per stage, for 1 to 16 stages; they have {lengths}."
            )
        if max(self.strides[0]) > 1:
            raise ConfigError(f"the first of strides must be 1, 1, 1; got {list(self.strides[0])}.")
        if even := [size for kernel in self.kernels for size in kernel if size % 2 == 0]:
            raise ConfigError(f"kernels must be of odd numbers, so that they have a middle; got {even[0]}.")


@dataclass(frozen=True, kw_only=True)
class Preference:
    """What an adaptation method asks of a plan."""

    scale: float
    """Encoder pixels per voxel in the plane."""
    reason: str
    """One sentence on why this scale."""
    depth: int | None = None
    """Slices of a slab where the method wants few; None takes what fits."""
    slices: int = 1
    """Slices that a step should hold; where memory is short of them a coarser scale follows, the coarsest as it is."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One trainable setup. Shapes and spacings are (D, H, W) after the transpose."""

    variant: str
    """Module name of the adaptation method in samunet.variants."""
    dimensions: Annotated[int, Within(2, 3)]
    """2 or 3."""
    data_identifier: Annotated[str, FOLDER_NAME]
    """Folder of the preprocessed cases."""
    spacing: Spacing
    """mm; the first entry is ignored for 2D configurations."""
    median_shape: tuple[Length, Length, Length]
    """Median case in voxels at this spacing."""
    patch_size: Voxels
    """Voxels; the first entry is the slab depth, 1 for 2D."""
    batch_size: Annotated[int, Within(1, 65536)]
    backbone: str
    """Name of the SAM encoder, e.g. vit_tiny or vit_b."""
    weights: Annotated[str, Form(r"[^\x00-\x1f]+", "a path")] | None
    """Path of the pretrained weights, or null when there are none and everything trains."""
    weights_sha256: Sha256 | None
    """SHA-256 of that file; another file is refused."""
    encoder_scale: Annotated[float, Within(1e-3, 64)]
    """Encoder pixels per voxel in the plane; a 16-pixel token covers 16 / encoder_scale voxels."""
    topology: Topology
    mirror_axes: tuple[Axis, ...]
    """Patch axes (0 = D) that may be flipped in training and prediction."""
    variant_options: dict[str, Any]
    """Fields of the variant's Config that differ from their defaults."""

    def __post_init__(self) -> None:
        if not FOLDER_NAME.fits(self.data_identifier):  # not only in files: it becomes a path
            raise ConfigError(f"data_identifier must be {FOLDER_NAME.expected}; got '{self.data_identifier}'.")
        patch = list(self.patch_size)
        if math.prod(patch) > PATCH_VOXELS:
            raise ConfigError(f"patch_size must have {PATCH_VOXELS} voxels or fewer in all; got {patch}.")
        sides = [side * self.encoder_scale for side in self.patch_size[1:]]
        if min(sides) < 1 or max(sides) > ENCODER_SIDE:
            pixels = f"1 to {ENCODER_SIDE} pixels per side"
            raise ConfigError(f"patch_size times encoder_scale must give the encoder {pixels}; got {sides}.")
        if self.dimensions == 2 and patch[0] != 1:
            expected = "expected 1 as the first entry of patch_size"
            raise ConfigError(f"a 2D configuration has patches of one slice, {expected}; got {patch[0]}.")
        axes = list(self.mirror_axes)
        if len(set(axes)) < len(axes) or (self.dimensions == 2 and 0 in axes):
            raise ConfigError(f"mirror_axes must hold each axis once, and axis 0 in 3D only; got {axes}.")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the training cases are like; a case to predict that lies far from it is named.

    Axes are those of the plan's orientation.
    """

    orientations: dict[str, Count]
    """Orientations of the files, with the number of cases that lie so."""
    spacing: tuple[Spacing, Spacing]
    """Smallest and largest on each axis, mm."""
    extent: tuple[Spacing, Spacing]
    """Smallest and largest length of the whole image on each axis, mm."""
    intensities: tuple[tuple[Real, Real], ...]
    """Smallest and largest end of the cases' typical ranges, for each channel."""
    narrowest: tuple[Real, ...] = ()
    """Width of the narrowest of these ranges, for each channel; earlier plans do not tell."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All configurations of a dataset and what they share."""

    dataset: str
    plans_name: str
    reader: str
    """Name of the image reader."""
    memory_gib: Annotated[float, Within(0.01, 1e6)]
    """What a training step may need, as asked for at planning."""
    precision: Annotated[str, OneOf("mixed", "fp32")]
    """"mixed" or "fp32": how training computes, as far as memory goes."""
    asked_spacing: Spacing | None
    """mm, in the files' axis order, where -overwrite_target_spacing was given."""
    transpose: Axes
    """File axis that becomes axis 0, 1, 2, of a file in `orientation`."""
    channels: tuple[ChannelPlan, ...]
    configurations: dict[str, Configuration]
    reasons: dict[str, str]
    """Decision to the one sentence that explains it."""
    orientation: Orientation | None = None
    """Orientation that files are brought to first (Geometry.orientation), e.g. "SPL"; None leaves them as they are."""
    seen: Seen | None = None
    """None in plans that were made before this was measured."""
    measured: bool | None = None
    """False where training files tell no size of their voxels: spacings are then 1 and count voxels, whatever a file to
    predict tells. None in plans that were made before TIFFs' sizes were read; see `in_voxels`."""

    @property
    def in_voxels(self) -> bool:
        """Tell whether spacings count voxels and not mm."""
        if self.measured is not None or self.reader not in SIZES_LATER_READ:
            return self.measured is False
        planned = tuple(entry.spacing for entry in self.configurations.values())
        return all(spacing == (1, 1, 1) for spacing in (self.seen.spacing if self.seen is not None else planned))

    def grid_text(self, name: str) -> str:
        """Return a configuration's patch and spacing, (D, H, W), as people read them."""
        configuration = self.configuration(name)
        # Pictures have no thickness.
        flat = 1 if configuration.dimensions == 2 and self.reader == "NaturalImage2DIO" else 0
        spacing = " x ".join(f"{value:.3g}" for value in configuration.spacing[flat:])
        size = f" at {spacing} mm"
        if self.in_voxels:
            size = "" if configuration.spacing == (1, 1, 1) else f" at {spacing} of the files' voxels"
        return f"patch {' x '.join(map(str, configuration.patch_size))} voxels{size}"

    def spacing_of(self, geometry: Geometry) -> Triple:
        """Return a file's spacing (D, H, W), in its own axis order, in mm; 1 where the plan is in voxels."""
        return (1.0, 1.0, 1.0) if self.in_voxels else geometry.spacing

    def axes_of(self, geometry: Geometry) -> tuple[Axes, Flips]:
        """Return for each axis of the network's grid the file axis that becomes it, and whether it runs backward."""
        axes, flips = self.turn_of(geometry)
        a, b, c = self.transpose
        return (axes[a], axes[b], axes[c]), (flips[a], flips[b], flips[c])

    def turn_of(self, geometry: Geometry) -> tuple[Axes, Flips]:
        """Return how a file's axes are brought to the plan's orientation, before the transpose; see `turn_between`."""
        if self.orientation is None or geometry.planar or not geometry.directed:
            return (0, 1, 2), NO_FLIPS
        return turn_between(geometry.orientation, self.orientation)

    def __post_init__(self) -> None:
        if fault_of_name(self.dataset) is not None:
            raise ConfigError(
                f"The dataset of a plan must have the form DatasetXXX_Name; got {self.dataset[:80]!r}; {MOVE_PLANS}."
            )
        check_transpose(self.transpose)
        if not self.channels:
            raise ConfigError("channels must name one channel or more; got none.")
        if self.seen is not None:
            counts = len(self.seen.intensities), len(self.seen.narrowest or self.channels)
            if {*counts} != {len(self.channels)}:
                raise ConfigError(
                    f"seen must tell intensities, and narrowest where it does, of each of the {len(self.channels)} "
                    f"channels; got {counts[0]} and {counts[1]}."
                )

    def configuration(self, name: str) -> Configuration:
        """Return a configuration by name; raises ConfigError that names the nearest one."""
        if name in self.configurations:
            return self.configurations[name]
        refuse_nnunet_names(name)
        raise ConfigError(
            f"Plan '{self.plans_name}' of {self.dataset} has no configuration "
            f"'{name}'.{did_you_mean(name, self.configurations)}"
        )


def check_plans_name(name: str) -> None:
    """Raise ConfigError for a plan name that could take the place of another tool's files."""
    if PLANS_NAME.fullmatch(name) is None:
        raise ConfigError(
            f"Plan name '{name}' must start with 'samunet' and hold letters, digits, '.', '-' and single '_' only, "
            "e.g. samunetPlans_fine."
        )


def refuse_nnunet_names(name: str) -> None:
    """Raise ConfigError for nnU-Net's configurations that have no twin here, or one of another name."""
    if name in NNUNET_ONLY:
        raise ConfigError(f"Configuration '{name}' does not exist: {NNUNET_ONLY[name]}")


def parse_configuration_name(name: str) -> tuple[int, str]:
    """Split `<2d|3d>_<variant>` into dimensions and variant module name; see ALIASES. Raises ConfigError where the name
    does not have that form, or is a configuration that only nnU-Net has.
    """
    refuse_nnunet_names(name)
    match = re.fullmatch(r"([23])d_([A-Za-z0-9]+(?:_[A-Za-z0-9]+)*)", name)
    if match is None:
        near = {"2d": "2d_adapter", "3d": "3d_adapter"}.get(name.lower()[:2])
        meant = f" Did you mean '{near}', the default method?" if near else ""
        raise ConfigError(
            f"Configuration '{name}' must be named 2d_<method> or 3d_<method>, for example 3d_adapter or "
            f"2d_adapter.{meant}"
        )
    return int(match[1]), ALIASES.get(match[2], match[2])


def load_plan(path: Path) -> Plan:
    """Read a plans file strictly; a configuration may name another one in `inherits_from` and override its keys. Raises
    ConfigError where the file is absent, a key is unknown or missing, a type is wrong, or inheritance runs in a circle.
    """
    raw = read_json(path)
    if isinstance(raw, dict) and isinstance(raw.get("configurations"), dict):
        configurations = raw["configurations"]
        raw = {**raw, "configurations": {name: _inherit(configurations, name, path, ()) for name in configurations}}
    plan = decode(Plan, raw, path.name)
    if not plan.configurations:
        raise ConfigError(f"{path.name}: configurations must hold one or more; got none. Plan again.")
    return plan


def changed_for_training(before: Plan, now: Plan, name: str) -> str | None:
    """Say what differs between two plans that a trained configuration cannot survive; None where nothing does.

    Where the weights lie does not count; that they are the same is checked by their content.
    """
    if (before.transpose, before.orientation, before.channels) != (now.transpose, now.orientation, now.channels):
        return "orientation, slicing axis or normalization"
    same = _without_weights(before.configuration(name)) == _without_weights(now.configuration(name))
    return None if same else f"configuration {name}"


def digest_for_training(plan: Plan, name: str) -> str:
    """Return a hash of what `changed_for_training` compares."""
    return digest([plan.transpose, plan.orientation, plan.channels, _without_weights(plan.configuration(name))])


def _without_weights(configuration: Configuration) -> Configuration:
    return replace(configuration, weights=None, weights_sha256=None)


def save_plan(path: Path, plan: Plan) -> None:
    """Write a plans file atomically."""
    write_json(path, plan)


def _inherit(configurations: dict[str, Any], name: str, path: Path, seen: tuple[str, ...]) -> Any:
    if name in seen:
        raise ConfigError(f"{path.name}: configurations inherit in a circle: {' -> '.join((*seen, name))}.")
    if name not in configurations:
        raise ConfigError(
            f"{path.name}: configuration '{seen[-1]}' inherits from '{name}', which is "
            f"absent.{did_you_mean(name, configurations)}"
        )
    own = configurations[name]
    if not isinstance(own, dict) or "inherits_from" not in own:
        return own
    if not isinstance(own["inherits_from"], str):
        raise ConfigError(
            f"{path.name}: configurations.{name}.inherits_from must be the name of a configuration; got "
            f"{own['inherits_from']!r}."
        )
    parent = _inherit(configurations, own["inherits_from"], path, (*seen, name))
    if not isinstance(parent, dict):
        return parent  # refused when it is decoded
    return {**parent, **{key: value for key, value in own.items() if key != "inherits_from"}}
