"""Open every file of one case and compare what is in them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from samunet.checking.findings import Finding, finding_of, relative
from samunet.core.dataset import Case, DatasetSpec
from samunet.core.geometry import GRID_TOLERANCE_MM, Geometry
from samunet.core.labels import left_right_pairs
from samunet.core.volume import Volume
from samunet.errors import DatasetError
from samunet.imageio import ImageReader
from samunet.imageio.integrity import is_nifti

SHEAR = 1e-4  # cosine between two axes from which ITK refuses a NIfTI file
SPACING_TOLERANCE = 1e-5  # relative, numpy's own for nearly equal numbers
PIXEL_TOLERANCE = 1e-3  # relative; headers hold rounded numbers
SAMPLED = 200_000  # voxels of a channel whose quartiles are taken


@dataclass(frozen=True, kw_only=True)
class CheckedCase:
    """What comparisons between cases need to know of one."""

    identifier: str
    findings: tuple[Finding, ...]
    planar: bool | None = None
    """None when no image could be read."""
    sha256: tuple[tuple[str, str], ...] = ()
    """(file, hash of its voxels) of every image that could be read."""
    quartiles: tuple[tuple[float, float, float], ...] = ()
    """Of the intensities of each channel that are not the lowest; empty unless all channels could be read."""


def check_case(case: Case, spec: DatasetSpec, reader: ImageReader, root: Path) -> CheckedCase:
    """Read every file of a case to its end; a file that cannot be read does not keep the others from being checked.

    Args:
        root: folder that files are named relative to.
    """
    findings: list[Finding] = []

    def add(code: str, file: Path | None, message: str) -> None:
        findings.append(Finding(case=case.identifier, file=relative(file, root), code=code, message=message))

    images: list[tuple[Path, Volume]] = []
    for path in case.images:
        try:
            images.append((path, reader.read_image([path])))
        except DatasetError as error:
            findings.append(finding_of(error, case.identifier, path, root))
    label: tuple[np.ndarray, Geometry] | None = None
    if case.label is not None:
        try:
            label = reader.read_label(case.label)
        except DatasetError as error:
            findings.append(finding_of(error, case.identifier, case.label, root))
    for path in (*case.images, *([case.label] if case.label else [])):
        if is_nifti(path) and path.is_file():
            for code, message in _header_faults(path):
                add(code, path, message)
    channels = sum(len(volume.array) for _, volume in images)
    complete = len(images) == len(case.images)
    if complete and channels != len(spec.channels):
        add("channel-count", None, f"{channels} channels in {len(case.images)} file(s); dataset.json names {len(spec.channels)}.")
    for path, volume in images:
        flat = [index for index, channel in enumerate(volume.array) if channel.min() == channel.max()]
        for index in flat:
            every = len(flat) == len(volume.array)
            where = "" if len(volume.array) == 1 else f" of channel {index}"
            add("constant-image" if every else "constant-channel", path, f"Every voxel{where} has the value {volume.array[index].flat[0]:g}.")
    if images:
        first_path, first = images[0][0].name, images[0][1].geometry
        for path, volume in images[1:]:
            for code, message in _grid_faults(volume.geometry, first, first_path):
                add("channel-position" if code == "position" else code, path, message)
        if label is not None:
            for code, message in _grid_faults(label[1], first, first_path, label=True):
                add(code, case.label, message)
    if label is not None:
        for code, message in _label_faults(*label, spec):
            add(code, case.label, message)
    return CheckedCase(
        identifier=case.identifier,
        findings=tuple(findings),
        planar=images[0][1].geometry.planar if images else None,
        sha256=tuple((relative(path, root), hashlib.sha256(volume.array.tobytes()).hexdigest()) for path, volume in images),
        quartiles=tuple(_quartiles(channel) for _, volume in images for channel in volume.array) if complete else (),
    )


def _grid_faults(geometry: Geometry, first: Geometry, name: str, *, label: bool = False) -> list[tuple[str, str]]:
    """Compare a file's grid with that of the case's first image, as strictly as planning does: a label only by where its corners lie."""
    if geometry.shape != first.shape:
        apart = [have - want for have, want in zip(geometry.shape, first.shape, strict=True)]
        return [("shape", f"Shape {geometry.shape}, {name} has {first.shape}: {apart} voxels apart on D, H, W.")]
    if not label and geometry.planar != first.planar:
        own, other = ("2D", "3D") if geometry.planar else ("3D", "2D")
        return [("shape", f"The image is {own}, {name} is {other}.")]
    if label and geometry.corner_distance_mm(first) <= GRID_TOLERANCE_MM:
        return []
    if not np.allclose(geometry.spacing, first.spacing, rtol=SPACING_TOLERANCE):
        apart = [round(abs(have - want), 6) for have, want in zip(geometry.spacing, first.spacing, strict=True)]
        return [("spacing", f"Spacing {geometry.spacing} mm, {name} has {first.spacing} mm: {apart} mm apart on D, H, W.")]
    if (distance := geometry.corner_distance_mm(first)) <= GRID_TOLERANCE_MM:
        return []
    origin = float(np.linalg.norm(np.subtract(geometry.origin, first.origin)))
    cosines = np.clip((np.array(geometry.direction) * np.array(first.direction)).sum(axis=1), -1, 1)
    turned = float(np.degrees(np.arccos(cosines)).max())
    return [("position", f"A corner lies {distance:.4g} mm from that of {name}: origin {origin:.4g} mm and axes {turned:.3g} degrees apart.")]


def _label_faults(label: np.ndarray, geometry: Geometry, spec: DatasetSpec) -> list[tuple[str, str]]:
    faults = []
    values, counts = np.unique(label, return_counts=True)
    unexpected = {int(value): int(count) for value, count in zip(values, counts, strict=True) if value not in spec.labels.expected_in_files}
    if unexpected:
        shown = ", ".join(f"{value} ({count} voxels)" for value, count in list(unexpected.items())[:5])
        more = f" and {len(unexpected) - 5} more" if len(unexpected) > 5 else ""
        faults.append(("label-values", f"Values {shown}{more}; dataset.json names {list(spec.labels.expected_in_files)}."))
    foreground = {value for _, parts in spec.labels.foreground for value in parts}
    if not foreground & set(values.tolist()):
        faults.append(("no-foreground", "No voxel holds a structure."))
    for left, right in left_right_pairs(spec.labels):
        apart = _leftward_mm(np.isin(label, left[1]), np.isin(label, right[1]), geometry)
        if apart is not None and apart < 0:
            faults.append(("left-right", f"'{left[0]}' lies {-apart:.3g} mm to the right of '{right[0]}' in the patient."))
    return faults


def _leftward_mm(left: np.ndarray, right: np.ndarray, geometry: Geometry) -> float | None:
    """Return how far the center of one mask lies to the patient's left of another's; None where one is empty or the image is flat."""
    if geometry.planar or not left.any() or not right.any():
        return None
    apart = np.subtract(*(np.mean(np.nonzero(mask), axis=1) for mask in (left, right)))
    return float((apart * np.array(geometry.spacing)) @ np.array(geometry.direction)[:, 0])  # LPS: x grows to the left


def _header_faults(path: Path) -> list[tuple[str, str]]:
    """What NIfTI headers say of the grid besides what readers take from them."""
    try:
        header = nibabel.load(path).header
        codes = int(header["sform_code"]), int(header["qform_code"])
        affines = [header.get_sform() if codes[0] else None, header.get_qform() if codes[1] else None]
        shape = np.array([max(int(n), 1) for n in header["dim"][1:4]])
    except Exception:
        return []
    faults = []
    chosen = affines[0] if affines[0] is not None else affines[1]
    if chosen is not None and np.isfinite(chosen).all() and (lengths := np.linalg.norm(chosen[:3, :3], axis=0)).min() > 0:
        axes = chosen[:3, :3] / lengths
        cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
        if SHEAR <= cosine < 1:
            faults.append(("axes-sheared", f"Two axes meet at {np.degrees(np.arccos(cosine)):.3f} degrees, not 90."))
    if affines[0] is not None and (lengths := np.linalg.norm(affines[0][:3, :3], axis=0)).min() > 0:
        pixels = np.abs(np.array(header["pixdim"][1:4], dtype=float))
        if not np.allclose(lengths, pixels, rtol=PIXEL_TOLERANCE):
            given, other = ([round(float(value), 4) for value in values] for values in (pixels, lengths))
            faults.append(("pixdim-sform", f"pixdim gives {given} mm a voxel (x, y, z), the affine {other} mm."))
    if affines[0] is not None and affines[1] is not None:
        corners = np.indices((2, 2, 2)).reshape(3, -1).T * (shape - 1)
        between = (affines[0] - affines[1])[:3]
        distance = float(np.linalg.norm(corners @ between[:, :3].T + between[:, 3], axis=1).max())
        if not distance <= GRID_TOLERANCE_MM:
            faults.append(("qform-sform", f"The two affines put a corner {distance:.4g} mm apart."))
    return faults


def _quartiles(channel: np.ndarray) -> tuple[float, float, float]:
    values = channel.reshape(-1)[:: max(1, channel.size // SAMPLED)]
    inside = values[values > values.min()]  # without the air around a body
    low, middle, high = (float(value) for value in np.percentile(inside if inside.size else values, (25, 50, 75)))
    return low, middle, high
