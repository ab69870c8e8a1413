"""What may be asked of a plan; free of numpy and torch, so that the command line can show it at once.

Annotations say how a field is written there, see `samunet.cli.fields`.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Annotated, Literal

from samunet.core.names import DEFAULT_PLANS_NAME
from samunet.errors import ConfigError

TrainedIn = Literal["mixed", "fp32"]


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What a user may ask of a plan."""

    plans_name: Annotated[str, "-overwrite_plans_name NAME"] = DEFAULT_PLANS_NAME
    """Name of the plan."""
    memory_gib: Annotated[float, ""] = 8.0
    """Memory a training step may need."""
    precision: Annotated[TrainedIn, "-precision"] = "mixed"
    """What training will compute in: fp32 where the device has no 16-bit numbers."""
    spacing: Annotated[tuple[float, float, float] | None, "-overwrite_target_spacing MM"] = None
    """Spacing in mm instead of the rule's, in the files' axis order (z y x)."""
    keep_orientation: bool = False
    """Leave the axes of all files as they are, also where cases differ in their order or direction."""
    backbone: Annotated[str, "-backbone NAME"] = "auto"
    """SAM encoder: auto, vit_tiny, vit_b, vit_l, vit_h, vit_nano."""
    weights: Annotated[str | None, "-weights FILE"] = None
    """SAM checkpoint in the official layout, or the name of an official one (samunet_weights list)."""
    sha256: Annotated[str | None, "--sha256 HASH"] = None
    """SHA-256 of a checkpoint that is none of the official ones."""

    def __post_init__(self) -> None:
        from samunet.core.plan import check_plans_name  # loads numpy

        check_plans_name(self.plans_name)
        if self.precision not in typing.get_args(TrainedIn):
            known = ", ".join(typing.get_args(TrainedIn))
            raise ConfigError(f"A plan's precision is one of {known}; got '{self.precision}'.")
        if self.spacing is not None and min(self.spacing) <= 0:
            raise ConfigError(f"-overwrite_target_spacing needs three numbers above 0; got {list(self.spacing)}.")
