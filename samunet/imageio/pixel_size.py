"""How large the pixels of a TIFF are, where it says so: in OME's or ImageJ's description, or in its resolution tags.

Cameras, scanners of paper and programs write resolutions that mean nothing (72, 96, 300 dpi); the bare tags therefore
count for pixels of optical microscopes, electron microscopes and slide scanners only.
"""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

import tifffile

PixelSize = tuple[float | None, float, float]
"""(D, H, W) in mm; None where the distance of slices is not told."""
MICROMETER = 1e-3  # mm
MILLIMETERS = {
    **dict.fromkeys(("\N{MICRO SIGN}m", "um", "micron", "microns", "micrometer", "micrometers"), MICROMETER),
    **dict.fromkeys(("in", "inch", "inches"), 25.4),
    **dict.fromkeys(("nm", "nanometer"), 1e-6),
    **dict.fromkeys(("mm", "millimeter"), 1.0),
    **{"m": 1e3, "cm": 10.0, "pm": 1e-9, "\N{LATIN CAPITAL LETTER A WITH RING ABOVE}": 1e-7},
}
"""Millimeters by the names of units; pixels and OME's reference frames are none."""
POSSIBLE = (1e-8, 100.0)  # mm: from the hundredth part of a nanometer, of electron microscopes, to what no scanner has
# mm, of bare tags: 1 nm to 20 micrometers, 1270 dpi; programs write 1200 dpi and less without meaning
PLAIN = (1e-6, 0.02)
TAG_UNITS = {2: 25.4, 3: 10.0}  # ResolutionUnit: inch, cm
SLICES = "ZI"  # tifffile's axes that ImageJ's spacing is of, not T


def pixel_size(file: tifffile.TiffFile, axes: str) -> PixelSize | None:
    """Return the size of a TIFF's pixels or voxels; None where it tells none, or one that no image has."""
    size = _of_ome(file) or _of_imagej(file, axes)
    if size is not None:
        depth, height, width = size
        return (depth if depth is not None and _within(depth, POSSIBLE) else None, height, width)
    unit = _tag(file, "ResolutionUnit")
    return _of_tags(file, TAG_UNITS.get(2 if unit is None else int(unit)), PLAIN)


def resolution_tags(height: float, width: float) -> dict[str, Any]:
    """Return tifffile's arguments for a pixel size in mm; none where it would not be read again."""
    if not (_within(height, PLAIN) and _within(width, PLAIN)):
        return {}
    return {"resolution": (10 / width, 10 / height), "resolutionunit": "CENTIMETER"}


def _of_ome(file: tifffile.TiffFile) -> PixelSize | None:
    if not file.ome_metadata:
        return None
    try:
        pixels = ElementTree.fromstring(file.ome_metadata).find(".//{*}Pixels")
    except ElementTree.ParseError:
        return None
    if pixels is None:
        return None

    def size(axis: str) -> float | None:
        unit = MILLIMETERS.get(_micro(pixels.get(f"PhysicalSize{axis}Unit", "\N{MICRO SIGN}m")))  # OME's default
        try:
            return float(pixels.get(f"PhysicalSize{axis}", "")) * unit if unit is not None else None
        except ValueError:
            return None

    depth, height, width = (size(axis) for axis in "ZYX")
    if height is None or width is None or not (_within(height, POSSIBLE) and _within(width, POSSIBLE)):
        return None
    return depth, height, width


def _of_imagej(file: tifffile.TiffFile, axes: str) -> PixelSize | None:
    description = file.imagej_metadata or {}
    unit = MILLIMETERS.get(_micro(str(description.get("unit", ""))).lower())
    plane = _of_tags(file, unit, POSSIBLE)
    if plane is None or unit is None:
        return None
    spacing = description.get("spacing", 1.0)  # ImageJ writes none where it is 1
    tells_depth = bool(set(axes) & set(SLICES)) and isinstance(spacing, (int, float))
    return (abs(spacing) * unit if tells_depth else None, *plane[1:])


def _of_tags(file: tifffile.TiffFile, unit: float | None, limits: tuple[float, float]) -> PixelSize | None:
    """Return what XResolution and YResolution, in pixels per unit, come to; None unless both lie within the limits."""
    width, height = (_inverse(_tag(file, name)) for name in ("XResolution", "YResolution"))
    if unit is None or not (_within(height * unit, limits) and _within(width * unit, limits)):
        return None
    return None, height * unit, width * unit


def _inverse(ratio: object) -> float:
    """Return denominator / numerator of a tag; NaN where there is none."""
    match ratio:
        case (int(numerator), int(denominator)) if numerator and denominator:
            return denominator / numerator
    return math.nan


def _tag(file: tifffile.TiffFile, name: str) -> Any:
    tag = file.pages.first.tags.get(name)
    return None if tag is None else tag.value


def _micro(unit: str) -> str:
    """Write the micro sign as one letter: programs escape it, or take the Greek one."""
    escaped = unit.strip().replace("\\u00B5", "\N{MICRO SIGN}").replace("\\u00b5", "\N{MICRO SIGN}")
    return escaped.replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}").replace(
        "\\u00C5", "\N{LATIN CAPITAL LETTER A WITH RING ABOVE}"
    )


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]
