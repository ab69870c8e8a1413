"""What a prediction leaves beside the segmentations: pictures, volumes of structures, colors for a viewer."""

from __future__ import annotations

import glob
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from samunet.core.codec import atomic_path, decode, read_json, write_csv, write_json, write_text
from samunet.core.labels import Labels
from samunet.core.names import fault_of_name
from samunet.core.volume import Volume
from samunet.evaluation.colors import label_color

PREVIEWS, STATISTICS, UNCERTAINTY, COLORS = "previews", "statistics", "uncertainty", "colors.ctbl"


@dataclass(frozen=True, kw_only=True)
class Extras:
    """Collects cases as they are written, from any thread; `finish` writes the tables.

    Args:
        folder: of the segmentations.
        previews: write previews/<case>.png.
        views: write view/<case>.html.
        statistics: write statistics.json and statistics.csv.
    """

    folder: Path
    labels: Labels
    previews: bool = False
    views: bool = False
    statistics: bool = False
    _measured: dict[str, dict[str, dict[str, object]]] = field(default_factory=dict, init=False)
    _uncertain: dict[str, float] = field(default_factory=dict, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    @property
    def wanted(self) -> bool:
        return self.previews or self.views or self.statistics

    def add(self, identifier: str, volume: Volume, segmentation: np.ndarray) -> None:
        """Draw and measure one case.

        Args:
            volume: the image as it was read.
            segmentation: (D, H, W) on its grid.
        """
        case = identifier, volume.array[0], {"prediction": segmentation}, volume.geometry, self.labels.names_of_values
        if self.previews:
            from samunet.evaluation.picture import draw_case  # matplotlib takes a while to load

            with atomic_path(self.folder / PREVIEWS / f"{identifier}.png") as path:
                path.write_bytes(draw_case(*case).png)
        if self.views:
            from samunet.evaluation.view import FOLDER, write_view

            write_view(self.folder / FOLDER / f"{identifier}.html", *case)
        if self.statistics:
            structures = measure(volume, segmentation, self.labels)
            with self._lock:
                self._measured[identifier] = structures

    def add_uncertainty(self, identifier: str, uncertainty: np.ndarray, segmentation: np.ndarray) -> None:
        """Keep a case's score, see `case_score`."""
        score = case_score(uncertainty, segmentation)
        with self._lock:
            self._uncertain[identifier] = score

    def finish(self) -> None:
        """Write colors and tables; other cases stay in them while their segmentations are in the folder."""
        write_text(self.folder / COLORS, color_table(self.labels))
        if self._uncertain:
            write_json(self.folder / f"{UNCERTAINTY}.json", self._with_earlier(UNCERTAINTY, self._uncertain))
        if not self.statistics:
            return
        cases = self._with_earlier(STATISTICS, self._measured)
        write_json(self.folder / f"{STATISTICS}.json", cases)
        rows = [
            {"case": case, "class": name, **values}
            for case, classes in cases.items()
            for name, values in classes.items()
        ]
        columns = list(dict.fromkeys(("case", "class", *(column for row in rows for column in row))))
        write_csv(self.folder / f"{STATISTICS}.csv", columns, ([row.get(column) for column in columns] for row in rows))

    def _with_earlier(self, name: str, new: dict[str, Any]) -> dict[str, Any]:
        """Join what a table in the folder says of other cases."""
        path = self.folder / f"{name}.json"
        earlier = decode(dict[str, Any], read_json(path) if path.is_file() else {}, str(path))
        kept = {
            case: value
            for case, value in earlier.items()
            if fault_of_name(case) is None and any(self.folder.glob(f"{glob.escape(case)}.*"))
        }
        return dict(sorted({**kept, **new}.items()))


def measure(volume: Volume, segmentation: np.ndarray, labels: Labels) -> dict[str, dict[str, object]]:
    """Return number of voxels, volume in ml and mean intensity in each channel of each foreground class or region.

    2D images have no thickness: their "volume_ml" is None, and "area_mm2" is the area, or "area_pixels" where the file
    tells no size of its pixels. A 3D image without a size has voxels only. Where a class is absent its means are None.
    """
    geometry = volume.geometry
    (_, height, width), voxel_ml = geometry.spacing, geometry.voxel_ml
    structures: dict[str, dict[str, object]] = {}
    for name, values in labels.foreground:
        mask = np.isin(segmentation, values)
        count = int(mask.sum())
        means = [float(channel[mask].mean(dtype=np.float64)) if count else None for channel in volume.array]
        structures[name] = {
            "voxels": count,
            "volume_ml": None if voxel_ml is None else count * voxel_ml,
            "area_mm2": count * height * width if geometry.planar and geometry.measured else None,
            **({"area_pixels": count} if geometry.planar and not geometry.measured else {}),
            **{f"mean_intensity_{index}": mean for index, mean in enumerate(means)},
        }
    return structures


def case_score(uncertainty: np.ndarray, segmentation: np.ndarray) -> float:
    """Return the mean of a (D, H, W) map over the predicted foreground, over everything where there is none."""
    foreground = segmentation > 0
    return float((uncertainty[foreground] if foreground.any() else uncertainty).mean(dtype=np.float64))


def per_mille(uncertainty: np.ndarray) -> np.ndarray:
    """Turn a map in [0, 1] into uint16 thousandths, which every image format of segmentations holds (BMP excepted)."""
    scaled = uncertainty * 1000
    rounded: np.ndarray = np.rint(scaled, out=scaled).astype(np.uint16)
    return rounded


def color_table(labels: Labels) -> str:
    """Return a color table of 3D Slicer, a line per label value; the colors are those of samunet's pictures."""
    lines = ["# 3D Slicer color table; label value, name, red, green, blue, opacity", "0 background 0 0 0 0"]
    for value in labels.all_values:
        if value:
            red, green, blue = label_color(value)
            lines.append(f"{value} {labels.names_of_values[value].replace(' ', '_')} {red} {green} {blue} 255")
    return "\n".join(lines) + "\n"
