"""What dataset.json may say about labels, and what follows from it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from samunet.core.labels import Labels, left_right_pairs, parse_labels
from samunet.errors import DatasetError

BRATS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def test_classes_get_one_output_each_with_background():
    labels = parse_labels({"background": 0, "liver": 1, "tumor": 2})
    assert labels.outputs == 3 and labels.all_values == (0, 1, 2) and not labels.has_regions and labels.ignore is None
    assert labels.foreground == (("liver", (1,)), ("tumor", (2,))) and labels.expected_in_files == (0, 1, 2)


def test_background_comes_first_wherever_it_is_written_and_the_others_keep_their_order():
    labels = parse_labels({"tumor": 2, "background": 0, "liver": 1})
    assert [name for name, _ in labels.values] == ["background", "tumor", "liver"]


def test_regions_get_one_output_each_without_background_and_keep_their_order():
    labels = parse_labels(BRATS, [1, 2, 3])
    assert (
        labels.has_regions
        and labels.outputs == 3
        and labels.regions_order == (1, 2, 3)
        and labels.all_values == (0, 1, 2, 3)
    )
    assert labels.foreground == (("whole", (1, 2, 3)), ("core", (2, 3)), ("enhancing", (3,)))


def test_the_ignore_label_has_no_output_but_may_stand_in_files():
    labels = parse_labels({"background": 0, "liver": 1, "ignore": 2})
    assert (
        labels.ignore == 2
        and labels.outputs == 2
        and labels.all_values == (0, 1)
        and labels.expected_in_files == (0, 1, 2)
    )
    assert [name for name, _ in labels.foreground] == ["liver"]
    with_regions = parse_labels({**BRATS, "ignore": 4}, [1, 2, 3])
    assert with_regions.ignore == 4 and with_regions.outputs == 3


def test_lists_of_one_value_are_classes():
    labels = parse_labels({"background": 0, "a": [1], "b": [2]})
    assert not labels.has_regions and labels.outputs == 3


@pytest.mark.parametrize("count,kind", [(254, np.uint8), (255, np.uint16)])
def test_segmentations_take_two_bytes_from_255_structures_on(count, kind):
    labels = parse_labels({"background": 0, **{f"s{i}": i for i in range(1, count + 1)}})
    assert labels.segmentation_dtype() is kind and labels.outputs == count + 1


@pytest.mark.parametrize(
    "raw,order,message",
    [
        ({"liver": 1}, None, 'must contain "background": 0'),
        ({"background": 1, "liver": 0}, None, 'must contain "background": 0'),
        ({"background": [0, 1], "liver": 1}, None, 'must contain "background": 0'),
        ({"background": 0, "liver": 2}, None, r"must be consecutive from 0; got \[0, 2\]"),
        ({"background": 0, "whole": [1, 3], "core": 3}, [1, 3], r"consecutive from 0; got \[0, 1, 3\]"),
        ({"background": 0}, None, "nothing but background"),
        ({"background": 0, "liver": 1, "ignore": 3}, None, "ignore label must be 2, one above all others; got 3"),
        ({"background": 0, "liver": 1, "ignore": 1}, None, "ignore label must be 2, one above all others; got 1"),
        ({"background": 0, "liver": 1, "ignore": [2, 3]}, None, "ignore label must be one number"),
        ({"background": 0, "liver": "1"}, None, "label 'liver' must be a whole number from 0 up"),
        ({"0": "background", "1": "liver"}, None, r"label '0' must be a whole number .* The form is name: value"),
        ({"background": 0, "liver": -1}, None, "label 'liver' must be a whole number from 0 up"),
        ({"background": 0, "liver": 1.0}, None, "label 'liver' must be a whole number from 0 up"),
        ({"background": 0, "liver": True}, None, "label 'liver' must be a whole number from 0 up"),
        ({"background": 0, "liver": []}, None, "label 'liver' must be a whole number from 0 up"),
        (BRATS, None, "regions_class_order must list 3 label values, one for each region in turn; got None"),
        (BRATS, [1, 2], r"must list 3 label values, .* got \[1, 2\]"),
        (BRATS, [1, 2, "3"], r"must list label values, .* got \[1, 2, '3'\]"),
        (BRATS, [True, 2, 3], r"must list label values, .* got \[True, 2, 3\]"),
        ({"background": 0, "liver": 1}, "abc", "must list label values, .* got 'abc'"),
        (
            {"background": 0, "liver": 1, "tumor": 1},
            None,
            r"labels 'liver' and 'tumor' both have the values \[1\]; remove or renumber one",
        ),
        ({**BRATS, "tumor": [3, 2, 1]}, [1, 2, 3, 1], r"labels 'whole' and 'tumor' both have the values \[3, 2, 1\]"),
        ({"background": 0, "liver": 65536}, None, "label 'liver' must be a whole number from 0 up, 65535 at most"),
        (
            {"background": 0} | {f"s{i}": i for i in range(1, 100_000)},
            None,
            "labels name 100000 .* more than 4096 need more memory",
        ),
    ],
)
def test_labels_that_contradict_nnunets_rules_are_refused_in_one_sentence(raw, order, message):
    with pytest.raises(DatasetError, match=message):
        parse_labels(raw, order)


def test_an_order_without_regions_is_not_needed_and_not_used():
    assert parse_labels({"background": 0, "liver": 1}, [1]) == Labels(values=(("background", (0,)), ("liver", (1,))))


def test_left_and_right_are_read_from_names():
    names = [
        "Left Lung",
        "Right Lung",
        "kidney_l",
        "kidney_r",
        "lh-amygdala",
        "rh-amygdala",
        "LeftEye",
        "RightEye",
        "heart",
        "left atrium",
        "leftover",
    ]
    assert left_right_pairs(parse_labels({"background": 0, "肾_left": 1, "肝_right": 2})) == ()
    pairs = left_right_pairs(parse_labels({"background": 0} | {name: value for value, name in enumerate(names, 1)}))
    assert [(left[0], right[0]) for left, right in pairs] == [
        ("Left Lung", "Right Lung"),
        ("kidney_l", "kidney_r"),
        ("lh-amygdala", "rh-amygdala"),
        ("LeftEye", "RightEye"),
    ]


def test_no_loop_looks_at_each_of_the_millions_of_values_that_nested_regions_list():
    """Python's own calls and steps of its loops, counted: they grow with the regions, not with what these list."""

    def steps(regions, listed):
        numbers = list(range(1, regions + 1))
        raw = {"background": 0} | {f"r{i}": numbers[:i] * (listed if i == regions else 1) for i in numbers}
        events = []
        sys.setprofile(lambda frame, event, argument: events.append(event))
        try:
            assert len(parse_labels(raw, numbers).all_values) == regions + 1
        finally:
            sys.setprofile(None)
        return len(events)

    assert steps(40, 1000) == steps(40, 1) < 40 * 40
