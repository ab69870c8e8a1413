"""Data of many kinds get patches as large as nnU-Net's (benchmarks/plans.py, which ran nnU-Net's own planner)."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from samunet.core.dataset import DatasetSpec
from samunet.core.fingerprint import CaseFingerprint, ClassSize, Fingerprint, IntensityStatistics
from samunet.core.labels import parse_labels
from samunet.pipeline.estimating import planned_method
from samunet.planning.extract import FINGERPRINT_FORMAT
from samunet.planning.planners.default import Target, plan
from samunet.sam.backbones import backbone_named

STORED = json.loads((Path(__file__).parents[2] / "benchmarks/results/plans.json").read_text())
STATISTICS = IntensityStatistics(
    mean=0.0, median=0.0, std=1.0, minimum=0.0, maximum=1.0, percentile_00_5=0.0, percentile_99_5=1.0
)


def fingerprint_of(kind: dict) -> Fingerprint:
    each = [(tuple(spacing), tuple(shape)) for spacing, shape, count in kind["cases"] for _ in range(count)]
    sizes = [
        ClassSize(
            name=name,
            values=(value,),
            cases=1,
            in_plane_mm=(diameter,) * 3,
            width_mm=(width,) * 3,
            extent_mm=(diameter,) * 3,
        )
        for value, (name, (diameter, width)) in enumerate(kind["classes"].items(), start=1)
    ]
    return Fingerprint(
        dataset="Dataset001_Kind",
        planar=kind["planar"],
        cases={
            f"c{index}": CaseFingerprint(
                spacing=spacing,
                shape=shape,
                shape_after_crop=shape,
                orientation="SPL",
                foreground_slices=1,
                intensity_ranges=((0.0, 1.0),) * kind["channels"],
                labels_present=(1,),
                sha256={},
            )
            for index, (spacing, shape) in enumerate(each)
        },
        intensities=(STATISTICS,) * kind["channels"],
        median_relative_size_after_crop=1.0,
        classes=tuple(sizes),
        ignore=None,
        format=FINGERPRINT_FORMAT,
    )


def spec_of(kind: dict) -> DatasetSpec:
    return DatasetSpec(
        name="Dataset001_Kind",
        channels=("MR",) * kind["channels"],
        labels=parse_labels({"background": 0} | {label: value for value, label in enumerate(kind["classes"], start=1)}),
        file_ending=".nii.gz",
        num_training=1,
        reader=None,
        raw={},
    )


def target(backbone: str) -> Target:
    return Target(
        memory_gib=STORED["memory_gib"],
        backbone=backbone,
        backbone_reason="",
        plans_name="samunetPlans",
        reader="",
    )


@pytest.mark.parametrize("row", STORED["rows"], ids=lambda row: row["name"].split(":")[0].replace(" ", "_"))
def test_the_default_sees_at_least_what_nnunet_sees(row):
    kind, name = row["kind"], row["ours"]["configuration"]
    spec, aim = spec_of(kind), target(STORED["backbone"])
    method = planned_method(name, spec, backbone_named(STORED["backbone"]), pretrained=False)
    made = plan(fingerprint_of(kind), spec, aim, {name: method})
    configuration = made.configuration(name)
    assert math.prod(configuration.patch_size) >= 0.7 * math.prod(row["nnunet"]["patch"])
    assert (
        list(configuration.patch_size) == row["ours"]["patch"]
        and configuration.encoder_scale == row["ours"]["encoder_scale"]
    )


@pytest.mark.parametrize("row", STORED["rows"], ids=lambda row: row["name"].split(":")[0].replace(" ", "_"))
def test_with_sams_weights_too_and_activations_are_computed_twice_only_where_the_patch_needs_it(row):
    spec, name, aim = spec_of(row["kind"]), row["ours"]["configuration"], target("vit_b")
    method = planned_method(name, spec, backbone_named("vit_b"), pretrained=True)
    made = plan(fingerprint_of(row["kind"]), spec, aim, {name: method})
    configuration = made.configuration(name)
    assert math.prod(configuration.patch_size) >= 0.6 * math.prod(row["nnunet"]["patch"])
    assert list(configuration.patch_size) == row["vit_b"]["planned"]["patch"]
    kept = plan(fingerprint_of(row["kind"]), spec, aim, {name: replace(method, sparing=None)}).configuration(name)
    if configuration.variant_options:
        assert (
            configuration.variant_options == {"checkpointing": True} and "more time" in made.reasons[f"{name}: options"]
        )
        assert math.prod(kept.patch_size) < math.prod(configuration.patch_size)
    else:
        assert configuration == kept and f"{name}: options" not in made.reasons


def test_the_table_holds_kinds_that_broke_plans_before():
    kinds = [row["kind"] for row in STORED["rows"]]
    assert len(kinds) >= 12 and {kind["planar"] for kind in kinds} == {True, False}
    smallest = [min(size[0] for size in kind["classes"].values()) for kind in kinds]
    assert min(smallest) < 3 and any(
        width < 0.1 * diameter for kind in kinds for diameter, width in kind["classes"].values()
    )
    assert any(len(kind["classes"]) > 100 for kind in kinds)
