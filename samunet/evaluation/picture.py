"""A slice of a case as a picture: the image, and segmentations on it."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from scipy import ndimage

from samunet.core.geometry import Geometry
from samunet.errors import ShapeError
from samunet.evaluation.colors import as_hex, label_color
from samunet.evaluation.plane import plane_of

WINDOW_PERCENTILES = (1.0, 99.5)  # ours: a few bright or dark pixels do not set the grey window
WINDOW_MARGIN = 0.1  # ours: part of the slice around the structures that sets it, so that the air about a body does not
BACKDROP, INK = "#14181c", "#e8eaed"  # dark in both color schemes, as viewers for medical images are
PANEL_INCH = 3.4
RIMS = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.96), (0.5, 0.04))  # left, right, top and bottom, as shares of a panel
DPI = 110


@dataclass(frozen=True, kw_only=True)
class CasePicture:
    """A rendered slice of one case."""

    identifier: str
    caption: str
    """Which slice is shown, which side is where and what lies in it; also read out by screen readers."""
    png: bytes
    view: str = ""
    """Where a page shows the whole case, see `samunet.evaluation.view`, as seen from the report."""


def draw_case(
    identifier: str, image: np.ndarray, overlays: Mapping[str, np.ndarray], geometry: Geometry, names: Mapping[int, str]
) -> CasePicture:
    """Draw the slice of a case that holds the most classes: the image, and a panel for every segmentation on it; raises
    ShapeError where the arrays are not on that (D, H, W) grid.

    The slice is hung as radiologists do, with the patient's sides as letters at its rims, however the file stores it
    (see `samunet.evaluation.plane`). The first segmentation that holds anything chooses the slice.

    Args:
        image: (D, H, W), any numeric type; one channel.
        overlays: title to (D, H, W) integers, 0 is background.
        geometry: the grid that all of them are on.
        names: label value to the name of its class; values without one are called "label 7".
    """
    refuse_other_grids(identifier, image, overlays, geometry)
    plane = plane_of(geometry)
    stack, *layers = (plane.stack(array) for array in (image, *overlays.values()))
    index = informative_slice(next((layer for layer in layers if layer.any()), np.zeros(stack.shape, np.uint8)))
    planes = {title: layer[index] for title, layer in zip(overlays, layers, strict=True)}
    shown = sorted({int(value) for layer in planes.values() for value in np.unique(layer)} - {0})
    legend = {value: names.get(value, f"label {value}") for value in shown}
    _, height, width = (geometry.spacing[axis] for axis in plane.order)
    where, what = plane.describe(index, len(stack)), ", ".join(legend.values()) or "no structure"
    return CasePicture(
        identifier=identifier,
        caption=f"{where}; it shows {what}." if where else f"It shows {what}.",
        png=_draw(stack[index], planes, legend, aspect=height / width, letters=plane.letters),
    )


def refuse_other_grids(
    identifier: str, image: np.ndarray, overlays: Mapping[str, np.ndarray], geometry: Geometry
) -> None:
    """Raise ShapeError where not all arrays of a case are on its (D, H, W) grid."""
    shapes = [array.shape for array in (image, *overlays.values())]
    if {geometry.shape, *shapes} != {geometry.shape}:
        raise ShapeError(
            f"Case '{identifier}': image, {' and '.join(overlays)} must have the (D, H, W) shape {geometry.shape} of "
            f"their grid; got {', '.join(map(str, shapes))}."
        )


def _draw(
    grey: np.ndarray,
    planes: Mapping[str, np.ndarray],
    legend: Mapping[int, str],
    *,
    aspect: float,
    letters: tuple[str, str, str, str] | None,
) -> bytes:
    """Return panels side by side as PNG: the slice (H, W), and each segmentation on it, with a legend below.

    Args:
        planes: title to (H, W) label values.
        legend: name of every value that occurs.
        aspect: height of a pixel over its width.
        letters: sides of the patient at the left, right, top and bottom, where they are known.
    """
    panels = 1 + len(planes)
    panel_height = float(np.clip(PANEL_INCH * aspect * grey.shape[0] / grey.shape[1], 1.0, 2 * PANEL_INCH))
    legend_height = 0.26 * math.ceil(len(legend) / 5) + 0.1
    total = panel_height + 0.4 + legend_height
    figure = Figure(figsize=(panels * PANEL_INCH, total), facecolor=BACKDROP)
    labeled = np.any([plane > 0 for plane in planes.values()], axis=0) if planes else np.zeros(grey.shape, bool)
    low, high = grey_window(grey, labeled)
    for column, (title, overlay) in enumerate({"image": None, **planes}.items()):
        axes = figure.add_axes(
            (column / panels + 0.004, legend_height / total, 1 / panels - 0.008, panel_height / total)
        )
        axes.imshow(grey, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
        if overlay is not None:
            axes.imshow(_tint(overlay, list(legend)), aspect=aspect, interpolation="nearest")
        axes.set_title(title, color=INK, fontsize=11, parse_math=False)
        axes.axis("off")
        for letter, (x, y) in zip(letters or (), RIMS, strict=False):
            text = axes.text(x, y, letter, color=INK, fontsize=10, ha="center", va="center", transform=axes.transAxes)
            text.set_path_effects([withStroke(linewidth=2.5, foreground=BACKDROP)])
    if legend:
        _draw_legend(figure, legend)
    return as_png(figure, DPI)


def as_png(figure: Figure, dpi: int) -> bytes:
    """Return a figure as a PNG file, on its own ground; a dollar sign in a name is a dollar sign."""
    axes_legends = [legend for axes in figure.axes if (legend := axes.get_legend()) is not None]
    for text in [text for legend in (*axes_legends, *figure.legends) for text in legend.get_texts()]:
        text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _draw_legend(figure: Figure, names: Mapping[int, str]) -> None:
    patches = [Patch(color=as_hex(label_color(value)), label=name) for value, name in names.items()]
    figure.legend(
        handles=patches, loc="lower center", ncols=min(len(names), 5), frameon=False, labelcolor=INK, fontsize=10
    )


def informative_slice(labels: np.ndarray) -> int:
    """Return the index along the first axis with the most classes, and among these the most labeled voxels."""
    classes = [len(np.unique(plane[plane > 0])) for plane in labels]
    voxels = [int(np.count_nonzero(plane)) for plane in labels]
    if not any(voxels):
        return len(labels) // 2
    return max(range(len(labels)), key=lambda index: (classes[index], voxels[index]))


def grey_window(grey: np.ndarray, labeled: np.ndarray) -> tuple[float, float]:
    """Return the intensities drawn black and white, from the pixels in and near structures, or from all."""
    near = (
        ndimage.binary_dilation(labeled, iterations=max(2, round(WINDOW_MARGIN * min(grey.shape))))
        if labeled.any()
        else labeled
    )
    for pixels in (grey[near & np.isfinite(grey)], grey[np.isfinite(grey)]):
        if pixels.size:
            low, high = (float(value) for value in np.percentile(pixels, WINDOW_PERCENTILES))
            return low, high if high > low else low + 1.0
    return 0.0, 1.0


def _tint(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return RGBA (H, W, 4) in 0..1: labeled pixels in their color, opaque where they meet another label."""
    padded = np.pad(labels, 1, mode="edge")
    neighbors = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    rim = np.any([neighbor != labels for neighbor in neighbors], axis=0)
    rgba = np.zeros((*labels.shape, 4), np.float32)
    for value in values:
        rgba[labels == value, :3] = np.array(label_color(value)) / 255
    rgba[..., 3] = np.where(labels > 0, np.where(rim, 1.0, 0.4), 0.0)
    return rgba
