"""Every decision of a plan: by hand, by its limits, and with its reason."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samunet.core.codec import encode
from samunet.core.dataset import DatasetSpec
from samunet.core.fingerprint import CaseFingerprint, ClassSize, Fingerprint, IntensityStatistics
from samunet.core.labels import parse_labels
from samunet.core.plan import Preference
from samunet.errors import PlanningError
from samunet.planning.planners.default import ConvolutionalPath, PlannedMethod, Target, plan
from samunet.planning.topology import divisors

STATISTICS = IntensityStatistics(
    mean=1.0, median=1.0, std=1.0, minimum=0.0, maximum=2.0, percentile_00_5=0.0, percentile_99_5=2.0
)
GIB_A_VOXEL = 1e-6


def spread(middle):
    return middle / 2, middle, middle * 2


def measured(
    spacings, shapes, *, planar=False, crop=1.0, channels=1, diameter_mm=20.0, width_mm=12.0, orientation="SPL"
) -> Fingerprint:
    cases = {
        f"c{i}": CaseFingerprint(
            spacing=tuple(spacing),
            shape=tuple(shape),
            shape_after_crop=tuple(shape),
            orientation=orientation,
            foreground_slices=1,
            intensity_ranges=((0.0, 1.0),) * channels,
            labels_present=(1,),
            sha256={},
        )
        for i, (spacing, shape) in enumerate(zip(spacings, shapes, strict=True))
    }
    size = ClassSize(
        name="a",
        values=(1,),
        cases=len(cases),
        in_plane_mm=spread(diameter_mm),
        width_mm=spread(width_mm),
        extent_mm=(5.0, 10.0, 20.0),
    )
    absent = ClassSize(
        name="b", values=(2,), cases=0, in_plane_mm=(0.0,) * 3, width_mm=(0.0,) * 3, extent_mm=(0.0,) * 3
    )
    return Fingerprint(
        dataset="Dataset001_X",
        planar=planar,
        cases=cases,
        intensities=(STATISTICS,) * channels,
        median_relative_size_after_crop=crop,
        classes=(size, absent),
        ignore=None,
        format=1,
    )


def dataset(*channels: str, names=("a", "b")) -> DatasetSpec:
    labels = parse_labels({"background": 0} | {name: value for value, name in enumerate(names, 1)})
    return DatasetSpec(
        name="Dataset001_X",
        channels=channels or ("CT",),
        labels=labels,
        file_ending=".nii.gz",
        num_training=1,
        reader=None,
        raw={},
    )


def target(**changes) -> Target:
    return Target(
        **{
            "backbone": "vit_nano",
            "backbone_reason": "because",
            "plans_name": "samunetPlans",
            "reader": "SimpleITKIO",
            **changes,
        }
    )


def voxels_cost(topology, patch, scale, batch):
    return batch * math.prod(patch) * GIB_A_VOXEL


def methods(
    *, cost=voxels_cost, preferred=lambda topology, patch, smallest: (Preference(scale=2.0, reason="two is enough"),)
):
    return {
        f"{dimensions}d_adapter": PlannedMethod(
            variant="sam_unet", dimensions=dimensions, preferred=preferred, cost=cost
        )
        for dimensions in (3, 2)
    }


def made(fingerprint, spec=None, aim=None, **options):
    return plan(fingerprint, spec or dataset(), aim or target(), methods(**options))


def sam_unet(memory_gib, fingerprint):
    """A plan with the default method's own memory estimate."""
    from samunet.models.spec import NetworkSpec
    from samunet.sam.backbones import backbone_named
    from samunet.variants import sam_unet as variant

    def cost(topology, patch, scale, batch):
        spec = NetworkSpec(
            schemes=("ct",),
            labels=dataset().labels,
            spacing=(1.0, 1.0, 1.0),
            patch_size=patch,
            encoder_scale=scale,
            topology=topology,
            pretrained=False,
        )
        return variant.cost(spec, backbone_named("vit_tiny"), batch, variant.Config())

    return made(fingerprint, aim=target(memory_gib=memory_gib), cost=cost, preferred=variant.preferred), cost


def test_the_spacing_is_the_median_of_the_cases():
    found = made(measured([(2, 1, 1), (3, 1, 1), (2.5, 0.8, 1.2)], [(100, 100, 100)] * 3))
    assert found.configurations["3d_adapter"].spacing == (2.5, 1.0, 1.0) and found.transpose == (0, 1, 2)


def test_few_thick_slices_take_the_10th_percentile_across_them():
    # median (5, 1, 1): 5 > 3 * 1, and 20 * 3 < 100; 10th percentile of 4, 5, 5, 5, 10 is 4 + 0.4 * 1
    found = made(measured([(s, 1, 1) for s in (4, 5, 5, 5, 10)], [(20, 100, 100)] * 5))
    assert found.configurations["3d_adapter"].spacing == pytest.approx((4.4, 1.0, 1.0))
    assert "10th percentile, 4.4 mm" in found.reasons["spacing"]


def test_thick_slices_that_are_many_keep_the_median():
    found = made(measured([(s, 1, 1) for s in (4, 5, 5, 5, 10)], [(34, 100, 100)] * 5))  # 34 * 3 is not below 100
    assert (
        found.configurations["3d_adapter"].spacing == (5.0, 1.0, 1.0) and "percentile" not in found.reasons["spacing"]
    )


def test_slices_never_become_thinner_than_the_pixels_are_wide():
    spacings = [(0.5, 1, 1), (0.5, 1, 1), (4, 1, 1), (4, 1, 1), (4, 1, 1)]
    assert made(measured(spacings, [(20, 100, 100)] * 5)).configurations["3d_adapter"].spacing == pytest.approx(
        (1.0 + 1e-5, 1, 1), abs=1e-9
    )


@pytest.mark.parametrize("axis,transpose", [(0, (0, 1, 2)), (1, (1, 0, 2)), (2, (2, 0, 1))])
def test_the_axis_of_largest_spacing_comes_first(axis, transpose):
    spacing, shape = [0.7, 0.8, 0.9], [60, 70, 80]
    spacing[axis], shape[axis] = 2.5, 30
    found = made(measured([spacing], [shape]))
    configuration = found.configurations["3d_adapter"]
    assert found.transpose == transpose
    assert configuration.spacing == tuple(spacing[i] for i in transpose) and configuration.median_shape == tuple(
        float(shape[i]) for i in transpose
    )
    assert f"file axis {axis}" in found.reasons["slicing axis"]


def test_a_spacing_that_is_asked_for_is_taken_in_the_files_axis_order():
    found = made(measured([(1, 1, 2)], [(40, 50, 60)]), aim=target(spacing=(1.0, 1.0, 4.0)))
    configuration = found.configurations["3d_adapter"]
    assert (
        found.transpose == (2, 0, 1)
        and configuration.spacing == (4.0, 1.0, 1.0)
        and configuration.median_shape == (30.0, 40.0, 50.0)
    )
    assert "-overwrite_target_spacing" in found.reasons["spacing"]


def test_median_shapes_are_those_after_resampling():
    # at 1.5 mm: 100 * 1 / 1.5 = 66.67 -> 67 and 100 * 2 / 1.5 = 133.3 -> 133; median 100
    found = made(measured([(1, 1, 1), (2, 2, 2)], [(100, 100, 100)] * 2))
    assert found.configurations["3d_adapter"].median_shape == (100.0, 100.0, 100.0)


def test_2d_data_have_no_3d_configuration_and_are_not_transposed():
    found = made(measured([(1, 2, 3)] * 3, [(1, 200, 100)] * 3, planar=True))
    assert list(found.configurations) == ["2d_adapter"] and found.transpose == (0, 1, 2)
    configuration = found.configurations["2d_adapter"]
    assert (
        configuration.patch_size[0] == 1
        and configuration.spacing == (1.0, 2.0, 3.0)
        and configuration.mirror_axes == (1, 2)
    )
    assert configuration.dimensions == 2 and configuration.data_identifier == "samunetPlans_2d"


def test_the_patch_is_the_whole_case_when_it_fits():
    found = made(measured([(1, 1, 1)], [(60, 64, 70)]), aim=target(memory_gib=8.0))
    # 60, 64, 70 -> 30, 32, 35 -> 15, 16, 18 -> 8, 8, 9 -> 4, 4, 5: four halvings, so multiples of 16
    assert found.configurations["3d_adapter"].patch_size == (64, 64, 80)
    assert "the whole median case" in found.reasons["3d_adapter: patch"]
    assert (
        found.configurations["2d_adapter"].patch_size == (1, 64, 80)
        and "the whole median slice" in found.reasons["2d_adapter: patch"]
    )


def test_a_patch_is_cut_to_the_memory_one_stride_at_a_time_from_the_side_that_sticks_out_most():
    found = made(measured([(1, 1, 1)], [(96, 96, 192)]), aim=target(memory_gib=2.0))
    # 96, 96, 192 divide by 16, 16, 32. Two of them need 3.5 GiB; 80, 96, 192 and 80, 80, 192 and 80, 80, 160 still too
    # much
    assert found.configurations["3d_adapter"].patch_size == (64, 80, 160)
    assert "the largest part of a case that fits within 2 GiB" in found.reasons["3d_adapter: patch"]


@pytest.mark.parametrize("name", ["3d_adapter", "2d_adapter"])
def test_more_memory_never_gives_a_smaller_patch_and_the_estimate_stays_below_the_target(name):
    fingerprint = measured([(2.5, 0.8, 0.8)] * 10, [(120, 1400, 1400)] * 10)
    sizes = []
    for memory_gib in (4.0, 24.0):
        found, cost = sam_unet(memory_gib, fingerprint)
        configuration = found.configurations[name]
        need = cost(
            configuration.topology, configuration.patch_size, configuration.encoder_scale, configuration.batch_size
        )
        assert 0 < need <= memory_gib
        assert f"estimated need {need:.1f} GiB at batch {configuration.batch_size}" in found.reasons[f"{name}: patch"]
        sizes.append(configuration.patch_size)
    small, large = sizes
    assert all(a <= b for a, b in zip(small, large, strict=True)) and math.prod(small) < math.prod(large)


def test_a_batch_covers_at_most_5_percent_of_the_voxels_and_fits_the_memory():
    fingerprint = measured([(1, 1, 1)] * 100, [(64, 64, 64)] * 100)
    need_of_one = 64**3 * GIB_A_VOXEL
    assert (
        made(fingerprint, aim=target(memory_gib=100.0)).configurations["3d_adapter"].batch_size == 5
    )  # 5 % of 100 cases
    assert made(fingerprint, aim=target(memory_gib=3.5 * need_of_one)).configurations["3d_adapter"].batch_size == 3
    assert (
        made(replace(fingerprint, cases={"c0": fingerprint.cases["c0"]})).configurations["3d_adapter"].batch_size == 2
    )  # at least


def test_nothing_that_fits_is_an_error_with_the_way_out():
    with pytest.raises(
        PlanningError, match=r"No patch fits 0\.0001 GiB: .* voxels at batch 2 need about .* Raise -gpu_memory_target"
    ):
        made(
            measured([(1, 1, 1)], [(64, 64, 64)]),
            aim=target(memory_gib=1e-4),
            cost=lambda topology, patch, scale, batch: 1.0,
        )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.tuples(*[st.sampled_from([0.3, 0.5, 0.8, 1.0, 1.5, 2.5, 5.0, 10.0])] * 3),
    st.tuples(*[st.integers(1, 300)] * 3),
    st.floats(1e-4, 30),
)
def test_planning_ends_within_its_limits_for_any_data(spacing, shape, memory_gib):
    asked = []

    def cost(topology, patch, scale, batch):
        asked.append(patch)
        assert len(asked) < 3000, "planning runs in a circle"
        return voxels_cost(topology, patch, scale, batch)

    try:
        found = made(measured([spacing], [shape]), aim=target(memory_gib=memory_gib), cost=cost)
    except PlanningError:
        return
    for configuration in found.configurations.values():
        assert voxels_cost(None, configuration.patch_size, None, configuration.batch_size) <= memory_gib
        assert all(
            size % part == 0
            for size, part in zip(configuration.patch_size, divisors(configuration.topology), strict=True)
        )
        assert configuration.batch_size >= 2


def test_the_method_is_told_the_smallest_class_in_voxels():
    told = []

    def preferred(topology, patch, smallest):
        told.append(smallest)
        return (Preference(scale=2.0, reason="x"),)

    made(measured([(2, 0.5, 2)], [(64, 64, 64)], diameter_mm=20.0), preferred=preferred)
    assert set(told) == {20 / math.sqrt(0.5 * 2)}


def test_the_size_of_a_class_is_its_diameter_or_its_width_where_it_is_drawn_out():
    def told(diameter_mm, width_mm):
        sizes = []
        made(
            measured([(1, 1, 1)], [(64, 64, 64)], diameter_mm=diameter_mm, width_mm=width_mm),
            preferred=lambda topology, patch, smallest: sizes.append(smallest) or (Preference(scale=2.0, reason="x"),),
        )
        return sizes[0]

    assert told(20.0, 11.6) == 20.0 and told(180.0, 4.0) == 4.0


def test_channels_choose_their_normalization_and_the_mask_only_z_scores():
    found = made(measured([(1, 1, 1)], [(64, 64, 64)], crop=0.74, channels=3), dataset("T1", "CT", "noNorm"))
    assert [(c.name, c.scheme, c.within_mask) for c in found.channels] == [
        ("T1", "zscore", True),
        ("CT", "ct", False),
        ("noNorm", "none", False),
    ]
    assert "74% of the median case" in found.reasons["normalization"] and found.channels[0].intensities == STATISTICS
    assert not any(
        c.within_mask for c in made(measured([(1, 1, 1)], [(64, 64, 64)], crop=0.75), dataset("T1")).channels
    )


def test_every_decision_has_its_reason():
    found = made(measured([(2, 1, 1)], [(64, 64, 64)]))
    assert set(found.reasons) == {
        "orientation",
        "spacing",
        "slicing axis",
        "mirroring",
        "normalization",
        "backbone",
        *(f"3d_adapter: {what}" for what in ("patch", "slab depth", "batch", "encoder grid")),
        *(f"2d_adapter: {what}" for what in ("patch", "batch", "encoder grid")),
    }
    grid = found.reasons["3d_adapter: encoder grid"]
    assert found.reasons["backbone"] == "because" and grid.startswith("2 encoder pixels per voxel: two is enough")
    assert "the smallest class is 'a'" in grid
    assert "64 slices of 2 mm; the median case has 64" in found.reasons["3d_adapter: slab depth"]
    assert all("\n" not in reason and reason for reason in found.reasons.values())


def mixed() -> Fingerprint:
    """Four cases of (20, 64, 32) voxels at 3 x 1 x 2 mm along S, P, L; the second is stored along R, I, A."""
    found = measured([(3, 1, 2)] * 4, [(20, 64, 32)] * 4)
    other = replace(
        found.cases["c1"], spacing=(2.0, 3.0, 1.0), shape=(32, 20, 64), shape_after_crop=(32, 20, 64), orientation="RIA"
    )
    return replace(found, cases={**found.cases, "c1": other})


def test_cases_on_other_axes_are_planned_as_they_will_be_turned():
    plan, straight = made(mixed()), made(measured([(3, 1, 2)] * 4, [(20, 64, 32)] * 4))
    assert plan.orientation == straight.orientation == "SPL"
    assert plan.configurations == straight.configurations and plan.transpose == straight.transpose
    assert plan.reasons["orientation"].startswith(
        "x, y, z run toward LPS in 3 of 4 cases; the others, AIR (1), are turned"
    )
    assert plan.seen.orientations == {"SPL": 3, "RIA": 1}
    assert plan.seen.spacing == ((3.0, 1.0, 2.0), (3.0, 1.0, 2.0)) and plan.seen.extent[0] == (60.0, 64.0, 64.0)


def test_orientations_stay_where_that_is_asked_for():
    plan = made(mixed(), aim=target(keep_orientation=True))
    assert plan.orientation is None and "as asked for" in plan.reasons["orientation"]
    assert plan.seen.spacing == ((2.0, 1.0, 1.0), (3.0, 3.0, 2.0))


def test_equal_input_gives_equal_json_bytes():
    spacings = np.random.default_rng(0).uniform(0.5, 3, (7, 3)).tolist()
    one, two = (json.dumps(encode(made(measured(spacings, [(50, 60, 70)] * 7)))) for _ in range(2))
    assert one == two and json.loads(one)["configurations"]["3d_adapter"]["variant"] == "sam_unet"


def test_the_default_method_refuses_no_ordinary_scan():
    for spacing, shape in (
        ((5.0, 0.8, 0.8), (30, 512, 512)),
        ((1.0, 1.0, 1.0), (35, 50, 35)),
        ((1.0, 0.5, 0.6), (200, 400, 300)),
    ):
        found, _ = sam_unet(8.0, measured([spacing] * 20, [shape] * 20))
        assert set(found.configurations) == {"3d_adapter", "2d_adapter"}


def test_a_coarser_encoder_is_taken_before_the_patch_is_cut():
    choices = tuple(Preference(scale=scale, reason=f"scale {scale}") for scale in (4.0, 2.0, 1.0))

    def cost(topology, patch, scale, batch):
        return scale * batch * math.prod(patch) / 64**3

    whole = measured([(1, 1, 1)], [(64, 64, 64)])
    plan = made(whole, aim=target(memory_gib=4.5), cost=cost, preferred=lambda *_: choices)
    assert (
        plan.configuration("3d_adapter").patch_size == (64, 64, 64)
        and plan.configuration("3d_adapter").encoder_scale == 2.0
    )
    assert "scale 2.0" in plan.reasons["3d_adapter: encoder grid"]
    small = made(whole, aim=target(memory_gib=1.0), cost=cost, preferred=lambda *_: choices).configuration("3d_adapter")
    assert math.prod(small.patch_size) <= 64**3 / 2 and small.encoder_scale == 1.0


@pytest.mark.parametrize(
    ("slices", "memory_gib", "scale", "told"),
    [
        (2, 4.0, 2.0, ""),
        (8, 16.0, 2.0, ""),
        (8, 15.9, 1.0, "tokens of 8 voxels do not fit 15.9 GiB with this patch 8 times"),
        (8, 2.0, 1.0, "tokens of 8 voxels do not fit 2 GiB with this patch 8 times"),  # the coarsest asks for no eight
    ],
)
def test_a_coarser_encoder_is_taken_before_a_step_has_too_few_slices(slices, memory_gib, scale, told):
    choices = tuple(Preference(scale=scale, reason=f"scale {scale}", slices=slices) for scale in (2.0, 1.0))

    def cost(topology, patch, scale, batch):
        return scale * batch * math.prod(patch) / 64**2

    plan = made(
        measured([(1, 1, 1)] * 20, [(64, 64, 64)] * 20),
        aim=target(memory_gib=memory_gib),
        cost=cost,
        preferred=lambda *_: choices,
    )
    chosen, reason = plan.configuration("2d_adapter"), plan.reasons["2d_adapter: encoder grid"]
    assert chosen.encoder_scale == scale and chosen.patch_size == (1, 64, 64)
    assert reason.endswith(told) and ("times" in reason) == bool(told)


def with_convolutions(
    work, *, cost=voxels_cost, alone=lambda topology, patch, batch: voxels_cost(topology, patch, 1.0, batch)
):
    """A 3D method with tokens of 4, 8 and 16 voxels beside convolutions."""
    choices = tuple(Preference(scale=scale, reason=f"scale {scale}") for scale in (4.0, 2.0, 1.0))
    path = ConvolutionalPath(cost=alone, work=lambda topology, patch, scale: work[scale])
    return {
        "3d_adapter": PlannedMethod(
            variant="sam_unet", dimensions=3, preferred=lambda *_: choices, cost=cost, convolutions=path
        )
    }


def planned(method, memory_gib=8.0, shape=(64, 64, 64)):
    found = plan(measured([(1, 1, 1)], [shape]), dataset(), target(memory_gib=memory_gib), method)
    return (
        found.configuration("3d_adapter"),
        found.reasons["3d_adapter: encoder grid"],
        found.reasons["3d_adapter: patch"],
    )


def test_finer_tokens_are_taken_where_a_step_is_at_most_half_as_dear_again():
    configuration, reason, _ = planned(with_convolutions({4.0: 2.0, 2.0: 1.5, 1.0: 1.0}))
    assert configuration.encoder_scale == 2.0
    assert (
        "tokens of 4 voxels would make a step 2.0 times as dear as tokens of 16 voxels do, and 1.5 is the most"
        in reason
    )
    assert planned(with_convolutions({4.0: 1.4, 2.0: 1.2, 1.0: 1.0}))[0].encoder_scale == 4.0


def test_finer_tokens_never_cost_the_patch():
    def cost(topology, patch, scale, batch):
        return scale * voxels_cost(topology, patch, scale, batch)

    whole = 2 * 64**3 * GIB_A_VOXEL
    configuration, reason, _ = planned(with_convolutions({4.0: 1.0, 2.0: 1.0, 1.0: 1.0}, cost=cost), 1.1 * whole)
    assert configuration.patch_size == (64, 64, 64) and configuration.encoder_scale == 1.0
    assert "tokens of 4 voxels do not fit" in reason


def test_an_encoder_that_costs_much_of_the_patch_gets_no_finer_tokens():
    def cost(topology, patch, scale, batch):
        return 2 * voxels_cost(topology, patch, scale, batch)

    whole = 2 * 64**3 * GIB_A_VOXEL
    configuration, reason, patch = planned(with_convolutions({4.0: 1.0, 2.0: 1.0, 1.0: 1.0}, cost=cost), 1.1 * whole)
    assert math.prod(configuration.patch_size) < 0.9 * 64**3 and configuration.encoder_scale == 1.0
    assert (
        "tokens of 4 voxels are for patches with 90% of the voxels" in reason
        and "the convolutions alone would get 64 x 64 x 64" in patch
    )


def test_a_side_that_is_halved_less_often_when_shorter_is_cut_by_less():
    # 256 = 4 * 64 is followed by 224 = 7 * 32, as in nnU-Net; two patches of 224 x 256 x 1 fit
    found = made(
        measured([(1, 1, 1)], [(1, 256, 256)], planar=True), aim=target(memory_gib=2 * 224 * 256 * GIB_A_VOXEL * 1.01)
    )
    assert sorted(found.configurations["2d_adapter"].patch_size) == [1, 224, 256]


def test_a_method_published_with_few_slices_gets_them():
    few = (Preference(scale=1.0, reason="x", depth=5),)
    plan = made(measured([(1, 1, 1)], [(64, 64, 64)]), preferred=lambda *_: few)
    assert plan.configuration("3d_adapter").patch_size[0] == 5 and plan.configuration("2d_adapter").patch_size[0] == 1
    assert "asks for 5" in plan.reasons["3d_adapter: slab depth"]


@pytest.mark.parametrize(
    ("orientation", "spacing", "expected"),
    [("SPL", (3.0, 1.0, 1.0), (0, 1)), ("LSA", (1.0, 1.0, 3.0), (0, 2)), ("RAI", (4.0, 1.0, 1.0), (1, 2))],
)
def test_labels_for_left_and_right_keep_the_axis_between_them_from_being_flipped(orientation, spacing, expected):
    fingerprint = measured([spacing] * 3, [(30, 60, 60)] * 3, orientation=orientation)
    made = plan(fingerprint, dataset(names=("kidney_left", "kidney_right")), target(), methods())
    full, plane = made.configurations["3d_adapter"].mirror_axes, made.configurations["2d_adapter"].mirror_axes
    assert full == expected and plane == tuple(axis for axis in expected if axis > 0)
    assert "'kidney_left' would become 'kidney_right'" in made.reasons["mirroring"]
    free = plan(fingerprint, dataset(names=("kidney", "liver")), target(), methods())
    assert free.configurations["3d_adapter"].mirror_axes == (0, 1, 2) and "every axis" in free.reasons["mirroring"]


@pytest.mark.parametrize("planar", [True, False])
def test_files_without_a_size_are_planned_in_pixels_and_never_in_mm(planar):
    found = made(
        replace(measured([(1, 1, 1)] * 3, [(1 if planar else 50, 200, 100)] * 3, planar=planar), measured=False)
    )
    assert found.measured is False and found.in_voxels
    assert not [reason for reason in found.reasons.values() if "mm" in reason.split() or " mm" in reason]
    assert f"tell no size of their {'pixels' if planar else 'voxels'}" in found.reasons["spacing"]


def test_a_plan_is_the_same_whatever_the_unit_of_isotropic_pixels():
    one, other = (
        made(measured([(1, size, size)] * 3, [(1, 1200, 900)] * 3, planar=True)).configurations["2d_adapter"]
        for size in (1.0, 0.0005)
    )
    assert (one.patch_size, one.topology, one.batch_size) == (other.patch_size, other.topology, other.batch_size)
    assert other.spacing[1:] == (0.0005, 0.0005)


@pytest.mark.parametrize(("memory_gib", "width"), [(11.9, 24), (12.0, 32), (24.0, 32)])
def test_convolutions_are_as_wide_as_nnunets_from_12_gib_on(memory_gib, width):
    found = made(measured([(1, 1, 1)] * 3, [(100, 100, 100)] * 3), aim=target(memory_gib=memory_gib))
    for configuration in found.configurations.values():
        widths = configuration.topology.widths
        assert widths[0] == width and widths[1] == 2 * width
