"""The plan: every decision between the raw files and the network, with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from samunet.core.codec import decode, read_json, write_json
from samunet.core.fingerprint import IntensityStatistics
from samunet.core.geometry import Shape, Triple
from samunet.core.history import Axes
from samunet.core.names import fault_of_name
from samunet.errors import ConfigError, did_you_mean

DEFAULT_PLANS_NAME = "samunetPlans"
ALIASES = {"adapter": "sam_unet"}
PLANS_NAME = re.compile(r"samunet[A-Za-z0-9.-]*(_[A-Za-z0-9.-]+)*")  # never nnU-Net's, and never "__", which separates names in folders
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MOVE_PLANS = "bring plans of other datasets over with samunet_move_plans_between_datasets"
NO_LOW_RESOLUTION = "samunet has no cascade and no low-resolution configuration, because SAM sees whole planes at once; use 3d_adapter instead."
NNUNET_ONLY = {"3d_lowres": NO_LOW_RESOLUTION, "3d_cascade_fullres": NO_LOW_RESOLUTION, "3d_fullres": "its place has 3d_adapter here."}


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
    """Stages of a U-Net (nnU-Net's rule): one entry a stage."""

    strides: tuple[Shape, ...]
    """(D, H, W) stride of each stage's first convolution; all ones for stage 0."""
    kernels: tuple[Shape, ...]
    """(D, H, W) kernel size of each stage."""
    widths: tuple[int, ...]
    """Feature channels of each stage."""


@dataclass(frozen=True, kw_only=True)
class Preference:
    """What an adaptation method asks of a plan."""

    scale: float
    """Encoder pixels per voxel in the plane."""
    reason: str
    """Of the scale, in one sentence."""
    depth: int | None = None
    """Slices of a slab where the method was published with few; None takes what fits."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One trainable setup. Shapes and spacings are (D, H, W) after the transpose."""

    variant: str
    """Module name of the adaptation method in samunet.variants."""
    dimensions: int
    """2 or 3."""
    data_identifier: str
    """Folder of the preprocessed cases."""
    spacing: Triple
    """mm; the first entry is ignored for 2D configurations."""
    median_shape: Triple
    """Median case in voxels at this spacing."""
    patch_size: Shape
    """Voxels; the first entry is the slab depth, 1 for 2D."""
    batch_size: int
    backbone: str
    """Name of the SAM encoder, e.g. vit_tiny or vit_b."""
    weights: str | None
    """Path of the pretrained weights, or null when there are none and everything trains."""
    weights_sha256: str | None
    """Of that file; another file is refused."""
    encoder_scale: float
    """Encoder pixels per voxel in the plane; a 16-pixel token covers 16 / encoder_scale voxels."""
    topology: Topology
    mirror_axes: tuple[int, ...]
    """Patch axes (0 = D) that may be flipped in training and prediction."""
    variant_options: dict[str, Any]
    """Fields of the variant's Config that differ from their defaults."""

    def __post_init__(self) -> None:
        if FOLDER_NAME.fullmatch(self.data_identifier) is None:
            raise ConfigError(f"data_identifier must be the name of a folder, of letters, digits, '.', '-' and '_'; got '{self.data_identifier}'.")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All configurations of a dataset and what they share."""

    dataset: str
    plans_name: str
    reader: str
    """Name of the image reader."""
    memory_gib: float
    """What a training step may need, as asked for at planning."""
    precision: str
    """"mixed" or "fp32": how training computes, as far as memory goes."""
    asked_spacing: Triple | None
    """mm, in the files' axis order, where -overwrite_target_spacing was given."""
    transpose: Axes
    """File axis that becomes axis 0, 1, 2."""
    channels: tuple[ChannelPlan, ...]
    configurations: dict[str, Configuration]
    reasons: dict[str, str]
    """Decision to the one sentence that explains it."""

    def __post_init__(self) -> None:
        if fault_of_name(self.dataset) is not None:
            raise ConfigError(f"The dataset of a plan must have the form DatasetXXX_Name; got {self.dataset[:80]!r}; {MOVE_PLANS}.")

    def configuration(self, name: str) -> Configuration:
        """Return a configuration by name; raises ConfigError that names the nearest one."""
        if name in self.configurations:
            return self.configurations[name]
        refuse_nnunet_names(name)
        raise ConfigError(f"Plan '{self.plans_name}' of {self.dataset} has no configuration '{name}'.{did_you_mean(name, self.configurations)}")


def check_plans_name(name: str) -> None:
    """Raise ConfigError for a plan name that could take the place of another tool's files."""
    if PLANS_NAME.fullmatch(name) is None:
        raise ConfigError(
            f"Plan name '{name}' must start with 'samunet' and hold letters, digits, '.', '-' and single '_' only, e.g. samunetPlans_fine."
        )


def refuse_nnunet_names(name: str) -> None:
    """Raise ConfigError for nnU-Net's configurations that have no twin here, or one of another name."""
    if name in NNUNET_ONLY:
        raise ConfigError(f"Configuration '{name}' does not exist: {NNUNET_ONLY[name]}")


def parse_configuration_name(name: str) -> tuple[int, str]:
    """Split `<2d|3d>_<variant>` into dimensions and variant module name; `adapter` stands for sam_unet.

    Raises:
        ConfigError: the name does not have that form, or is a configuration that only nnU-Net has.
    """
    refuse_nnunet_names(name)
    match = re.fullmatch(r"([23])d_([A-Za-z0-9]+(?:_[A-Za-z0-9]+)*)", name)
    if match is None:
        raise ConfigError(f"Configuration '{name}' must be named 2d_<method> or 3d_<method>, for example 3d_adapter or 2d_adapter.")
    return int(match[1]), ALIASES.get(match[2], match[2])


def load_plan(path: Path) -> Plan:
    """Read a plans file strictly; a configuration may name another one in `inherits_from` and override its keys.

    Raises:
        ConfigError: the file is absent, a key is unknown or missing, a type is wrong, or inheritance runs in a circle.
    """
    raw = read_json(path)
    if isinstance(raw, dict) and isinstance(raw.get("configurations"), dict):
        configurations = raw["configurations"]
        raw = {**raw, "configurations": {name: _inherit(configurations, name, path, ()) for name in configurations}}
    return decode(Plan, raw, path.name)


def changed_for_training(before: Plan, now: Plan, name: str) -> str | None:
    """Say what of two plans a trained configuration cannot survive: "slicing axis or normalization", or the configuration; None if nothing.

    Where the weights lie does not count; that they are the same is checked by their content.
    """
    if (before.transpose, before.channels) != (now.transpose, now.channels):
        return "slicing axis or normalization"
    without: dict[str, Any] = {"weights": None, "weights_sha256": None}
    same = replace(before.configuration(name), **without) == replace(now.configuration(name), **without)
    return None if same else f"configuration {name}"


def save_plan(path: Path, plan: Plan) -> None:
    """Write a plans file atomically."""
    write_json(path, plan)


def _inherit(configurations: dict[str, Any], name: str, path: Path, seen: tuple[str, ...]) -> Any:
    if name in seen:
        raise ConfigError(f"{path.name}: configurations inherit in a circle: {' -> '.join((*seen, name))}.")
    if name not in configurations:
        raise ConfigError(f"{path.name}: configuration '{seen[-1]}' inherits from '{name}', which is absent.{did_you_mean(name, configurations)}")
    own = configurations[name]
    if not isinstance(own, dict) or "inherits_from" not in own:
        return own
    if not isinstance(own["inherits_from"], str):
        raise ConfigError(f"{path.name}: configurations.{name}.inherits_from must be the name of a configuration; got {own['inherits_from']!r}.")
    parent = _inherit(configurations, own["inherits_from"], path, (*seen, name))
    if not isinstance(parent, dict):
        return parent  # refused when it is decoded
    return {**parent, **{key: value for key, value in own.items() if key != "inherits_from"}}
