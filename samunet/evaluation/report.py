"""One HTML file that shows how good a model is: tables, a picture a case, the learning curve.

The file needs no network, no script and no other file: styles are inlined and pictures are base64 PNG.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy import ndimage

from samunet.core.codec import write_text
from samunet.core.geometry import Triple
from samunet.errors import ConfigError, ShapeError
from samunet.evaluation.summary import BACKGROUND, Summary, target_key

# Okabe and Ito's palette without black, which readers with a color vision deficiency can tell apart, on grey.
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2  # steps of this size along the hue circle give further colors that stay apart
WINDOW_PERCENTILES = (1.0, 99.5)  # ours: a few bright or dark pixels do not set the grey window
WINDOW_MARGIN = 0.1  # ours: part of the slice around the structures that sets it, so that the air about a body does not
BACKDROP, INK = "#14181c", "#e8eaed"  # dark in both color schemes, as viewers for medical images are
PANEL_INCH = 3.4
DPI = 110


@dataclass(frozen=True, kw_only=True)
class CasePicture:
    """A rendered slice of one case: image, reference, prediction."""

    identifier: str
    caption: str
    """Which slice is shown and what lies in it; also read out by screen readers."""
    png: bytes


def label_color(value: int) -> str:
    """Return the fixed color of a label value >= 1 as #rrggbb; equal in every picture."""
    if value <= len(COLORS):
        return COLORS[value - 1]
    return to_hex(tuple(hsv_to_rgb(((value * GOLDEN_RATIO) % 1.0, 0.55 + 0.3 * (value % 2), 0.95))))


def case_picture(
    identifier: str, image: np.ndarray, reference: np.ndarray, prediction: np.ndarray, spacing: Triple, class_names: Mapping[str, str]
) -> CasePicture:
    """Draw the slice of a case that holds the most classes: image, reference on it, prediction on it.

    Slices are taken across the axis with the thickest voxels, where pixels are finest, and shown as the file stores them.

    Args:
        image: (D, H, W), any numeric type; one channel.
        reference: (D, H, W) integers, 0 is background.
        prediction: (D, H, W) integers.
        spacing: mm, (D, H, W).
        class_names: label value as text ("1") to its name; other keys are ignored, unnamed values are called "label 7".

    Raises:
        ShapeError: the three arrays do not share one (D, H, W) shape.
    """
    if image.ndim != 3 or not image.shape == reference.shape == prediction.shape:
        raise ShapeError(
            f"Case '{identifier}': image, reference and prediction must share one (D, H, W) shape; "
            f"got {image.shape}, {reference.shape} and {prediction.shape}."
        )
    axis = 0 if image.shape[0] == 1 else int(np.argmax(spacing))
    stack = [np.moveaxis(array, axis, 0) for array in (image, reference, prediction)]
    index = _informative_slice(stack[1] if np.any(reference) else stack[2])
    grey, *overlays = (array[index] for array in stack)
    height_mm, width_mm = (size for i, size in enumerate(spacing) if i != axis)
    aspect = height_mm / width_mm
    shown = sorted({int(value) for array in overlays for value in np.unique(array)} - {0})
    names = [class_names.get(str(value), f"label {value}") for value in shown]

    panel_height = float(np.clip(PANEL_INCH * aspect * grey.shape[0] / grey.shape[1], 1.0, 2 * PANEL_INCH))
    legend_height = 0.26 * math.ceil(len(shown) / 5) + 0.1
    total = panel_height + 0.4 + legend_height
    figure = Figure(figsize=(3 * PANEL_INCH, total), facecolor=BACKDROP)
    FigureCanvasAgg(figure)
    low, high = _grey_window(grey, (overlays[0] > 0) | (overlays[1] > 0))
    for column, (title, overlay) in enumerate((("image", None), ("reference", overlays[0]), ("prediction", overlays[1]))):
        axes = figure.add_axes((column / 3 + 0.004, legend_height / total, 1 / 3 - 0.008, panel_height / total))
        axes.imshow(grey, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
        if overlay is not None:
            axes.imshow(_tint(overlay, shown), aspect=aspect, interpolation="nearest")
        axes.set_title(title, color=INK, fontsize=11)
        axes.axis("off")
    if shown:
        patches = [Patch(color=label_color(value), label=name) for value, name in zip(shown, names, strict=True)]
        legend = figure.legend(handles=patches, loc="lower center", ncols=min(len(shown), 5), frameon=False, labelcolor=INK, fontsize=10)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a dollar sign in a name is a dollar sign
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=BACKDROP)
    what = ", ".join(names) or "no structure"
    return CasePicture(
        identifier=identifier,
        caption=f"Slice {index + 1} of {len(stack[0])} across the {'DHW'[axis]} axis, as stored in the file; it shows {what}.",
        png=buffer.getvalue(),
    )


def write_report(
    path: Path,
    *,
    title: str,
    summary: Summary,
    class_names: Mapping[str, str],
    pictures: Sequence[CasePicture],
    curve: Path | None = None,
    sections: Mapping[str, Sequence[str]] = {},
) -> None:
    """Write the report as one self-contained HTML file, atomically.

    Args:
        class_names: key in summary.json ("1", "(1, 2)") to the name shown; a target without one is shown by its key.
        pictures: from `case_picture`, in the order wanted.
        curve: PNG file of the learning curve.
        sections: heading to paragraphs; a paragraph that starts with "$ " is shown as a command.

    Raises:
        ConfigError: `curve` does not exist.
    """
    if curve is not None and not curve.is_file():
        raise ConfigError(f"Learning curve {curve} does not exist; give the PNG file that training wrote, or none.")
    targets = [target for target in summary.mean if target != BACKGROUND]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("samunet", "evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = _score
    environment.filters["data_uri"] = _data_uri
    html = environment.get_template("report.html.j2").render(
        title=title,
        mean_dice=summary.foreground_mean.dice,
        num_cases=len(summary.cases),
        names=[class_names.get(target_key(target), target_key(target)) for target in targets],
        classes=[
            {
                "name": class_names.get(target_key(target), target_key(target)),
                "mean": summary.mean[target].dice,
                "iou": summary.mean[target].iou,
                "low": min(summary.dice(target), default=math.nan),
                "high": max(summary.dice(target), default=math.nan),
                "counted": len(summary.dice(target)),
            }
            for target in targets
        ],
        cases=[{"name": case.name, "dice": [case.metrics[target].dice for target in targets]} for case in summary.cases],
        pictures=pictures,
        curve=curve.read_bytes() if curve else None,
        sections=sections,
    )
    write_text(path, html)


def _score(value: float) -> str:
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.3f}"


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _informative_slice(labels: np.ndarray) -> int:
    """Return the index along the first axis with the most classes, and among these the most labeled voxels."""
    classes = [len(np.unique(plane[plane > 0])) for plane in labels]
    voxels = [int(np.count_nonzero(plane)) for plane in labels]
    if not any(voxels):
        return len(labels) // 2
    return max(range(len(labels)), key=lambda index: (classes[index], voxels[index]))


def _grey_window(grey: np.ndarray, labeled: np.ndarray) -> tuple[float, float]:
    """Return the intensities to draw black and white, from the pixels in and near structures, or from all if there is none."""
    near = ndimage.binary_dilation(labeled, iterations=max(2, round(WINDOW_MARGIN * min(grey.shape)))) if labeled.any() else labeled
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
        color = label_color(value)
        rgba[labels == value, :3] = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    rgba[..., 3] = np.where(labels > 0, np.where(rim, 1.0, 0.4), 0.0)
    return rgba
