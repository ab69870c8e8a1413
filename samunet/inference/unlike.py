"""How a case to predict differs from those that the model was trained on."""

from __future__ import annotations

import math

import numpy as np

from samunet.core.geometry import Geometry, Triple, unit_of
from samunet.core.plan import Plan
from samunet.core.values import typical_range
from samunet.errors import PredictionError

FAR_TIMES = 3.0  # ours: times below the smallest or above the largest of the training cases
FAR_INTENSITIES = 10.0  # ours: likewise of the width of their ranges; scanners differ in gain
ABSURD = 300.0  # ours: units of length lie 1000 times apart, cases of one kind never that far


def refuse_absurd_spacing(geometry: Geometry, plan: Plan) -> None:
    """Raise PredictionError for a spacing that no case has; resampled, it would fill memory or shrink to nothing."""
    if plan.seen is None or plan.in_voxels or not geometry.measured:
        return
    times, axis = _furthest(geometry, plan, geometry.spacing, plan.seen.spacing)
    if max(times, 1 / times) >= ABSURD:
        share = f"{times:.0f} times the largest" if times > 1 else f"1/{1 / times:.0f} of the smallest"
        low, high = (bound[axis] for bound in plan.seen.spacing)
        raise PredictionError(
            f"its spacing of {_lengths(geometry.spacing, 'mm')} is {share} of the training cases, {low:.4g} to "
            f"{high:.4g} mm; its header may give another unit (micrometers or meters), so correct it"
        )


def remarks_on_grid(geometry: Geometry, plan: Plan) -> list[str]:
    """Say in a sentence each where orientation, spacing or size lie far from those of the training cases."""
    if plan.seen is None:
        return []
    remarks = []
    if not geometry.planar and geometry.directed and geometry.orientation not in plan.seen.orientations:
        seen = ", ".join(orientation[::-1] for orientation in plan.seen.orientations)
        what = (
            "it is left as it is"
            if plan.orientation is None
            else "it is turned for the network, and its segmentation back"
        )
        remarks.append(
            f"its axes x, y, z run toward {geometry.orientation[::-1]}, those of the training cases toward {seen}; "
            f"{what}"
        )
    if not geometry.measured and not plan.in_voxels:
        remarks.append(
            "it tells no size of its voxels, which are taken to be as large as those the model was trained on"
        )
        return remarks
    spacing, unit = plan.spacing_of(geometry), unit_of(not plan.in_voxels, geometry.planar)
    depth, height, width = (size * step for size, step in zip(geometry.shape, spacing, strict=True))
    for name, own, bounds in (
        ("spacing", spacing, plan.seen.spacing),
        ("size", (depth, height, width), plan.seen.extent),
    ):
        times, axis = _furthest(geometry, plan, own, bounds)
        if max(times, 1 / times) >= FAR_TIMES:
            low, high = (bound[axis] for bound in bounds)
            remarks.append(
                f"its {name} of {_lengths(own, unit)} lies far from that of the training cases, "
                f"{low:.4g} to {high:.4g} {unit}"
            )
    return remarks


def remarks_on_intensities(image: np.ndarray, plan: Plan) -> list[str]:
    """Say in a sentence for each channel of (C, D, H, W) where intensities lie far from those of the training cases."""
    if plan.seen is None:
        return []
    remarks = []
    widths = plan.seen.narrowest or (0.0,) * len(image)
    for values, channel, (low, high), least in zip(image, plan.channels, plan.seen.intensities, widths, strict=True):
        own_low, own_high = typical_range(values)
        width = own_high - own_low
        narrow = width * FAR_INTENSITIES < least
        if own_low > high or own_high < low or narrow or width > FAR_INTENSITIES * (high - low):
            own, seen = f"{own_low:.4g} to {own_high:.4g}", f"{low:.4g} to {high:.4g}"
            remarks.append(
                f"its intensities of channel '{channel.name}' run from {own}, those of the training cases from {seen}"
                + (f", none over less than {least:.4g}" if narrow else "")
            )
    return remarks


def _furthest(geometry: Geometry, plan: Plan, values: Triple, bounds: tuple[Triple, Triple]) -> tuple[float, int]:
    """Return how far the value furthest from its bounds lies from them, and its axis in the plan's orientation.

    How far is a factor: of the lower bound, below 1, or of the upper bound, above 1.
    """
    worst, place = 1.0, 0
    for axis, source in enumerate(plan.turn_of(geometry)[0]):
        if geometry.planar and source == 0:
            continue
        low, high = bounds[0][axis], bounds[1][axis]
        times = min(1.0, values[source] / low) * max(1.0, values[source] / high)
        if abs(math.log(times)) > abs(math.log(worst)):
            worst, place = times, axis
    return worst, place


def _lengths(values: Triple, unit: str) -> str:
    return " x ".join(f"{value:.4g}" for value in values) + f" {unit} (D, H, W)"
