"""A slice of a case as a picture: the image, and segmentations on it."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy import ndimage

from samunet.core.geometry import Triple
from samunet.errors import ShapeError
from samunet.evaluation.colors import label_color

WINDOW_PERCENTILES = (1.0, 99.5)  # ours: a few bright or dark pixels do not set the grey window
WINDOW_MARGIN = 0.1  # ours: part of the slice around the structures that sets it, so that the air about a body does not
BACKDROP, INK = "#14181c", "#e8eaed"  # dark in both color schemes, as viewers for medical images are
PANEL_INCH = 3.4
DPI = 110


@dataclass(frozen=True, kw_only=True)
class CasePicture:
    """A rendered slice of one case."""

    identifier: str
    caption: str
    """Which slice is shown and what lies in it; also read out by screen readers."""
    png: bytes


def draw_case(
    identifier: str,
    image: np.ndarray,
    overlays: Mapping[str, np.ndarray],
    spacing: Triple,
    class_names: Mapping[str, str],
) -> CasePicture:
    """Draw the slice of a case that holds the most classes: the image, and a panel for every segmentation on it.

    Slices are taken across the axis with the thickest voxels, where pixels are finest, and shown as the file stores
    them. The first segmentation that holds anything chooses the slice.

    Args:
        image: (D, H, W), any numeric type; one channel.
        overlays: title to (D, H, W) integers, 0 is background.
        spacing: mm, (D, H, W).
        class_names: label value as text ("1") to its name; other keys are ignored, unnamed values are called "label 7".

    Raises:
        ShapeError: the arrays do not share one (D, H, W) shape.
    """
    shapes = [array.shape for array in (image, *overlays.values())]
    if image.ndim != 3 or len(set(shapes)) > 1:
        raise ShapeError(
            f"Case '{identifier}': image, {' and '.join(overlays)} must share one (D, H, W) shape; got "
            f"{', '.join(map(str, shapes))}."
        )
    axis = 0 if image.shape[0] == 1 else int(np.argmax(spacing))
    stack, *layers = (np.moveaxis(array, axis, 0) for array in (image, *overlays.values()))
    index = _informative_slice(next((layer for layer in layers if layer.any()), np.zeros(stack.shape, np.uint8)))
    grey, planes = stack[index], [layer[index] for layer in layers]
    height_mm, width_mm = (size for i, size in enumerate(spacing) if i != axis)
    aspect = height_mm / width_mm
    shown = sorted({int(value) for plane in planes for value in np.unique(plane)} - {0})
    names = [class_names.get(str(value), f"label {value}") for value in shown]

    panels = 1 + len(planes)
    panel_height = float(np.clip(PANEL_INCH * aspect * grey.shape[0] / grey.shape[1], 1.0, 2 * PANEL_INCH))
    legend_height = 0.26 * math.ceil(len(shown) / 5) + 0.1
    total = panel_height + 0.4 + legend_height
    figure = Figure(figsize=(panels * PANEL_INCH, total), facecolor=BACKDROP)
    FigureCanvasAgg(figure)
    labeled = np.any([plane > 0 for plane in planes], axis=0) if planes else np.zeros(grey.shape, bool)
    low, high = _grey_window(grey, labeled)
    for column, (title, overlay) in enumerate((("image", None), *zip(overlays, planes, strict=True))):
        axes = figure.add_axes(
            (column / panels + 0.004, legend_height / total, 1 / panels - 0.008, panel_height / total)
        )
        axes.imshow(grey, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
        if overlay is not None:
            axes.imshow(_tint(overlay, shown), aspect=aspect, interpolation="nearest")
        axes.set_title(title, color=INK, fontsize=11)
        axes.axis("off")
    if shown:
        patches = [
            Patch(color=(np.array(label_color(value)) / 255).tolist(), label=name)
            for value, name in zip(shown, names, strict=True)
        ]
        legend = figure.legend(
            handles=patches, loc="lower center", ncols=min(len(shown), 5), frameon=False, labelcolor=INK, fontsize=10
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a dollar sign in a name is a dollar sign
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=BACKDROP)
    what = ", ".join(names) or "no structure"
    return CasePicture(
        identifier=identifier,
        caption=f"Slice {index + 1} of {len(stack)} across the {'DHW'[axis]} axis, as stored in the file; "
        f"it shows {what}.",
        png=buffer.getvalue(),
    )


def _informative_slice(labels: np.ndarray) -> int:
    """Return the index along the first axis with the most classes, and among these the most labeled voxels."""
    classes = [len(np.unique(plane[plane > 0])) for plane in labels]
    voxels = [int(np.count_nonzero(plane)) for plane in labels]
    if not any(voxels):
        return len(labels) // 2
    return max(range(len(labels)), key=lambda index: (classes[index], voxels[index]))


def _grey_window(grey: np.ndarray, labeled: np.ndarray) -> tuple[float, float]:
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
