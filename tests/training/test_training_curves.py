"""The picture of a training: every class in its color, and which fold."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from samunet.evaluation.colors import label_color
from samunet.training.curves import draw_records, draw_training


def colors_in(png: bytes) -> set[tuple[int, int, int]]:
    return set(map(tuple, np.unique(np.asarray(Image.open(io.BytesIO(png)))[..., :3].reshape(-1, 3), axis=0).tolist()))


VALUES = {"train_loss": [1.0, 0.5], "dice/liver": [0.2, 0.4], "dice/tumor": [0.1, 0.8], "mean_fg_dice": [0.15, 0.6]}


def test_a_class_has_its_color_whatever_its_place():
    colors = {"tumor": label_color(1), "liver": label_color(2)}
    assert set(colors.values()) <= colors_in(draw_training(VALUES, {}, colors))
    assert label_color(3) not in colors_in(draw_training(VALUES, {}, colors))


def test_classes_without_a_color_get_one_that_is_free():
    found = colors_in(draw_training(VALUES, {}, {"tumor": label_color(1)}))
    assert {label_color(1), label_color(2)} <= found


def test_the_records_of_a_fold_are_drawn_under_its_name():
    records = [{"epoch": 1, "train_loss": 1.0, "seconds": 2.0}, {"epoch": 2, "train_loss": 0.5, "seconds": 2.0}]
    first, second = (draw_records(records, {}, title=f"Fold {fold}") for fold in (0, 1))
    assert first is not None and first.startswith(b"\x89PNG") and first != second
    assert draw_records([], {}, title="") is None
    assert draw_records([{"epoch": 1, "train_loss": None}], {}, title="") is None
