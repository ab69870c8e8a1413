"""Open every file of one case and compare what is in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np

from samunet.checking.findings import Finding, relative
from samunet.core.dataset import Case, DatasetSpec
from samunet.core.geometry import REFUSE_VOXELS, WARN_VOXELS, Geometry
from samunet.core.labels import left_right_pairs
from samunet.core.names import brief
from samunet.core.units import counted
from samunet.core.values import SAMPLED, distinct
from samunet.errors import DatasetError
from samunet.imageio import ImageReader
from samunet.imageio.nibabel_reader import ORTHOGONAL, affine_that_counts, qform_apart_mm, skew
from samunet.imageio.nifti import is_nifti, read_header
from samunet.imageio.reader import same_spacing
from samunet.imageio.tiff3d import Tiff3DIO, spacing_file

Loaded = TypeVar("Loaded")
PIXEL_TOLERANCE = 1e-3  # relative; headers hold rounded numbers


@dataclass(frozen=True, kw_only=True)
class CheckedCase:
    """What comparisons between cases need to know of one."""

    identifier: str
    findings: tuple[Finding, ...]
    geometry: Geometry | None = None
    """Grid of the first image that could be read; None where none could."""
    sha256: tuple[tuple[str, str], ...] = ()
    """(file, hash of its voxels) of every image that could be read."""
    unexpected: tuple[int, ...] = ()
    """Values of the label that dataset.json does not name."""
    quartiles: tuple[tuple[float, float, float], ...] = ()
    """Quartiles of each channel's values above the lowest; empty unless all channels could be read."""

    @property
    def planar(self) -> bool | None:
        """Whether the image is 2D; None when no image could be read."""
        return None if self.geometry is None else self.geometry.planar


def check_case(case: Case, spec: DatasetSpec, reader: ImageReader, root: Path) -> CheckedCase:
    """Read every file of a case to its end; a file that cannot be read does not keep the others from being checked.

    Args:
        root: folder that files are named relative to.
    """
    findings: list[Finding] = []

    def add(code: str, file: Path | None, message: str) -> None:
        findings.append(Finding(case.identifier, relative(file, root), code, message))

    def opened(path: Path, read: Callable[[], Loaded]) -> Loaded | None:
        try:
            return read()
        except DatasetError as error:
            add(error.code, path, str(error).replace(str(path), path.name))  # the finding names the file itself
        except Exception as error:  # whatever a damaged file makes a library raise
            add("unreadable", path, f"The file cannot be read: {type(error).__name__}: {error}.")
        return None

    volumes = [(path, opened(path, partial(reader.read_image, [path]))) for path in case.images]
    images = [(path, volume) for path, volume in volumes if volume is not None]
    label = opened(case.label, partial(reader.read_label, case.label)) if case.label is not None else None
    channels = [(path, channel) for path, volume in images for channel in volume.array]
    complete = len(images) == len(case.images)
    if complete and len(channels) != len(spec.channels):
        alone = case.images[0] if len(case.images) == 1 else None
        files = counted(len(case.images), "file")
        add(
            "channel-count",
            alone,
            f"{counted(len(channels), 'channel')} in {files}; dataset.json names {len(spec.channels)}.",
        )
    paths = (*case.images, *([case.label] if case.label else []))
    faults = [(path, code, message) for path in paths for code, message in _header_faults(path)]
    if isinstance(reader, Tiff3DIO):
        unsized = [path for path, volume in images if not volume.geometry.measured]
        faults += [
            (path, "no-spacing", f"There is no {spacing_file(path).name} beside the stack, and no size in its tags.")
            for path in unsized
        ]
    faults += _constant(channels)
    if images:
        name, first = images[0][0].name, images[0][1].geometry
        for path, volume in images[1:]:
            faults += [(path, code, message) for code, message in _grid_faults(volume.geometry, first, name)]
    if case.label is not None and label is not None:
        if images:
            faults += [(case.label, code, message) for code, message in _grid_faults(label[1], first, name, label=True)]
        faults += [(case.label, code, message) for code, message in _label_faults(*label, spec)]
    for path, code, message in faults:
        add(code, path, message)
    return CheckedCase(
        identifier=case.identifier,
        findings=tuple(findings),
        geometry=images[0][1].geometry if images else None,
        unexpected=() if label is None else tuple(sorted(set(distinct(label[0])) - set(spec.labels.expected_in_files))),
        sha256=tuple((relative(path, root), sha256(volume.array.tobytes()).hexdigest()) for path, volume in images),
        quartiles=tuple(_quartiles(channel) for _, channel in channels) if complete else (),
    )


def _constant(channels: Sequence[tuple[Path, np.ndarray]]) -> list[tuple[Path, str, str]]:
    """Find channels of one value; a case of nothing else has no image at all."""
    flat = [(path, index) for index, (path, channel) in enumerate(channels) if channel.min() == channel.max()]
    code = "constant-image" if len(flat) == len(channels) else "constant-channel"
    where = {index: f" of channel {index}" if len(channels) > 1 else "" for _, index in flat}
    return [
        (path, code, f"Every voxel{where[index]} has the value {channels[index][1].flat[0]:g}.") for path, index in flat
    ]


def _grid_faults(geometry: Geometry, first: Geometry, name: str, *, label: bool = False) -> list[tuple[str, str]]:
    """Compare a file's grid with that of the case's first image; a label only by where its corners lie."""
    if geometry.shape != first.shape:
        apart = [have - want for have, want in zip(geometry.shape, first.shape, strict=True)]
        return [("shape", f"Shape {geometry.shape}, {name} has {first.shape}: {apart} voxels apart on D, H, W.")]
    if not label and geometry.planar != first.planar:
        own, other = ("2D", "3D") if geometry.planar else ("3D", "2D")
        return [("shape", f"The image is {own}, {name} is {other}.")]
    voxels_apart = geometry.voxels_apart(first)
    if voxels_apart < WARN_VOXELS:
        return []
    if not same_spacing(geometry, first):
        off = [round(abs(have - want), 6) for have, want in zip(geometry.spacing, first.spacing, strict=True)]
        return [
            ("spacing", f"Spacing {geometry.spacing} mm, {name} has {first.spacing} mm: {off} mm apart on D, H, W.")
        ]
    code = "channel-position"
    if label:
        code = "position" if voxels_apart >= REFUSE_VOXELS else "position-near"
    origin = float(np.linalg.norm(np.subtract(geometry.origin, first.origin)))
    cosines = np.clip((np.array(geometry.direction) * np.array(first.direction)).sum(axis=1), -1, 1)
    turned = float(np.degrees(np.arccos(cosines)).max())
    parts = f"origin {origin:.4g} mm and axes {turned:.3g} degrees apart"
    return [(code, f"A corner lies {geometry.apart(first)} from that of {name}: {parts}.")]


def _label_faults(label: np.ndarray, geometry: Geometry, spec: DatasetSpec) -> list[tuple[str, str]]:
    faults = []
    values, counts = np.unique(label, return_counts=True)
    expected = set(spec.labels.expected_in_files)
    unexpected = {int(value): int(count) for value, count in zip(values, counts, strict=True) if value not in expected}
    if unexpected:
        shown = ", ".join(f"{value} ({count} voxels)" for value, count in list(unexpected.items())[:5])
        more = f" and {len(unexpected) - 5} more" if len(unexpected) > 5 else ""
        faults.append(
            ("label-values", f"Values {shown}{more}; dataset.json names {brief(list(spec.labels.expected_in_files))}.")
        )
    if set().union(*(parts for _, parts in spec.labels.foreground)).isdisjoint(values.tolist()):
        faults.append(("no-foreground", "No voxel holds a structure."))
    for left, right in left_right_pairs(spec.labels):
        apart = _leftward_mm(np.isin(label, left[1]), np.isin(label, right[1]), geometry)
        if apart is not None and apart < 0:
            faults.append(
                ("left-right", f"'{left[0]}' lies {-apart:.3g} mm to the right of '{right[0]}' in the patient.")
            )
    return faults


def _leftward_mm(left: np.ndarray, right: np.ndarray, geometry: Geometry) -> float | None:
    """Return how far one mask's center lies to the patient's left of another's, in mm; None where unknown."""
    if geometry.planar or not geometry.directed or not left.any() or not right.any():
        return None
    apart = np.subtract(*(np.mean(np.nonzero(mask), axis=1) for mask in (left, right)))
    return float((apart * np.array(geometry.spacing)) @ np.array(geometry.direction)[:, 0])  # LPS: x grows to the left


def _header_faults(path: Path) -> list[tuple[str, str]]:
    """Return what a NIfTI header says of the grid besides what readers take from it, as (code, message)."""
    if not (path.is_file() and is_nifti(path)):
        return []
    try:
        header = read_header(path)
        affine = affine_that_counts(header, path)
        distance = qform_apart_mm(header)
    except Exception:  # what it cannot be read for is a finding already
        return []
    faults = []
    if negative := [axis for axis, size in zip("xyz", header["pixdim"][1:4], strict=True) if size < 0]:
        faults.append(("pixdim-sign", f"pixdim is negative along {', '.join(negative)}."))
    lengths = np.zeros(3) if affine is None else np.linalg.norm(affine[:3, :3], axis=0)
    if affine is not None and np.isfinite(affine).all() and lengths.min() > 0:
        cosine = skew(affine[:3, :3] / lengths)
        if ORTHOGONAL <= cosine < 1:
            faults.append(("axes-sheared", f"Two axes meet at {np.degrees(np.arccos(cosine)):.3f} degrees, not 90."))
        pixels = np.abs(np.array(header["pixdim"][1:4], dtype=float))
        if not np.allclose(lengths, pixels, rtol=PIXEL_TOLERANCE):
            given, other = ([round(float(value), 4) for value in values] for values in (pixels, lengths))
            faults.append(("pixdim-sform", f"pixdim gives {given} mm per voxel (x, y, z), the affine {other} mm."))
    if not distance < WARN_VOXELS * np.abs(header["pixdim"][1:4]).min():
        faults.append(("qform-sform", f"The two affines put a corner {distance:.3g} mm apart."))
    return faults


def _quartiles(channel: np.ndarray) -> tuple[float, float, float]:
    values = channel.reshape(-1)[:: max(1, channel.size // SAMPLED)]
    inside = values[values > values.min()]  # without the air around a body
    low, middle, high = (float(value) for value in np.percentile(inside if inside.size else values, (25, 50, 75)))
    return low, middle, high
