"""Phantoms on which a plan can go wrong: thin vessels in 2D, and lesions that fall into specks in 3D.

Raw datasets in nnU-Net's layout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from samunet.core.codec import write_json

VESSELS, LESIONS = "Dataset901_VesselPhantom", "Dataset902_LesionPhantom"
CASES = 20
PLANE, VOLUME = 256, (32, 64, 64)  # pixels; voxels of 1 mm


def write_phantoms(raw: Path) -> None:
    """Write both datasets, unless they are there."""
    for name, channels, labels, ending in (
        (VESSELS, ("R", "G", "B"), {"background": 0, "vessel": 1}, ".png"),
        (LESIONS, ("T1", "FLAIR"), {"background": 0, "edema": 1, "core": 2, "enhancing": 3}, ".nii.gz"),
    ):
        folder = raw / name
        if (folder / "dataset.json").is_file():
            continue
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for index in range(CASES):
            image, label = (vessels if name == VESSELS else lesions)(np.random.default_rng([7, index]))
            if name == VESSELS:
                sitk.WriteImage(
                    sitk.GetImageFromArray(np.moveaxis(image, 0, -1), isVector=True),
                    str(folder / f"imagesTr/c{index:02d}_0000.png"),
                )
            else:
                for number, channel in enumerate(image):
                    sitk.WriteImage(
                        sitk.GetImageFromArray(channel),
                        str(folder / f"imagesTr/c{index:02d}_{number:04d}.nii.gz"),
                        True,
                    )
            sitk.WriteImage(sitk.GetImageFromArray(label), str(folder / f"labelsTr/c{index:02d}{ending}"), True)
        description = {
            "channel_names": dict(enumerate(channels)),
            "labels": labels,
            "numTraining": CASES,
            "file_ending": ending,
        }
        write_json(folder / "dataset.json", description)


def vessels(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a fundus-like picture, (3, H, W) uint8, and its vessels, (H, W) uint8: trees and torn-off twigs."""
    rows, columns = np.mgrid[:PLANE, :PLANE]
    label = np.zeros((PLANE, PLANE), np.uint8)

    def draw(place: np.ndarray, angle: float, width: float, length: int) -> None:
        for step in range(length):
            angle += rng.normal(0, 0.12)
            place = place + (np.sin(angle), np.cos(angle))
            if place.min() < 0 or place.max() >= PLANE:
                return
            width = max(1.0, width * 0.995)
            low, high = np.maximum(place - width - 1, 0).astype(int), (place + width + 2).astype(int)
            near = np.s_[low[0] : high[0], low[1] : high[1]]
            label[near] |= np.hypot(rows[near] - place[0], columns[near] - place[1]) <= width / 2
            if step > 15 and rng.uniform() < 0.012 and width > 1.3:
                draw(place, angle + rng.choice((-0.8, 0.8)), width * 0.75, length - step)

    for _ in range(5):
        draw(rng.uniform(0.4 * PLANE, 0.6 * PLANE, 2), rng.uniform(0, 2 * np.pi), rng.uniform(3.5, 5.0), 220)
    for _ in range(40):
        draw(rng.uniform(0, PLANE, 2), rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 2.0), int(rng.integers(2, 10)))
    light = ndimage.gaussian_filter(rng.normal(size=label.shape), 40)
    speckle = ndimage.gaussian_filter(rng.normal(size=label.shape), 1.5)  # as coarse as thin vessels
    seen = ndimage.gaussian_filter(label.astype(float), 0.7)
    field = 120 + 25 * light / light.std() - 42 * seen + 10 * speckle / speckle.std()
    image = np.stack([share * field + rng.normal(0, 7, label.shape) for share in (1.2, 1.0, 0.7)])
    return np.clip(image, 0, 255).astype(np.uint8), label


def lesions(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a head, (2, D, H, W) float32, and a tumor, (D, H, W) uint8: edema, core, an enhancing rim in specks."""
    size = np.array(VOLUME)
    grid = np.stack(np.meshgrid(*(np.arange(side) for side in VOLUME), indexing="ij"))

    def field(sigma: float) -> np.ndarray:
        noise = ndimage.gaussian_filter(rng.normal(size=VOLUME), sigma)
        return noise / noise.std()

    def level(center: np.ndarray, radii: np.ndarray) -> np.ndarray:
        return np.sqrt((((grid - center[:, None, None, None]) / radii[:, None, None, None]) ** 2).sum(0))

    head = level(size / 2, 0.47 * size) < 1
    radius = rng.uniform(0.16, 0.24) * size[1]
    tumor = level(size / 2 + rng.uniform(-0.15, 0.15, 3) * size, radius * rng.uniform(0.8, 1.2, 3)) + 0.12 * field(3)
    label = np.zeros(VOLUME, np.uint8)
    label[head & (tumor < 1)] = 1
    label[head & (tumor < 0.65)] = 2
    label[head & (tumor > 0.45) & (tumor < 0.8) & (field(0.8) > 0.9)] = 3
    anatomy = field(4)
    first = head * (100 + 12 * anatomy) - 12 * (label == 1) - 25 * (label == 2) + 30 * (label == 3)
    second = head * (80 + 12 * anatomy) + 25 * (label == 1) + 15 * (label == 2) + 20 * (label == 3)
    return np.stack([first + 9 * field(0.6), second + 9 * field(0.6)]).astype(np.float32), label
