"""What preprocessing does to a case, export undoes: in place for every orientation, crop, transpose and spacing."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import small_configuration, small_plan
from scipy.ndimage import gaussian_filter
from skimage.transform import resize
from torch.nn import functional as F

from samunet.core.geometry import Geometry
from samunet.core.labels import parse_labels
from samunet.core.preprocessed import OUTSIDE_NONZERO
from samunet.core.volume import Volume
from samunet.ops.resample import nearest_indices, thick_axis
from samunet.preprocessing.backward import probabilities_from_logits, resize_to_input_grid, segmentation_from_logits
from samunet.preprocessing.forward import preprocess, spacing_before

LABELS = parse_labels({"background": 0, "a": 1, "b": 2, "c": 3})
PERMUTATIONS = list(itertools.permutations(range(3)))
ORIENTATIONS = [(axes, flips) for axes in PERMUTATIONS for flips in itertools.product((False, True), repeat=3)]
SPACING = (3.0, 1.0, 1.5)


def phantom(shape=(14, 36, 28)) -> np.ndarray:
    """Draw three blobs, (D, H, W) uint8, that no rotation or flip maps onto themselves."""
    grid = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n for n in shape], indexing="ij"))
    label = np.zeros(shape, np.uint8)
    blobs = (
        ((0.4, 0.35, 0.3), (0.3, 0.25, 0.2)),
        ((0.6, 0.7, 0.6), (0.25, 0.2, 0.3)),
        ((0.35, 0.75, 0.25), (0.2, 0.15, 0.15)),
    )
    for value, (center, radii) in enumerate(blobs, start=1):
        label[sum(((grid[i] - center[i]) / radii[i]) ** 2 for i in range(3)) < 1] = value
    return label


def stored(label: np.ndarray, axes, flips) -> tuple[Volume, np.ndarray]:
    """A file that stores the phantom with its axes permuted and flipped, its header saying so."""
    label = np.flip(label.transpose(axes), [axis for axis in range(3) if flips[axis]]).copy()
    rows = np.eye(3)[::-1][list(axes)] * np.where(flips, -1.0, 1.0)[:, None]
    geometry = Geometry(
        shape=label.shape,
        spacing=tuple(SPACING[axis] for axis in axes),
        origin=(5.0, -3.0, 7.0),
        direction=tuple(tuple(row) for row in rows.tolist()),
    )
    return Volume(array=(10.0 + label.astype(np.float32))[None], geometry=geometry), label


def logits_of(label: np.ndarray, count: int) -> torch.Tensor:
    return torch.from_numpy(
        np.stack([np.where(label == value, 5.0, -5.0) for value in range(count)]).astype(np.float32)
    )


def dice(one: np.ndarray, two: np.ndarray, value: int) -> float:
    return 2 * ((one == value) & (two == value)).sum() / ((one == value).sum() + (two == value).sum())


@pytest.mark.parametrize("transpose", PERMUTATIONS, ids=str)
def test_every_orientation_and_transpose_comes_back_equal_at_its_own_spacing(transpose):
    assert len(ORIENTATIONS) == 48
    original = phantom()
    for axes, flips in ORIENTATIONS:
        volume, label = stored(original, axes, flips)
        spacing = tuple(volume.geometry.spacing[axis] for axis in transpose)
        case = preprocess(volume, label, small_plan(transpose=transpose), small_configuration(spacing))
        np.testing.assert_array_equal(case.label, label.transpose(transpose))
        np.testing.assert_array_equal(case.image[0], volume.array[0].transpose(transpose))
        back = segmentation_from_logits(logits_of(case.label, 4), case.history, LABELS)
        np.testing.assert_array_equal(back, label)
        assert back.dtype == np.uint8 and back.flags.c_contiguous and case.history.geometry == volume.geometry


@pytest.mark.parametrize("transpose", PERMUTATIONS, ids=str)
def test_every_orientation_is_brought_to_that_of_the_plan_and_back(transpose):
    original = phantom()
    wanted = replace(small_plan(transpose=transpose), orientation="SPL")  # as the phantom itself lies
    spacing = tuple(SPACING[axis] for axis in transpose)
    for axes, flips in ORIENTATIONS:
        volume, label = stored(original, axes, flips)
        case = preprocess(volume, label, wanted, small_configuration(spacing))
        np.testing.assert_array_equal(case.label, original.transpose(transpose))
        np.testing.assert_array_equal(case.image[0], 10.0 + original.transpose(transpose))
        np.testing.assert_array_equal(segmentation_from_logits(logits_of(case.label, 4), case.history, LABELS), label)
        planes = probabilities_from_logits(logits_of(case.label, 4), case.history, LABELS)
        np.testing.assert_array_equal(planes.argmax(axis=0), label)


def test_what_tells_no_direction_is_left_as_it_is():
    volume, label = stored(phantom(), (2, 0, 1), (True, False, True))
    unplaced = Volume(array=volume.array, geometry=replace(volume.geometry, directed=False))
    case = preprocess(
        unplaced, label, replace(small_plan(), orientation="SPL"), small_configuration(volume.geometry.spacing)
    )
    np.testing.assert_array_equal(case.label, label)


@pytest.mark.parametrize("new_spacing", [(2.0, 1.3, 0.8), (1.1, 1.1, 1.1), (2.0, 0.5, 0.6)], ids=str)
def test_every_orientation_comes_back_in_place_after_resampling(new_spacing):
    original = phantom((14, 48, 36))
    for (axes, flips), transpose in zip(ORIENTATIONS, itertools.cycle(PERMUTATIONS), strict=False):
        volume, label = stored(original, axes, flips)
        wanted = [new_spacing[axes[axis]] for axis in transpose]
        case = preprocess(volume, label, small_plan(transpose=transpose), small_configuration(tuple(wanted)))
        old = [volume.geometry.spacing[axis] for axis in transpose]
        assert case.label.shape == tuple(
            round(label.shape[axis] * a / b) for axis, a, b in zip(transpose, old, wanted, strict=True)
        )
        back = segmentation_from_logits(logits_of(case.label, 4), case.history, LABELS)
        assert back.shape == label.shape
        for value in (1, 2, 3):
            assert dice(back, label, value) > 0.95, (axes, flips, transpose, value)


def test_the_phantom_tells_orientations_apart():
    original = phantom((20, 20, 20))
    for axes, flips in ORIENTATIONS[1:]:
        moved = np.flip(original.transpose(axes), [axis for axis in range(3) if flips[axis]])
        assert min(dice(original, moved, value) for value in (1, 2, 3)) < 0.9


def test_an_image_is_cropped_to_what_is_not_zero_and_the_result_fills_the_whole_grid():
    label = phantom((10, 20, 16))
    volume = Volume(array=np.zeros((1, 10, 20, 16), np.float32), geometry=Geometry(shape=(10, 20, 16), spacing=SPACING))
    volume.array[:, 2:9, 3:19, 1:14] = 7.0
    label[:2] = label[9:] = label[:, :3] = label[:, 19:] = label[..., :1] = label[..., 14:] = 0
    case = preprocess(volume, label, small_plan(transpose=(2, 0, 1)), small_configuration((1.5, 3.0, 1.0)))
    assert case.history.crop == ((1, 14), (2, 9), (3, 19)) and case.history.transposed_shape == (16, 10, 20)
    assert (
        case.image.shape == (1, 13, 7, 16) and case.history.shape_after_crop == (13, 7, 16) and (case.image == 7).all()
    )
    np.testing.assert_array_equal(segmentation_from_logits(logits_of(case.label, 4), case.history, LABELS), label)
    everywhere = segmentation_from_logits(
        torch.full((4, 13, 7, 16), -1.0).index_fill(0, torch.tensor([2]), 1.0), case.history, LABELS
    )
    assert (everywhere[2:9, 3:19, 1:14] == 2).all() and (everywhere == 2).sum() == 13 * 7 * 16


def test_inputs_are_not_modified():
    volume, label = stored(phantom(), (0, 1, 2), (False, False, False))
    volume.array[:, :3] = 0
    before = volume.array.copy(), label.copy()
    case = preprocess(
        volume, label, small_plan(scheme="zscore", within_mask=True), small_configuration((3.0, 0.8, 1.2))
    )
    logits = logits_of(case.label, 4)
    kept = logits.clone()
    segmentation_from_logits(logits, case.history, LABELS)
    probabilities_from_logits(logits, case.history, LABELS)
    assert np.array_equal(volume.array, before[0]) and np.array_equal(label, before[1]) and torch.equal(logits, kept)


def test_intensities_are_normalized_before_they_are_resampled():
    rng = np.random.default_rng(0)
    array = np.zeros((1, 8, 40, 40), np.float32)
    array[:, :, 8:32, 8:32] = rng.normal(50, 10, (8, 24, 24))
    volume = Volume(array=array, geometry=Geometry(shape=array.shape[1:], spacing=(1.0, 1.0, 1.0)))
    case = preprocess(volume, None, small_plan(scheme="zscore"), small_configuration((1.0, 0.5, 0.5)))
    inside = array[0, :, 8:32, 8:32]
    wanted = resize(
        ((inside - inside.mean()) / inside.std()).astype(np.float64), (8, 48, 48), 3, mode="edge", anti_aliasing=False
    )
    np.testing.assert_allclose(case.image[0], wanted, atol=1e-4)
    assert case.label is None


def test_outside_is_marked_only_where_a_channel_is_normalized_within_the_mask():
    label = np.zeros((4, 12, 12), np.uint8)
    label[1:3, 5:8, 5:8] = 1
    label[0, 0, 1] = 2  # annotated although the image is zero there
    array = np.zeros((1, 4, 12, 12), np.float32)
    array[:, :, 2:11, 3:10] = np.random.default_rng(0).normal(5, 1, (4, 9, 7))
    array[:, 0, 0, 0] = array[:, 3, 11, 11] = 1  # the box is the whole image
    volume = Volume(array=array, geometry=Geometry(shape=(4, 12, 12), spacing=(1.0, 1.0, 1.0)))
    marked = preprocess(
        volume, label, small_plan(scheme="zscore", within_mask=True), small_configuration((1.0, 1.0, 1.0))
    ).label
    np.testing.assert_array_equal(marked == OUTSIDE_NONZERO, (array[0] == 0) & (label == 0))
    np.testing.assert_array_equal(np.where(marked == OUTSIDE_NONZERO, 0, marked), label)
    assert preprocess(volume, label, small_plan(scheme="zscore"), small_configuration((1.0, 1.0, 1.0))).label.min() == 0


def test_a_2d_configuration_keeps_the_slices_of_a_volume():
    volume, label = stored(phantom(), (0, 1, 2), (False, True, False))
    case = preprocess(volume, label, small_plan(), small_configuration((99.0, 0.8, 1.2), dimensions=2))
    assert case.label.shape == (14, round(36 / 0.8), round(28 * 1.5 / 1.2)) and case.history.spacing_after_resample == (
        3.0,
        0.8,
        1.2,
    )
    back = segmentation_from_logits(logits_of(case.label, 4), case.history, LABELS)
    assert back.shape == label.shape and min(dice(back, label, value) for value in (1, 2, 3)) > 0.95


@pytest.mark.parametrize(
    "pixel,new_pixel",
    [((1.0, 1.0), (0.8, 0.7)), ((4.0, 3.9), (2.0, 3.0)), ((0.2, 0.2), (0.3, 0.3)), ((4.0, 1.0), (2.0, 1.3))],
)
def test_a_2d_image_is_interpolated_along_both_sides_whatever_its_pixel_size(pixel, new_pixel):
    # its spacing along D means nothing, so neither side may count as thick slices beside it
    label = phantom((1, 36, 28))
    image = np.random.default_rng(0).normal(10, 1, (1, 1, 36, 28)).astype(np.float32)
    geometry = Geometry(shape=(1, 36, 28), spacing=(1.0, *pixel), planar=True)
    case = preprocess(
        Volume(array=image, geometry=geometry),
        label,
        small_plan(),
        small_configuration((1.0, *new_pixel), dimensions=2),
    )
    shape = tuple(round(n * old / new) for n, old, new in zip((36, 28), pixel, new_pixel, strict=True))
    np.testing.assert_allclose(
        case.image[0, 0], resize(image[0, 0].astype(np.float64), shape, 3, mode="edge", anti_aliasing=False), atol=1e-4
    )
    ramp = torch.linspace(-1, 1, shape[0])[None, :, None].expand(1, *shape)  # positive in the lower half
    back = segmentation_from_logits(torch.stack([-ramp, ramp]), case.history, parse_labels({"background": 0, "a": 1}))
    assert back.shape == (1, 36, 28) and (back[0, :18] == 0).all() and (back[0, 18:] == 1).all()
    soft = probabilities_from_logits(torch.stack([-ramp, ramp]), case.history, parse_labels({"background": 0, "a": 1}))
    assert len(np.unique(soft[1, 0, 4:-4, 0])) == 28, "neighboring rows are copies"


def unresampled(shape=(2, 3, 4)):
    volume = Volume(array=np.ones((1, *shape), np.float32), geometry=Geometry(shape=shape, spacing=(1.0, 1.0, 1.0)))
    return preprocess(volume, None, small_plan(), small_configuration((1.0, 1.0, 1.0))).history


@pytest.mark.parametrize("order,expected", [([1, 2, 3], [0, 1, 2, 3, 2]), ([3, 2, 1], [0, 3, 2, 1, 2])])
def test_regions_are_painted_in_the_order_of_dataset_json(order, expected):
    labels = parse_labels({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, order)
    # columns: nothing, whole, whole and core, all three, core alone
    signs = torch.tensor([[-1.0, 1, 1, 1, -1], [-1, -1, 1, 1, 1], [-1, -1, -1, 1, -1]])
    logits = signs[:, None, None, :].expand(3, 2, 3, 5)
    segmentation = segmentation_from_logits(logits, unresampled((2, 3, 5)), labels)
    assert segmentation[0, 0].tolist() == expected and (segmentation == segmentation[:1, :1]).all()


def test_a_region_needs_more_than_half():
    labels = parse_labels({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    logits = torch.tensor([0.0, 1e-6])[None, None, None].expand(2, 1, 1, 2)
    assert segmentation_from_logits(logits, unresampled((1, 1, 2)), labels).ravel().tolist() == [0, 2]


def test_equal_logits_go_to_the_lowest_class():
    logits = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])[:, None, None]
    assert segmentation_from_logits(logits, unresampled((1, 1, 2)), LABELS).ravel().tolist() == [1, 0]


def test_many_classes_take_two_bytes():
    labels = parse_labels({"background": 0, **{f"s{i}": i for i in range(1, 301)}})
    logits = torch.zeros(301, 1, 1, 2)
    logits[300, ..., 1] = 1
    segmentation = segmentation_from_logits(logits, unresampled((1, 1, 2)), labels)
    assert segmentation.dtype == np.uint16 and segmentation.ravel().tolist() == [0, 300]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_exported(kind):
    volume, label = stored(phantom(), (0, 1, 2), (False, False, False))
    case = preprocess(volume, label, small_plan(), small_configuration((3.0, 0.8, 1.2)))
    full = segmentation_from_logits(logits_of(case.label, 4), case.history, LABELS)
    np.testing.assert_array_equal(
        segmentation_from_logits(logits_of(case.label, 4).to(kind), case.history, LABELS), full
    )


def test_probabilities_sum_to_one_and_are_background_outside():
    label = phantom((10, 20, 16))
    array = np.zeros((1, 10, 20, 16), np.float32)
    array[:, 2:9, 3:19, 1:14] = 7.0
    volume = Volume(array=array, geometry=Geometry(shape=(10, 20, 16), spacing=SPACING))
    case = preprocess(volume, label, small_plan(transpose=(1, 2, 0)), small_configuration((0.7, 1.5, 2.0)))
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (4, *case.image.shape[1:])).astype(np.float32))
    probabilities = probabilities_from_logits(logits, case.history, LABELS)
    assert probabilities.shape == (4, 10, 20, 16) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-6)
    outside = np.ones((10, 20, 16), bool)
    outside[2:9, 3:19, 1:14] = False
    assert (
        (probabilities[0][outside] == 1).all()
        and (probabilities[1:, outside] == 0).all()
        and probabilities[0][~outside].max() < 1
    )
    np.testing.assert_array_equal(probabilities.argmax(0), segmentation_from_logits(logits, case.history, LABELS))


def test_region_probabilities_are_independent_and_zero_outside():
    labels = parse_labels({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    history = replace(
        unresampled((2, 2, 2)),
        geometry=Geometry(shape=(4, 2, 2), spacing=(1.0, 1.0, 1.0)),
        crop=((1, 3), (0, 2), (0, 2)),
    )
    probabilities = probabilities_from_logits(
        torch.stack([torch.zeros(2, 2, 2), torch.full((2, 2, 2), 2.0)]), history, labels
    )
    assert probabilities.shape == (2, 4, 2, 2) and (probabilities[:, [0, 3]] == 0).all()
    np.testing.assert_allclose(probabilities[0, 1:3], 0.5)
    np.testing.assert_allclose(probabilities[1, 1:3], 1 / (1 + np.exp(-2.0)), rtol=1e-6)


def naive_logits(logits: torch.Tensor, history) -> torch.Tensor:
    """All logits on the cropped grid in double precision: thick slices from the nearest, all else linear."""
    shape = history.shape_after_crop
    axis = (
        None if history.geometry.planar else thick_axis(history.spacing_after_resample, history.spacing_after_transpose)
    )
    logits = logits.double()
    if axis is not None:
        logits = logits.index_select(axis + 1, torch.from_numpy(nearest_indices(logits.shape[axis + 1], shape[axis])))
    return F.interpolate(logits[None], size=shape, mode="trilinear", align_corners=False)[0]


@pytest.mark.parametrize(
    "spacing,new_spacing",
    [((1.5, 1.0, 1.2), (1.0, 1.3, 0.9)), ((5.0, 1.0, 1.0), (5.0, 0.6, 1.3)), ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0))],
)
@pytest.mark.parametrize("content", ["noise", "smooth"])
def test_blocks_give_what_resampling_all_logits_gives(spacing, new_spacing, content):
    array = np.zeros((1, 30, 70, 81), np.float32)
    array[:, 2:, 3:70, 1:78] = 1
    volume = Volume(array=array, geometry=Geometry(shape=array.shape[1:], spacing=spacing))
    case = preprocess(volume, None, small_plan(), small_configuration(new_spacing))
    random = np.random.default_rng(0)
    logits = random.normal(size=(6, *case.image.shape[1:]))
    if content == "smooth":
        logits = np.stack([gaussian_filter(logit, 4) * 50 for logit in logits])
    logits = torch.from_numpy(logits.astype(np.float32))
    naive = naive_logits(logits, case.history)
    (d0, d1), (h0, h1), (w0, w1) = case.history.crop
    labels = parse_labels({"background": 0, **{f"s{value}": value for value in range(1, 6)}})
    found = segmentation_from_logits(logits, case.history, labels)
    differs = found[d0:d1, h0:h1, w0:w1] != naive.argmax(0).numpy()
    best = naive.topk(2, dim=0).values
    assert ((best[0] - best[1]).numpy()[differs] < 1e-5).all() and differs.mean() < 1e-4
    outside = np.ones(found.shape, bool)
    outside[d0:d1, h0:h1, w0:w1] = False
    assert not found[outside].any()
    soft = probabilities_from_logits(logits, case.history, labels)
    np.testing.assert_allclose(soft[:, d0:d1, h0:h1, w0:w1], naive.softmax(0).numpy(), atol=1e-5)
    regions = parse_labels({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "tip": 3}, [1, 2, 3])
    painted = np.zeros(naive.shape[1:], int)
    for value, plane in zip((1, 2, 3), naive[:3].numpy(), strict=True):
        painted[plane > 0] = value
    close = (naive[:3].abs() < 1e-5).any(0).numpy()
    np.testing.assert_array_equal(
        np.where(close, 0, segmentation_from_logits(logits[:3], case.history, regions)[d0:d1, h0:h1, w0:w1]),
        np.where(close, 0, painted),
    )
    mapped = resize_to_input_grid(logits[0], case.history)
    np.testing.assert_allclose(mapped[d0:d1, h0:h1, w0:w1], naive[0].numpy(), atol=1e-5)
    assert not mapped[outside].any()


def test_a_class_between_two_others_wins_though_it_is_best_at_no_old_voxel():
    history = replace(unresampled((1, 1, 4)), shape_after_resample=(1, 1, 2), spacing_after_resample=(1.0, 1.0, 2.0))
    logits = torch.tensor([[0.5, 0.5], [1.0, -10.0], [-10.0, 1.0]])[:, None, None]
    labels = parse_labels({"background": 0, "a": 1, "b": 2})
    assert segmentation_from_logits(logits, history, labels).ravel().tolist() == [1, 0, 0, 2]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), steep=st.floats(0.5, 4))
def test_steep_logits_are_decided_as_their_probabilities_are(seed, steep):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(2, 7, 3).tolist())
    new_shape = tuple((np.array(shape) * random.uniform(1.0, 3.0, 3)).astype(int).tolist())
    logits = torch.from_numpy(
        (np.sign(random.normal(size=(5, *shape))) * np.exp(steep * random.normal(size=(5, *shape)))).astype(np.float32)
    )
    history = replace(unresampled(new_shape), shape_after_resample=shape)
    labels = parse_labels({"background": 0, **{f"s{value}": value for value in range(1, 5)}})
    naive = naive_logits(logits, history)
    differs = segmentation_from_logits(logits, history, labels) != naive.argmax(0).numpy()
    best = naive.topk(2, dim=0).values
    scale = naive.abs().amax(0)
    assert (((best[0] - best[1]) / scale).numpy()[differs] < 1e-5).all()


def test_export_takes_hardly_more_memory_than_its_result():
    logits = torch.randn(12, 24, 48, 48)
    history = replace(
        unresampled((24, 48, 48)),
        geometry=Geometry(shape=(48, 96, 96), spacing=(1.0, 1.0, 1.0)),
        crop=((0, 48), (0, 96), (0, 96)),
    )
    history = replace(
        history,
        shape_after_crop=(48, 96, 96),
        spacing_after_transpose=(1.0, 1.0, 1.0),
        spacing_after_resample=(2.0, 2.0, 2.0),
    )
    labels = parse_labels({"background": 0, **{f"s{value}": value for value in range(1, 12)}})
    tracemalloc.start()
    try:
        segmentation = segmentation_from_logits(logits, history, labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert segmentation.shape == (48, 96, 96)
    assert (
        peak < segmentation.nbytes + 8 * 12 * 32**3 * 4
    )  # some blocks of all classes; the whole logits would be 20 MiB


def test_a_plan_in_voxels_leaves_every_file_as_fine_as_it_is():
    tagged = Geometry(shape=(2, 6, 8), spacing=(0.001, 0.0005, 0.0005))
    configuration = small_configuration((1.0, 1.0, 1.0))
    plan = replace(small_plan(), measured=False)
    assert spacing_before(tagged, plan, configuration) == (1.0, 1.0, 1.0)
    old = replace(
        small_plan(), reader="Tiff3DIO", configurations={"3d": configuration}
    )  # made before sizes of TIFFs were read
    assert old.in_voxels and spacing_before(tagged, old, configuration) == (1.0, 1.0, 1.0)
    finer = small_configuration((3.0, 0.5, 0.5))
    assert not replace(old, configurations={"3d": finer}).in_voxels and not small_plan().in_voxels


def test_a_file_without_a_size_is_not_resampled_by_a_plan_in_mm():
    configuration = small_configuration((3.0, 0.5, 0.5))
    unsized = Geometry(shape=(2, 6, 8), spacing=(1.0, 1.0, 1.0), measured=False)
    volume = Volume(array=np.ones((1, 2, 6, 8), np.float32), geometry=unsized)
    case = preprocess(volume, None, replace(small_plan(), measured=True), configuration)
    assert case.image.shape == (1, 2, 6, 8) and case.history.spacing_after_transpose == (3.0, 0.5, 0.5)
