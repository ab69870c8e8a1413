"""Plans files are read strictly, may inherit, and name what is wrong."""

from __future__ import annotations

import copy
import json

import pytest

from samunet.core.codec import encode
from samunet.core.plan import load_plan, parse_configuration_name, save_plan
from samunet.errors import ConfigError

STATISTICS = {
    "mean": 1.0,
    "median": 1.0,
    "std": 1.0,
    "minimum": 0.0,
    "maximum": 2.0,
    "percentile_00_5": 0.0,
    "percentile_99_5": 2.0,
}
CONFIGURATION = {
    "variant": "sam_unet",
    "dimensions": 3,
    "data_identifier": "samunetPlans_3d",
    "spacing": [2.5, 1.0, 1.0],
    "median_shape": [20.0, 64.5, 64.0],
    "patch_size": [8, 64, 64],
    "batch_size": 2,
    "backbone": "vit_nano",
    "weights": None,
    "weights_sha256": None,
    "encoder_scale": 2.0,
    "topology": {"strides": [[1, 1, 1], [1, 2, 2]], "kernels": [[1, 3, 3], [3, 3, 3]], "widths": [24, 48]},
    "mirror_axes": [0, 1, 2],
    "variant_options": {},
}
PLAN = {
    "dataset": "Dataset004_Hippocampus",
    "plans_name": "samunetPlans",
    "reader": "SimpleITKIO",
    "memory_gib": 8.0,
    "precision": "mixed",
    "asked_spacing": None,
    "transpose": [0, 1, 2],
    "channels": [{"name": "CT", "scheme": "ct", "within_mask": False, "intensities": STATISTICS}],
    "configurations": {"3d_adapter": CONFIGURATION},
    "reasons": {"spacing": "because"},
    "orientation": "SPL",
    "seen": {
        "orientations": {"SPL": 3},
        "spacing": [[1.0, 1.0, 1.0], [2.0, 1.0, 1.0]],
        "extent": [[30.0, 64.0, 64.0], [60.0, 64.0, 64.0]],
        "intensities": [[-1000.0, 800.0]],
        "narrowest": [900.0],
    },
    "measured": True,
}


def load(tmp_path, **configurations):
    raw = copy.deepcopy(PLAN)
    raw["configurations"].update(configurations)
    (tmp_path / "samunetPlans.json").write_text(json.dumps(raw))
    return load_plan(tmp_path / "samunetPlans.json")


def test_a_saved_plan_comes_back_equal_and_in_equal_bytes(tmp_path):
    plan = load(tmp_path)
    for name in ("one.json", "two.json"):
        save_plan(tmp_path / name, plan)
    assert load_plan(tmp_path / "one.json") == plan and json.loads(json.dumps(encode(plan))) == PLAN
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.parametrize("change", [{"intensities": []}, {"narrowest": [1.0, 2.0]}])
def test_what_was_seen_is_told_of_each_channel(tmp_path, change):
    raw = PLAN | {"seen": PLAN["seen"] | change}
    (tmp_path / "samunetPlans.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match="seen must tell intensities, and narrowest .*each of the 1 channels; got"):
        load_plan(tmp_path / "samunetPlans.json")
    earlier = PLAN | {"seen": {name: value for name, value in PLAN["seen"].items() if name != "narrowest"}}
    (tmp_path / "samunetPlans.json").write_text(json.dumps(earlier))
    assert load_plan(tmp_path / "samunetPlans.json").seen.narrowest == ()


def test_a_configuration_inherits_and_overrides(tmp_path):
    plan = load(
        tmp_path,
        small={"inherits_from": "3d_adapter", "batch_size": 4},
        smaller={"inherits_from": "small", "patch_size": [4, 32, 32]},
    )
    small, smaller, parent = (plan.configuration(name) for name in ("small", "smaller", "3d_adapter"))
    assert small.batch_size == 4 and small.patch_size == parent.patch_size == (8, 64, 64)
    assert smaller.batch_size == 4 and smaller.patch_size == (4, 32, 32) and smaller.topology == parent.topology


def test_an_overridden_object_replaces_the_parents_whole(tmp_path):
    # nnU-Net's dict.update does not merge deeper either
    with pytest.raises(ConfigError, match=r"configurations\.small\.topology: key 'strides' is missing"):
        load(tmp_path, small={"inherits_from": "3d_adapter", "topology": {"widths": [8, 16]}})


def test_inheritance_in_a_circle_is_shown(tmp_path):
    with pytest.raises(ConfigError, match=r"samunetPlans\.json: configurations inherit in a circle: a -> b -> a\."):
        load(tmp_path, a={"inherits_from": "b"}, b={"inherits_from": "a"})
    with pytest.raises(ConfigError, match="in a circle: a -> a"):
        load(tmp_path, a={"inherits_from": "a"})


def test_an_absent_parent_names_the_nearest(tmp_path):
    with pytest.raises(
        ConfigError, match=r"'a' inherits from '3d_adaptre', which is absent\. Did you mean '3d_adapter'\?"
    ):
        load(tmp_path, a={"inherits_from": "3d_adaptre"})


@pytest.mark.parametrize("parent", [3, ["3d_adapter"], None])
def test_a_parent_that_is_no_name_is_refused(tmp_path, parent):
    with pytest.raises(ConfigError, match=r"configurations\.a\.inherits_from must be the name of a configuration"):
        load(tmp_path, a={"inherits_from": parent})


def test_a_parent_that_is_no_object_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"configurations\.\w+: expected an object; got 3"):
        load(tmp_path, broken=3, a={"inherits_from": "broken"})


def test_an_unknown_key_is_refused_with_its_path(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"samunetPlans\.json\.configurations\.a: unknown key 'patchsize'\. Did you mean 'patch_size'\?",
    ):
        load(tmp_path, a={"inherits_from": "3d_adapter", "patchsize": [8, 8, 8]})


def test_a_wrong_type_is_refused_with_its_path(tmp_path):
    with pytest.raises(
        ConfigError, match=r"samunetPlans\.json\.configurations\.a\.patch_size\[1\]: expected a whole number; got 64\.5"
    ):
        load(tmp_path, a={"inherits_from": "3d_adapter", "patch_size": [8, 64.5, 64]})


@pytest.mark.parametrize("raw", [[], {"configurations": []}, 3])
def test_a_file_that_is_no_plan_is_refused(tmp_path, raw):
    (tmp_path / "plan.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=r"^plan\.json"):
        load_plan(tmp_path / "plan.json")


@pytest.mark.parametrize(
    "name,expected",
    [
        ("3d_adapter", (3, "sam_unet")),
        ("2d_adapter", (2, "sam_unet")),
        ("2d_samed", (2, "samed")),
        ("3d_ma_sam", (3, "ma_sam")),
        ("3d_sam_unet", (3, "sam_unet")),
    ],
)
def test_a_configuration_name_holds_dimensions_and_method(name, expected):
    assert parse_configuration_name(name) == expected


@pytest.mark.parametrize("name", ["adapter", "4d_adapter", "3D_adapter", "3d_", "3d", "3d-adapter", ""])
def test_other_forms_of_name_are_refused_with_an_example(name):
    with pytest.raises(
        ConfigError, match=rf"Configuration '{name}' must be named 2d_<method> or 3d_<method>, for example 3d_adapter"
    ):
        parse_configuration_name(name)


@pytest.mark.parametrize(("name", "meant"), [("2d", "2d_adapter"), ("3d", "3d_adapter"), ("3D_adapter", "3d_adapter")])
def test_nnunets_short_names_are_told_their_twin(name, meant):
    with pytest.raises(ConfigError, match=rf"Did you mean '{meant}', the default method\?"):
        parse_configuration_name(name)


@pytest.mark.parametrize("name", ["3d_lowres", "3d_cascade_fullres"])
def test_low_resolution_says_why_there_is_none_and_what_to_use(tmp_path, name):
    sentence = (
        rf"'{name}' does not exist: samunet has no cascade and no low-resolution configuration, because SAM sees whole "
        r"planes.*use 3d_adapter"
    )
    with pytest.raises(ConfigError, match=sentence):
        parse_configuration_name(name)
    with pytest.raises(ConfigError, match=sentence):
        load(tmp_path).configuration(name)


def test_an_unknown_configuration_names_the_nearest(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"'samunetPlans' of Dataset004_Hippocampus has no configuration '3d_adpter'\. "
        r"Did you mean '3d_adapter'\? Known: 3d_adapter\.",
    ):
        load(tmp_path).configuration("3d_adpter")


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("memory_gib", -8, r"memory_gib: expected a number from 0\.01 to 1000000; got -8"),
        ("precision", "bf8", 'precision: expected one of mixed, fp32; got "bf8"'),
        ("asked_spacing", "123", 'asked_spacing: expected a list; got "123"'),
        ("transpose", [0, 0, 1], r"transpose must hold the axes 0, 1 and 2, each once; got \[0, 0, 1\]"),
        ("transpose", [0, 1, 3], r"transpose\[2\]: expected a number from 0 to 2; got 3"),
        ("channels.0.intensities.std", 0, "std must fit the percentiles, which lie 2.0 apart; got 0.0"),
        ("channels.0.intensities.std", -1, r"intensities\.std: expected a number from 0 .*; got -1"),
        ("channels.0.intensities.std", 10**12, "std must not exceed the distance from minimum to maximum, 2.0"),
        (
            "channels.0.intensities.percentile_00_5",
            2.5,
            "percentile_00_5 must lie between minimum 0.0 and maximum 2.0; got 2.5",
        ),
        ("configurations", {}, "configurations must hold one or more; got none"),
        ("configurations.3d_adapter.dimensions", 7, r"3d_adapter\.dimensions: expected a number from 2 to 3; got 7"),
        (
            "configurations.3d_adapter.spacing.1",
            0,
            r"3d_adapter\.spacing\[1\]: expected a number from 1e-09 to 1000000000; got 0",
        ),
        ("configurations.3d_adapter.spacing.1", float("nan"), r"3d_adapter\.spacing\[1\]: expected a number; got NaN"),
        (
            "configurations.3d_adapter.patch_size.2",
            -40,
            r"3d_adapter\.patch_size\[2\]: expected a number from 1 to 2147483647; got -40",
        ),
        (
            "configurations.3d_adapter.patch_size.2",
            10**12,
            r"3d_adapter\.patch_size\[2\]: expected a number from 1 to 2147483647; got 1000000000000",
        ),
        (
            "configurations.3d_adapter.patch_size",
            [8, 8192, 8192],
            r"patch_size must have 268435456 voxels or fewer in all; got \[8, 8192, 8192\]",
        ),
        (
            "configurations.3d_adapter.batch_size",
            -1,
            r"3d_adapter\.batch_size: expected a number from 1 to 65536; got -1",
        ),
        (
            "configurations.3d_adapter.encoder_scale",
            0,
            r"3d_adapter\.encoder_scale: expected a number from 0\.001 to 64; got 0",
        ),
        (
            "configurations.3d_adapter.weights_sha256",
            "abc",
            'weights_sha256: expected 64 hexadecimal digits; got "abc"',
        ),
        ("configurations.3d_adapter.mirror_axes", [0, 7], r"mirror_axes\[1\]: expected a number from 0 to 2; got 7"),
        (
            "configurations.3d_adapter.mirror_axes",
            [1, 1],
            r"mirror_axes must hold each axis once, and axis 0 in 3D only; got \[1, 1\]",
        ),
        (
            "configurations.3d_adapter.topology.strides",
            [[2, 1, 1], [1, 2, 2]],
            r"first of strides must be 1, 1, 1; got \[2, 1, 1\]",
        ),
        (
            "configurations.3d_adapter.topology.strides",
            [[1, 1, 1]],
            r"one entry per stage, for 1 to 16 stages; they have \[1, 2, 2\]",
        ),
        (
            "configurations.3d_adapter.topology.kernels.0.1",
            2,
            "kernels must be of odd numbers, so that they have a middle; got 2",
        ),
        (
            "configurations.3d_adapter.topology.widths.0",
            0,
            r"topology\.widths\[0\]: expected a number from 1 to 4096; got 0",
        ),
    ],
)
def test_a_value_out_of_range_is_refused_with_file_key_range_and_value(tmp_path, where, value, message):
    raw = copy.deepcopy(PLAN)
    *parents, last = where.split(".")
    target = raw
    for key in parents:
        target = target[int(key) if isinstance(target, list) else key]
    target[int(last) if isinstance(target, list) else last] = value
    (tmp_path / "samunetPlans.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=rf"^samunetPlans\.json.*{message}"):
        load_plan(tmp_path / "samunetPlans.json")


def test_flat_patches_and_their_axes_go_together(tmp_path):
    flat = {**CONFIGURATION, "dimensions": 2, "patch_size": [1, 64, 64]}
    with pytest.raises(ConfigError, match=r"2d_adapter: mirror_axes must hold .* axis 0 in 3D only; got \[0, 1, 2\]"):
        load(tmp_path, **{"2d_adapter": flat})
    with pytest.raises(ConfigError, match=r"2d_adapter: a 2D configuration has patches of one slice, .*; got 8"):
        load(tmp_path, **{"2d_adapter": {**flat, "patch_size": [8, 64, 64]}})
    assert load(tmp_path, **{"2d_adapter": {**flat, "mirror_axes": [2, 1]}}).configuration(
        "2d_adapter"
    ).mirror_axes == (2, 1)


ODD = (
    None,
    True,
    -1,
    10**12,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "123",
    "\0",
    [],
    [1],
    [0, 0, 0],
    {},
    {"a": 1},
    [[1, 1, 1]],
)


def places(value, path=()):
    yield path
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(part, (*path, key))


def test_any_value_replaced_by_an_odd_one_is_read_or_refused_by_the_file_name(tmp_path):
    tried, refused = 0, 0
    for *parents, last in (path for path in places(PLAN) if path):
        for value in ODD:
            raw = copy.deepcopy(PLAN)
            target = raw
            for key in parents:
                target = target[key]
            target[last] = value
            (tmp_path / "p.json").write_text(json.dumps(raw))
            tried += 1
            try:
                load_plan(tmp_path / "p.json")
            except ConfigError as error:
                assert str(error).startswith("p.json") and "\n" not in str(error)
                refused += 1
    assert tried > 1000 and refused > 0.9 * tried
