"""One color a class, no two alike."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from skimage.color import rgb2lab

from samunet.core.labels import parse_labels
from samunet.evaluation.colors import as_hex, class_colors, label_color, palette, spare_color


@pytest.mark.parametrize(("count", "apart"), [(40, 20), (117, 15), (255, 10)])
def test_colors_of_many_classes_look_different(count, apart):
    """In CIELAB, where two is about what an eye can tell apart."""
    places = rgb2lab(np.array([label_color(value) for value in range(1, count + 1)]) / 255)
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(places, 2)) > apart


def test_no_two_values_share_a_color_and_none_is_grey():
    assert len(set(palette())) == len(palette()) > 1000
    assert all(max(color) - min(color) > 40 for color in palette())


def test_the_first_colors_are_those_of_okabe_and_ito():
    assert [as_hex(label_color(value)) for value in (1, 2, 7)] == ["#e69f00", "#56b4e9", "#0072b2"]


def test_classes_have_the_colors_of_their_values_in_whatever_order_they_are_named():
    labels = parse_labels({"tumor": 2, "background": 0, "liver": 1, "ignore": 3})
    assert class_colors(labels) == {"tumor": label_color(2), "liver": label_color(1)}
    assert labels.names_of_values == {1: "liver", 2: "tumor", 3: "ignore"}


def test_regions_have_the_colors_of_what_is_written_for_them():
    raw = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    labels = parse_labels(raw, [1, 2, 3])
    assert class_colors(labels) == {"whole": label_color(1), "core": label_color(2), "enhancing": label_color(3)}
    assert labels.names_of_values == {1: "whole", 2: "core", 3: "enhancing"}
    twice = class_colors(parse_labels(raw, [1, 2, 2]))
    assert len(set(twice.values())) == 3


def test_methods_have_colors_that_no_class_has():
    labels = parse_labels({"background": 0, "a": 1, "b": 2, "ignore": 3})
    spare = [spare_color(labels, index) for index in range(12)]
    assert len({*spare, *map(label_color, (1, 2, 3))}) == 15
