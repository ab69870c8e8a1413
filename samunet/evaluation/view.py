"""A whole case as one HTML file that needs no server and no network: image and segmentations in three planes and 3D."""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import nibabel
import numpy as np
from markupsafe import Markup
from scipy import ndimage

from samunet.core.codec import write_text
from samunet.core.geometry import Geometry, shape3, triple
from samunet.evaluation.colors import as_hex, label_color
from samunet.evaluation.page import render
from samunet.evaluation.picture import grey_window, informative_slice, refuse_other_grids
from samunet.evaluation.plane import plane_of
from samunet.imageio.nibabel_reader import affine_of
from samunet.imageio.nifti import COMPRESSION

FOLDER = "view"  # beside the segmentations or the report
LARGEST = 20_000_000  # bytes of a file
VOXELS = 12_500_000  # of the image, a byte each: noise hardly compresses, and Base64 makes 4 bytes of 3
LONGEST = 2048  # voxels along an axis that graphics cards take
MARGIN_MM = 20.0  # ours: left around the structures of a volume that is cropped
PARTS = ("annotate.css", "niivue.LICENSE.txt", "niivue.js", "planes.js")  # of the page that annotates


def write_view(
    path: Path,
    identifier: str,
    image: np.ndarray,
    overlays: Mapping[str, np.ndarray],
    geometry: Geometry,
    names: Mapping[int, str],
) -> None:
    """Write a case as a page of at most LARGEST bytes, atomically; takes and raises what
    `samunet.evaluation.picture.draw_case` does. The page shows the last segmentation first.

    Intensities are kept in 8 bits, half of them within the grey window of the slice with the largest structures. A
    volume that is too large is cropped to its structures; where that does not do, every second, third ... voxel is
    taken along the axis where they lie densest.
    """
    refuse_other_grids(identifier, image, overlays, geometry)
    labeled = np.any([overlay > 0 for overlay in overlays.values()], axis=0)
    part: tuple[slice, ...] = (slice(None),) * 3
    if (image.size > VOXELS or max(image.shape) > LONGEST) and labeled.any():
        part = _around(labeled, geometry)
    plane = plane_of(geometry)
    index = informative_slice(stack := plane.stack(labeled))
    window = grey_window(plane.stack(image)[index], stack[index])
    steps = [math.ceil(length / LONGEST) for length in image[part].shape]
    while True:
        kept = tuple(slice(side.start, side.stop, step) for side, step in zip(part, steps, strict=True))
        if image[kept].size <= VOXELS:
            grid, layers = _grid_of(geometry, kept), {title: overlay[kept] for title, overlay in overlays.items()}
            note = f"Of {_told(geometry)}." if grid.shape != geometry.shape else ""
            page = _page(identifier, image[kept], layers, grid, names, window, note)
            if len(page.encode()) <= LARGEST:
                break
        axes = [axis for axis, length in enumerate(image[kept].shape) if length > 1]
        steps[min(axes, key=lambda axis: geometry.spacing[axis] * steps[axis])] += 1
    write_text(path, page)


def _around(labeled: np.ndarray, geometry: Geometry) -> tuple[slice, ...]:
    """Return the box of what is labeled, with the margin."""
    margins = [math.ceil(MARGIN_MM / length) for length in geometry.spacing]
    box = zip(ndimage.find_objects(labeled.view(np.uint8))[0], margins, strict=True)
    return tuple(slice(max(0, side.start - margin), side.stop + margin) for side, margin in box)


def _grid_of(geometry: Geometry, kept: tuple[slice, ...]) -> Geometry:
    """Return the grid of some voxels of a volume."""
    starts, stops, steps = np.array([side.indices(n) for side, n in zip(kept, geometry.shape, strict=True)]).T
    x, y, z, _ = (affine_of(geometry) @ [*starts[::-1], 1]).tolist()
    return replace(
        geometry,
        shape=shape3(-(-(stops - starts) // steps)),
        spacing=triple(steps * geometry.spacing),
        origin=(-x, -y, z),
    )


def _told(geometry: Geometry) -> str:
    axes, what = ((2, 1), "pixels") if geometry.planar else ((2, 1, 0), "voxels")
    size = " x ".join(f"{geometry.spacing[axis]:.3g}" for axis in axes) if geometry.measured else ""
    return f"{' x '.join(str(geometry.shape[axis]) for axis in axes)} {what}" + (f" of {size} mm" if size else "")


def _page(
    identifier: str,
    image: np.ndarray,
    layers: Mapping[str, np.ndarray],
    grid: Geometry,
    names: Mapping[int, str],
    window: tuple[float, float],
    note: str,
) -> str:
    """Return the page; in its label maps, values are places in its list of classes, from 1."""
    values = np.unique(np.concatenate([[0], *(np.unique(layer) for layer in layers.values())]))
    places = np.zeros(values[-1] + 1, np.uint8 if len(values) <= 256 else np.uint16)
    places[values] = range(len(values))
    low, high = window
    begin, step = low - (high - low) / 2, 2 * (high - low) / 255
    grey = np.rint(np.clip((image.astype(np.float32) - begin) / step, 0, 255)).astype(np.uint8)
    first = next((layer for layer in layers.values() if layer.any()), np.ones_like(grey))
    depth = informative_slice(first)
    inside = ndimage.distance_transform_edt(np.pad(first[depth] > 0, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(inside.argmax(), inside.shape)
    affine = affine_of(grid)
    data = {
        "image": _nifti(grey, affine, slope=step, intercept=begin, window=window),
        "layers": [{"name": title, "data": _nifti(places[layer], affine)} for title, layer in layers.items()],
        "classes": [
            {"value": value, "name": names.get(value, f"label {value}"), "color": as_hex(label_color(value))}
            for value in values[1:].tolist()
        ],
        "center": (affine @ [column, row, depth, 1])[:3].tolist(),
        "planar": grid.planar,
        "directed": grid.directed,
    }
    folder = files("samunet") / "serving" / "page"
    parts = {name: Markup((folder / name).read_text(encoding="utf-8")) for name in PARTS}
    told = f"{_told(grid)}. {note}"
    return render("evaluation", "view.html.j2", title=identifier, told=told, data=data, parts=parts)


def _nifti(
    array: np.ndarray,
    affine: np.ndarray,
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    window: tuple[float, float] = (0.0, 0.0),
) -> str:
    """Return (D, H, W) as a compressed NIfTI file in Base64."""
    file = nibabel.Nifti1Image(array.T, affine)
    file.header.set_slope_inter(slope, intercept)
    file.header["cal_min"], file.header["cal_max"] = window
    return base64.b64encode(gzip.compress(file.to_bytes(), COMPRESSION, mtime=0)).decode("ascii")
