"""A CT-like abdomen, drawn from formulas.

Arrays are (D, H, W). World coordinates are LPS millimeters: x grows to the patient's left, y to the back, z to the
head. The abdomen is not drawn on a grid: each structure is a function of the position in mm, evaluated where the voxels
of a case lie. Orientation, obliquity and spacing therefore change only where the anatomy is sampled, as in a scanner.
All sizes and HU are ours, chosen to resemble a portal-venous CT; they imitate no person.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from samunet.core.geometry import Geometry, Shape, Vector3

ORGANS = {"liver": 1, "spleen": 2, "kidney": 3, "gallbladder": 4, "aorta": 5}
# Stored orientations, as nibabel names them: where the W, H and D axes point. The thick axis is always stored as D,
# since nnU-Net's readers do not reorient and its plans transpose all cases alike: a case stored otherwise could not be
# learned.
ORIENTATIONS = ("LPS", "RAS", "LPS", "LAS", "RAS", "LPS", "LPI", "RAS")
TOWARD: dict[str, Vector3] = {
    "L": (1, 0, 0),
    "R": (-1, 0, 0),
    "P": (0, 1, 0),
    "A": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}
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


def draw_abdomen(rng: np.random.Generator, orientation: str) -> tuple[np.ndarray, np.ndarray, Geometry]:
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
    geometry = centered_geometry(shape, (thickness, in_plane, in_plane), orientation, tilt, center)
    positions = _positions(geometry)

    # One smooth deformation for the whole body keeps neighbors in touch, as in a person.
    points = positions / np.array([half_x / BODY[0], half_y / BODY[1], 1.0], np.float32)[:, None, None, None]
    points = points + np.stack(
        [
            3.5 * waves(rng, positions, wavelength=(90, 180)) + 1.5 * waves(rng, positions, wavelength=(35, 70))
            for _ in range(3)
        ]
    )
    hu, label = _paint(rng, points)

    noise_hu = rng.uniform(15, 25)
    texture = 4 * waves(rng, positions, wavelength=(14, 30), number=8)
    hu = np.where(hu > -300, hu + texture, hu)
    hu = ndimage.gaussian_filter(hu, (0.25, 0.55, 0.55))  # the scanner's point spread, in voxels
    noise = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), (0, 0.5, 0.5))
    hu += noise_hu * noise / noise.std()
    bias = waves(rng, positions, wavelength=(150, 300), number=3)
    hu = (hu + 1000) * (1 + 0.008 * bias) - 1000 + 5 * waves(rng, positions, wavelength=(150, 300), number=3)
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
        inside: np.ndarray = (np.abs(x) / (BODY[0] - inset)) ** 2.3 + (np.abs(y) / (BODY[1] - inset)) ** 2.3 < 1
        return inside

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
        level += 0.05 * waves(rng, points, wavelength=(30, 60), number=3)
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


def centered_geometry(
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


def waves(
    rng: np.random.Generator, points: np.ndarray, *, wavelength: tuple[float, float], number: int = 5
) -> np.ndarray:
    """Return a smooth random field of unit variance: plane waves of random direction, phase and wavelength (mm)."""
    field = np.zeros(points.shape[1:], np.float32)
    for _ in range(number):
        direction = rng.normal(size=3)
        k = (direction / np.linalg.norm(direction) * 2 * math.pi / rng.uniform(*wavelength)).astype(np.float32)
        phase = np.float32(rng.uniform(0, 2 * math.pi))
        field += np.cos(k[0] * points[0] + k[1] * points[1] + k[2] * points[2] + phase)
    field *= np.float32(math.sqrt(2 / number))
    return field


def _level(points: np.ndarray, center: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the normalized distance from an ellipsoid's center: below 1 inside."""
    level: np.ndarray = np.sqrt(
        sum(((points[i] - np.float32(center[i])) / np.float32(radii[i])) ** 2 for i in range(3))
    )
    return level
