"""napari for tests, offscreen; modules that import this one are skipped where it is not installed."""

from __future__ import annotations

import os
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("NAPARI_CONFIG", "")  # settings are those that napari comes with, and nobody's are changed
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of napari and of what it imports
    napari = pytest.importorskip("napari", reason="needs napari")
    from napari import settings  # with warnings of pydantic
    from napari.components import ViewerModel
    from napari.utils.interactions import mouse_press_callbacks, mouse_release_callbacks

__all__ = ["QUIET", "ViewerModel", "click", "napari", "settings"]

QUIET = pytest.mark.filterwarnings("ignore:::napari", "ignore:::vispy", "ignore:::npe2", "ignore:::superqt")
"""Warnings that are napari's own affair."""


def click(layer, *place, shift=False):
    """Press and release the mouse at a place of a layer, in voxels."""
    event = SimpleNamespace(
        type="mouse_press",
        pos=np.zeros(2),
        position=tuple(layer.data_to_world(place)),
        modifiers=("Shift",) if shift else (),
        dims_displayed=[0, 1],
        view_direction=None,
        handled=False,
    )
    mouse_press_callbacks(layer, event)
    event.type = "mouse_release"
    mouse_release_callbacks(layer, event)
