"""A volume to annotate, and a model that answers at once and always alike."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import torch
from scipy import ndimage

from samunet.core.geometry import Geometry
from samunet.core.prompts import BOX, INSIDE, MASK, OUTSIDE
from samunet.core.volume import Volume
from samunet.interaction.slices import Answer

SHAPE = (6, 10, 12)
OBLIQUE = Geometry(
    shape=SHAPE,
    spacing=(3.0, 1.0, 0.5),
    origin=(-20.0, 13.5, 7.25),
    direction=((0.0, 0.6, 0.8), (0.0, 0.8, -0.6), (-1.0, 0.0, 0.0)),
)


def volume(geometry: Geometry = OBLIQUE, seed: int = 0) -> Volume:
    array = np.random.default_rng(seed).normal(size=(1, *geometry.shape)).astype(np.float32)
    return Volume(array=array, geometry=geometry)


class Discs:
    """Segments a disc of 2 pixels around each click inside, less what is next to one outside; areas as they are."""

    name, sha256, channels, looks_closer = "discs", "of no weights", MappingProxyType({}), False

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, plane, spacing):
        self.encoded += 1
        return {"plane": torch.from_numpy(plane.copy())[None]}

    def answer(self, features, drawn, spacing):
        assert features["plane"].shape[2:] == drawn.shape
        near = [
            ndimage.distance_transform_edt(drawn & bit == 0) <= radius for bit, radius in ((INSIDE, 2), (OUTSIDE, 1))
        ]
        shown = (drawn & INSIDE).any()
        mask = (near[0] & shown) | (drawn & (BOX | MASK) > 0)
        return Answer(mask & ~(near[1] & (drawn & OUTSIDE).any()), 0.9)
