"""Procedural datasets in nnU-Net's raw layout, so that every step can be tried and tested without a download.

`write_phantom_dataset` makes CT-like abdomens; `write_tiny_dataset` makes the smallest images that a test can train on.

Arrays are (D, H, W). World coordinates are LPS millimetres: x grows to the patient's left, y to the back, z to the head.
The abdomen is not drawn on a grid: each structure is a function of the position in mm, evaluated where the voxels of a
case lie. Orientation, obliquity and spacing therefore change only where the anatomy is sampled, as in a scanner.
All sizes and HU are ours, chosen to resemble a portal-venous CT; they imitate no person.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from samunet.core import parts
from samunet.core.codec import read_json, write_json
from samunet.core.geometry import Geometry, Shape, Vector3
from samunet.core.labels import parse_labels
from samunet.errors import ConfigError, DatasetError

ORGANS = {"liver": 1, "spleen": 2, "kidney": 3, "gallbladder": 4, "aorta": 5}
# Stored orientations, as nibabel names them: where the W, H and D axes point. The thick axis is always stored as D, since
# nnU-Net's readers do not reorient and its plans transpose all cases alike; a case stored otherwise could not be learned.
ORIENTATIONS = ("LPS", "RAS", "LPS", "LAS", "RAS", "LPS", "LPI", "RAS")
TOWARD: dict[str, Vector3] = {
    "L": (1, 0, 0),
    "R": (-1, 0, 0),
    "P": (0, 1, 0),
    "A": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}
KEY = "samunet_phantom"  # free key of dataset.json that tells with which numbers the dataset was made
AIR, FAT, MUSCLE = -1000.0, -100.0, 55.0  # HU


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """A structure before deformation, in a reference abdomen of half-axes BODY."""

    center: Vector3
    """LPS mm."""
    radii: Vector3
    """LPS mm."""
    hu: float
    label: int = 0


# Later structures are drawn over earlier ones.
BODY = (132.0, 98.0)  # mm, half-axes along x and y
STOMACH = Ellipsoid(center=(36, -34, 26), radii=(38, 26, 26), hu=25)
VENA_CAVA = Ellipsoid(center=(-17, 30, 0), radii=(10, 7.5, 400), hu=115)
ABDOMEN = (
    Ellipsoid(center=(-54, -4, 14), radii=(50, 58, 48), hu=105, label=ORGANS["liver"]),
    Ellipsoid(center=(-12, -44, 26), radii=(46, 22, 26), hu=105, label=ORGANS["liver"]),
    Ellipsoid(center=(78, 20, 16), radii=(23, 36, 31), hu=140, label=ORGANS["spleen"]),
    Ellipsoid(center=(-47, 40, -24), radii=(21, 23, 34), hu=190, label=ORGANS["kidney"]),
    Ellipsoid(center=(49, 38, -16), radii=(21, 23, 34), hu=190, label=ORGANS["kidney"]),
    Ellipsoid(center=(-44, -42, -16), radii=(13, 14, 16), hu=8, label=ORGANS["gallbladder"]),
)


def write_phantom_dataset(
    raw_folder: Path,
    *,
    seed: int = 17,
    num_training: int = 12,
    num_test: int = 4,
    name: str = "Dataset017_PhantomAbdomen",
) -> Path:
    """Write CT-like abdomens with five labeled structures and return the dataset folder.

    Equal arguments give equal bytes. A complete dataset made with the same arguments is left as it is; the folder
    appears whole or not at all. Test cases have references in labelsTs.

    Raises:
        DatasetError: the folder exists and holds something else.
    """
    names = [f"abdomen_{index:03d}" for index in range(num_training + num_test)]
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **ORGANS},
        "numTraining": num_training,
        "file_ending": ".nii.gz",
        "description": "Procedural abdomen phantom in the style of a CT; no patient data.",
        KEY: {"kind": "abdomen", "seed": seed, "num_training": num_training, "num_test": num_test},
    }
    target = raw_folder / name
    files = _files(names[:num_training], names[num_training:], ".nii.gz", 1)
    if _is_complete(target, description, files):
        return target
    with _new_dataset(target, description, files) as folder:
        for index, case in enumerate(names):
            part = "Tr" if index < num_training else "Ts"
            image, label, geometry = _abdomen(
                np.random.default_rng([seed, index]), ORIENTATIONS[index % len(ORIENTATIONS)]
            )
            _write_array(folder / f"images{part}" / f"{case}_0000.nii.gz", image, geometry)
            _write_array(folder / f"labels{part}" / f"{case}.nii.gz", label, geometry)
    return target


def write_tiny_dataset(
    raw_folder: Path,
    *,
    name: str = "Dataset999_Tiny",
    dimensions: int = 3,
    channels: int = 1,
    labels: Mapping[str, object] | None = None,
    regions_class_order: Sequence[int] | None = None,
    cases: int = 4,
    size: Shape = (6, 32, 40),
    seed: int = 0,
    file_ending: str = ".nii.gz",
    num_test: int = 1,
) -> Path:
    """Write bright blobs in noise, one blob per label value and asymmetric in every axis, and return the dataset folder.

    Args:
        dimensions: 2 or 3; 2 writes planar images.
        channels: files per case; three channels of .png images are one RGB file, as nnU-Net reads it.
        labels: the `labels` of dataset.json, regions and ignore label allowed; None for background, small and large.
        regions_class_order: as in dataset.json; needed for regions.
        cases: number of training cases.
        size: (D, H, W) in voxels, D = 1 where dimensions is 2; sizes vary by up to two voxels between cases.
        file_ending: ".png" (8 bits, 2D), or a format that SimpleITK writes, e.g. ".nii.gz", ".mha", ".nrrd".

    Raises:
        ConfigError: dimensions, size and file ending do not go together.
        DatasetError: labels are wrong, or the folder exists and holds something else.
    """
    if dimensions not in (2, 3) or (dimensions == 2) != (size[0] == 1) or (file_ending == ".png" and dimensions == 3):
        raise ConfigError(
            f"A {dimensions}D dataset of size {size} in {file_ending} files is not possible; 2D needs D = 1, 3D needs D > 1 and no .png."
        )
    raw_labels = dict(labels or {"background": 0, "large": 1, "small": 2})
    meaning = parse_labels(raw_labels, regions_class_order)
    rgb = file_ending == ".png" and channels == 3
    names = [f"tiny_{index:03d}" for index in range(cases + num_test)]
    description: dict[str, object] = {
        "channel_names": {
            str(index): channel
            for index, channel in enumerate("RGB" if rgb else [f"channel{c}" for c in range(channels)])
        },
        "labels": raw_labels,
        "numTraining": cases,
        "file_ending": file_ending,
        KEY: {"kind": "tiny", "seed": seed, "size": list(size), "num_test": num_test},
    }
    if regions_class_order is not None:
        description["regions_class_order"] = list(regions_class_order)
    target = raw_folder / name
    files = _files(names[:cases], names[cases:], file_ending, 1 if rgb else channels)
    if _is_complete(target, description, files):
        return target
    with _new_dataset(target, description, files) as folder:
        for index, case in enumerate(names):
            part = "Tr" if index < cases else "Ts"
            rng = np.random.default_rng([seed, index])
            image, label, geometry = _blobs(
                rng, channels, meaning.all_values, meaning.ignore, size, planar=dimensions == 2
            )
            if file_ending == ".png":
                image = np.clip(image, 0, 255).astype(np.uint8)
            for channel, array in enumerate([np.moveaxis(image, 0, -1)] if rgb else list(image)):
                _write_array(
                    folder / f"images{part}" / f"{case}_{channel:04d}{file_ending}", array, geometry, vector=rgb
                )
            _write_array(folder / f"labels{part}" / f"{case}{file_ending}", label, geometry)
    return target


def _files(training: Sequence[str], test: Sequence[str], file_ending: str, files_per_case: int) -> list[str]:
    """Return the paths of all images and labels within the dataset folder."""
    files = []
    for part, cases in (("Tr", training), ("Ts", test)):
        for case in cases:
            files.append(f"labels{part}/{case}{file_ending}")
            files.extend(f"images{part}/{case}_{channel:04d}{file_ending}" for channel in range(files_per_case))
    return files


def _is_complete(target: Path, description: dict[str, object], files: Sequence[str]) -> bool:
    """Tell whether `target` is already this dataset; raises DatasetError when it is another one or lacks files."""
    if not target.exists():
        return False
    if not (target / "dataset.json").is_file() or read_json(target / "dataset.json") != json.loads(
        json.dumps(description)
    ):
        raise DatasetError(
            f"Folder {target} exists and is not the phantom asked for; remove it, or choose another name or folder."
        )
    missing = [file for file in files if not (target / file).is_file()]
    if missing:
        raise DatasetError(
            f"Folder {target} lacks {len(missing)} files, e.g. {missing[0]}; remove it and write it again."
        )
    return True


@contextmanager
def _new_dataset(target: Path, description: dict[str, object], files: Sequence[str]) -> Iterator[Path]:
    """Give a folder to fill that gets its dataset.json and becomes `target` at the end; on failure nothing remains."""
    target.parent.mkdir(parents=True, exist_ok=True)
    parts.remove_dead_parts(target.parent)
    temporary = target.parent / parts.part_name()
    parts.begin_part(temporary)
    try:
        folder = temporary / target.name
        with parts.naming(target):
            for file in files:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
            yield folder
            write_json(folder / "dataset.json", description)
            os.replace(folder, target)
    finally:
        parts.end_part(temporary)


def _write_array(path: Path, array: np.ndarray, geometry: Geometry, *, vector: bool = False) -> None:
    """Write (D, H, W), or (D, H, W, C) as one vector image; planar geometries become 2D files. The bytes hold no clock time."""
    if geometry.planar:
        image = sitk.GetImageFromArray(array[0], isVector=vector)
        image.SetSpacing(geometry.spacing[:0:-1])
    else:
        image = sitk.GetImageFromArray(array, isVector=vector)
        image.SetSpacing(geometry.spacing[::-1])
        image.SetOrigin(geometry.origin)
        image.SetDirection(np.array(geometry.direction)[::-1].T.ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=True)


def _positions(geometry: Geometry) -> np.ndarray:
    """Return the LPS position in mm of every voxel, (3, D, H, W) float32."""
    steps = (np.array(geometry.direction) * np.array(geometry.spacing)[:, None]).astype(np.float32)
    d, h, w = (np.arange(n, dtype=np.float32) for n in geometry.shape)
    origin = np.array(geometry.origin, np.float32)
    return np.stack(
        [
            origin[i] + d[:, None, None] * steps[0, i] + h[None, :, None] * steps[1, i] + w[None, None, :] * steps[2, i]
            for i in range(3)
        ]
    )


def _centered_geometry(
    shape: Shape, spacing: Vector3, orientation: str, tilt_degrees: Vector3, center: Vector3
) -> Geometry:
    """Return a grid whose middle lies at `center` (LPS mm), stored in `orientation` and tilted about x, y, z."""
    rows = np.array([TOWARD[letter] for letter in orientation[::-1]], float) @ _rotation(tilt_degrees).T
    origin = np.array(center) - ((np.array(shape) - 1) / 2 * np.array(spacing)) @ rows
    direction = tuple((float(row[0]), float(row[1]), float(row[2])) for row in rows)
    return Geometry(
        shape=shape,
        spacing=spacing,
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=(direction[0], direction[1], direction[2]),
    )


def _rotation(degrees: Vector3) -> np.ndarray:
    """Return the 3 x 3 rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[i, j], [i, j]] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    return matrix


def _waves(
    rng: np.random.Generator, points: np.ndarray, *, wavelength: tuple[float, float], number: int = 5
) -> np.ndarray:
    """Return a smooth random field of unit variance: plane waves of random direction, phase and wavelength (mm)."""
    field = np.zeros(points.shape[1:], np.float32)
    for _ in range(number):
        direction = rng.normal(size=3)
        k = (direction / np.linalg.norm(direction) * 2 * math.pi / rng.uniform(*wavelength)).astype(np.float32)
        phase = np.float32(rng.uniform(0, 2 * math.pi))
        field += np.cos(k[0] * points[0] + k[1] * points[1] + k[2] * points[2] + phase)
    return field * np.float32(math.sqrt(2 / number))


def _level(points: np.ndarray, center: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the normalized distance from an ellipsoid's center: below 1 inside."""
    return np.sqrt(sum(((points[i] - np.float32(center[i])) / np.float32(radii[i])) ** 2 for i in range(3)))


def _abdomen(rng: np.random.Generator, orientation: str) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """Draw one abdomen; returns the image (D, H, W) int16 HU, the label (D, H, W) uint8 and their grid."""
    half_x, half_y = BODY[0] * rng.uniform(0.94, 1.06), BODY[1] * rng.uniform(0.94, 1.06)
    in_plane, thickness = rng.uniform(2.5, 3.2), rng.uniform(4.2, 6.0)
    shape = (
        int(np.clip(round(rng.uniform(100, 118) / thickness), 18, 26)),
        int(np.clip(round((2 * half_y + rng.uniform(20, 36)) / in_plane), 80, 112)),
        int(np.clip(round((2 * half_x + rng.uniform(20, 36)) / in_plane), 96, 128)),
    )
    oblique = rng.uniform() < 0.4
    tilt = tuple(rng.uniform(-5, 5, 3)) if oblique else (0.0, 0.0, 0.0)
    center = tuple(rng.uniform(-6, 6, 3))
    geometry = _centered_geometry(shape, (thickness, in_plane, in_plane), orientation, tilt, center)
    positions = _positions(geometry)

    # One smooth deformation for the whole body keeps neighbors in touch, as in a person.
    points = positions / np.array([half_x / BODY[0], half_y / BODY[1], 1.0], np.float32)[:, None, None, None]
    points = points + np.stack(
        [
            3.5 * _waves(rng, positions, wavelength=(90, 180)) + 1.5 * _waves(rng, positions, wavelength=(35, 70))
            for _ in range(3)
        ]
    )
    hu, label = _paint(rng, points)

    noise_hu = rng.uniform(15, 25)
    texture = 4 * _waves(rng, positions, wavelength=(14, 30), number=8)
    hu = np.where(hu > -300, hu + texture, hu)
    hu = ndimage.gaussian_filter(hu, (0.25, 0.55, 0.55))  # the scanner's point spread, in voxels
    noise = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), (0, 0.5, 0.5))
    hu += noise_hu * noise / noise.std()
    bias = _waves(rng, positions, wavelength=(150, 300), number=3)
    hu = (hu + 1000) * (1 + 0.008 * bias) - 1000 + 5 * _waves(rng, positions, wavelength=(150, 300), number=3)
    return np.clip(np.round(hu), -1024, 3071).astype(np.int16), label, geometry


def _paint(rng: np.random.Generator, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return HU (float32) and labels (uint8) at deformed positions (3, D, H, W) of the reference abdomen."""
    x, y, z = points
    hu = np.full(x.shape, AIR, np.float32)
    label = np.zeros(x.shape, np.uint8)

    def fill(inside: np.ndarray, value: float | np.ndarray, organ: int = 0) -> None:
        hu[inside] = value[inside] if isinstance(value, np.ndarray) else value
        label[inside] = organ

    def outline(inset: float) -> np.ndarray:
        return (np.abs(x) / (BODY[0] - inset)) ** 2.3 + (np.abs(y) / (BODY[1] - inset)) ** 2.3 < 1

    fat, wall = rng.uniform(9, 17), rng.uniform(7, 10)
    cavity = outline(fat + wall)
    fill(outline(0), 10)  # skin
    fill(outline(2.5), FAT)
    fill(outline(fat), MUSCLE)
    fill(cavity, FAT)
    for angle in np.arange(12) * 2 * math.pi / 12 + rng.uniform(0, 0.5):  # ribs, cut across
        rib = np.array(
            [(BODY[0] - fat - 4) * math.cos(angle), (BODY[1] - fat - 4) * math.sin(angle), rng.uniform(-30, 60)]
        )
        fill(_level(points, rib, np.array([5.5, 5.5, 22.0])) < 1, 330)

    for _ in range(11):  # bowel: a wall, and fluid or gas inside
        middle = np.array([rng.uniform(-62, 74), rng.uniform(-58, 8), rng.uniform(-72, -8)])
        level = _level(points, middle, rng.uniform(11, 19, 3))
        content = rng.choice([-750.0, 20.0, 35.0, 60.0])
        fill(cavity & (level < 1), 60)
        fill(cavity & (level < 0.78), content)
    stomach = _level(
        points, np.array(STOMACH.center) + rng.normal(0, 3, 3), np.array(STOMACH.radii) * rng.uniform(0.85, 1.1, 3)
    )
    fill(cavity & (stomach < 1), 60)
    fill(cavity & (stomach < 0.86), STOMACH.hu)
    fill(cavity & (stomach < 0.86) & (y < STOMACH.center[1] - rng.uniform(4, 14)), -800)  # gas rises to the front

    disc = np.cos((z - rng.uniform(0, 30)) * (2 * math.pi / 32)) > 0.85  # one vertebra about every 32 mm
    vertebra = _level(points, np.array([0, 60, 0]), np.array([21, 17, 400]))
    fill(vertebra < 1, np.where(disc, np.float32(90), np.where(vertebra > 0.85, np.float32(420), np.float32(190))))
    fill((np.abs(x) < 4.5) & (y > 74) & (y < 90) & ~disc, 350)  # spinous process
    for side in (-1, 1):
        fill(_level(points, np.array([side * 31, 70, 0]), np.array([19, 15, 400])) < 1, MUSCLE)  # back muscles
    fill(_level(points, np.array([0, 76, 0]), np.array([8, 6.5, 400])) < 1, 30)  # spinal canal
    fill(
        _level(points, np.array(VENA_CAVA.center) + rng.normal(0, 2, 3), np.array(VENA_CAVA.radii)) < 1,
        VENA_CAVA.hu + rng.normal(0, 6),
    )

    shift = rng.normal(0, 1.5, 3)
    enhancement = {organ: rng.normal(0, 5) for organ in ORGANS.values()}
    liver_vessels = np.zeros(x.shape, bool)
    for _ in range(4):
        a, b = rng.uniform(-0.7, 0.7, 2)
        across = np.hypot(x + 50 + rng.normal(0, 14) - a * z, y + 4 + rng.normal(0, 14) - b * z)
        liver_vessels |= across < rng.uniform(3.0, 4.5)
    for structure in ABDOMEN:
        middle = np.array(structure.center) + shift + rng.normal(0, [3, 3, 5])
        size = 0.35 if structure.label == ORGANS["gallbladder"] else 0.12
        level = _level(
            points,
            middle,
            np.array(structure.radii) * rng.uniform(1 - size / 2, 1 + size / 2) * rng.uniform(0.95, 1.05, 3),
        )
        level += 0.05 * _waves(rng, points, wavelength=(30, 60), number=3)
        value: float | np.ndarray = structure.hu + enhancement[structure.label]
        if structure.label == ORGANS["liver"]:
            value = np.where(liver_vessels, np.float32(value + 40), np.float32(value))
        elif structure.label == ORGANS["kidney"]:
            value = np.where(level < 0.55, np.float32(value - 30), np.float32(value))  # medulla is darker than cortex
        fill(cavity & (level < 1) & (vertebra > 1), value, structure.label)

    radius = rng.uniform(7.0, 9.0)
    bend = rng.uniform(0, 2 * math.pi, 2)
    aorta = np.hypot(x - 8 - 3 * np.sin(z / 30 + bend[0]), y - 32 - 2 * np.sin(z / 25 + bend[1]))
    fill(aorta < radius, 240 + enhancement[ORGANS["aorta"]], ORGANS["aorta"])
    return hu, label


def _blobs(
    rng: np.random.Generator, channels: int, values: Sequence[int], ignore: int | None, size: Shape, *, planar: bool
) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """Draw one ellipsoid per label value; returns image (C, D, H, W) float32, label (D, H, W) uint8 and the grid."""
    extra = (0 if planar else rng.integers(0, 2), *rng.integers(-2, 3, 2))
    shape = (size[0] + int(extra[0]), size[1] + int(extra[1]), size[2] + int(extra[2]))
    grid = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij"))
    label = np.zeros(shape, np.uint8)
    foreground = [value for value in values if value]
    radius = 0.3 / math.sqrt(len(foreground))
    seeds = []
    for k, value in enumerate(foreground):
        # Steps of the plastic number spread any number of centers; the offset makes the picture differ from its mirror images.
        center = (
            0.2
            + 0.6 * np.modf(np.array([0.3, 0.2, 0.15]) + k * np.array([0.549, 0.570, 0.755]))[0]
            + rng.uniform(-0.04, 0.04, 3)
        )
        if planar:
            center[0] = 0.5
        stretch = np.array([1.4, 1.0, 0.8]) * rng.uniform(0.9, 1.1)
        label[(((grid - center[:, None, None, None]) / (radius * stretch)[:, None, None, None]) ** 2).sum(0) < 1] = (
            value
        )
        seeds.append((tuple((center * shape).astype(int)), value))
    for index, value in seeds:  # no blob vanishes behind a later one
        label[index] = value
    contrast = 40 + 160 * label.astype(np.float32) / max(foreground)
    ramp = 10 * grid[2].astype(np.float32)
    image = np.stack(
        [contrast * (1 - 0.2 * c / channels) + ramp + rng.normal(0, 8, shape) for c in range(channels)]
    ).astype(np.float32)
    if ignore is not None:
        label[..., -max(1, shape[2] // 8) :] = ignore
    if planar:
        return image, label, Geometry(shape=shape, spacing=(1.0, 1.0, 1.0), planar=True)
    orientation = ORIENTATIONS[int(rng.integers(len(ORIENTATIONS)))]
    spacing = (round(rng.uniform(2.4, 3.0), 3), 1.0, 1.25)
    tilt = (float(rng.uniform(-8, 8)), 0.0, 0.0)
    center_mm = tuple(float(value) for value in rng.uniform(-50, 50, 3))
    return (
        image,
        label,
        _centered_geometry(shape, spacing, orientation, tilt, (center_mm[0], center_mm[1], center_mm[2])),
    )
