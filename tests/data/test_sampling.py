"""Where patches lie, checked on stored cases whose every voxel tells its own position."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from samples import untouched

from samunet.core.geometry import Geometry
from samunet.core.labels import parse_labels
from samunet.core.preprocessed import PreprocessedCase
from samunet.data.augmentation import Augmentation
from samunet.data.dataset import PreprocessedDataset
from samunet.data.sampling import choose_patch
from samunet.errors import DatasetError
from samunet.preprocessing.storage import Origin, save_case

LABELS = parse_labels({"background": 0, "common": 1, "rare": 2, "absent": 3})
SHAPE = (12, 40, 50)


def store(folder, name, label, labels=LABELS):
    """Store a case whose image channels are D, H and W index + 1 of each voxel."""
    shape = label.shape
    history = untouched(Geometry(shape=shape, spacing=(1.0, 1.0, 1.0)))
    image = np.stack(np.meshgrid(*[np.arange(1, n + 1) for n in shape], indexing="ij")).astype(np.float32)
    save_case(
        folder,
        name,
        PreprocessedCase(image=image, label=label, history=history),
        labels,
        (8, 16, 16),
        Origin(settings="", files=""),
    )


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> PreprocessedDataset:
    folder = tmp_path_factory.mktemp("cases")
    label = np.zeros(SHAPE, np.int16)
    label[1:11, 5:35, 5:25] = 1
    label[11, 39, 48:50] = 2  # two voxels in a corner
    store(folder, "full", label)
    store(folder, "empty", np.zeros((12, 44, 36), np.int16))
    return PreprocessedDataset(folder, ("full", "empty"))


def only(cases, *names) -> PreprocessedDataset:
    return PreprocessedDataset(cases.folder, names)


def draw(cases, patch, read=None, *, foreground, count=300, seed=0):
    random = np.random.default_rng(seed)
    return [choose_patch(cases, patch, read or patch, random, foreground=foreground) for _ in range(count)]


@pytest.mark.parametrize("foreground", [False, True])
@pytest.mark.parametrize("patch", [(8, 16, 16), (5, 15, 33), (1, 16, 16), (12, 40, 50)])
def test_patches_lie_inside_the_image(cases, patch, foreground):
    for _, start in draw(only(cases, "full"), patch, foreground=foreground):
        assert all(a >= 0 and a + n <= size for a, n, size in zip(start, patch, SHAPE, strict=True))


@pytest.mark.parametrize("patch", [(8, 16, 16), (5, 15, 33), (2, 3, 3), (1, 16, 16)])
def test_foreground_patches_hold_foreground_of_every_class_alike(cases, patch):
    rare = 0
    for name, start in draw(only(cases, "full"), patch, foreground=True):
        _, label = cases.cut(name, start, patch)
        assert label.any()
        rare += 2 in label
    assert (
        100 <= rare <= 250
    )  # the two rare voxels are chosen every second time, however few they are; a patch may hold both classes


def test_foreground_is_not_always_in_the_middle(cases):
    patch, middle = (8, 16, 16), []
    for name, start in draw(only(cases, "full"), patch, foreground=True):
        _, label = cases.cut(name, start, patch)
        middle.append(label[4, 8, 8] > 0)
    assert 0.2 < np.mean(middle) < 0.95


def test_other_patches_start_anywhere_with_equal_chance(cases):
    starts = np.array([start for _, start in draw(only(cases, "full"), (8, 16, 16), foreground=False, count=2500)])
    for axis, room in enumerate((5, 25, 35)):  # 12 - 8, 40 - 16, 50 - 16, and both ends count
        counts = np.bincount(starts[:, axis], minlength=room)
        assert len(counts) == room and counts.min() > 0.35 * 2500 / room and counts.max() < 1.8 * 2500 / room


def test_a_case_without_foreground_gives_patches_from_anywhere(cases):
    drawn = draw(only(cases, "empty"), (8, 16, 16), foreground=True)
    assert len({start for _, start in drawn}) > 200


def test_all_cases_are_drawn(cases):
    names = [name for name, _ in draw(cases, (8, 16, 16), foreground=False)]
    assert 100 < names.count("full") < 200 and set(names) == {"full", "empty"}


@pytest.mark.parametrize("foreground", [False, True])
@pytest.mark.parametrize("patch,start", [((16, 48, 64), (-2, -4, -7)), ((13, 45, 50), (0, -2, 0))])
def test_an_image_smaller_than_the_patch_lies_in_its_middle_with_zeros_around(cases, foreground, patch, start):
    for name, drawn in draw(only(cases, "full"), patch, foreground=foreground, count=5):
        assert drawn == start
        image, label = cases.cut(name, drawn, patch)
        inside = tuple(slice(-a, -a + n) for a, n in zip(start, SHAPE, strict=True))
        assert image.shape == (3, *patch) and label.shape == patch
        assert (image[(slice(None), *inside)] > 0).all() and (image > 0).sum() == 3 * np.prod(SHAPE)
        assert label[inside].sum() == label.sum() == 10 * 30 * 20 + 2 * 2


@pytest.mark.parametrize("patch", [(8, 16, 16), (5, 15, 33), (6, 17, 17)])
def test_the_read_margin_puts_the_augmentations_middle_on_the_patch(cases, patch):
    augmentation = Augmentation(patch_size=patch, mirror_axes=(), masked_channels=())
    read = augmentation.read_size
    random = np.random.default_rng(1)
    for _ in range(50):
        name, first = choose_patch(only(cases, "full"), patch, read, random, foreground=True)
        image, _ = cases.cut(name, first, read)
        crop = [n // 2 - p // 2 for n, p in zip(read, patch, strict=True)]  # as batchgeneratorsv2 crops the middle
        seen = image[(slice(None), *[slice(a, a + p) for a, p in zip(crop, patch, strict=True)])]
        assert seen.shape[1:] == patch and (seen > 0).all(), "the patch reaches outside the image"


def test_a_cut_is_the_part_of_the_image_that_was_asked_for(cases):
    image, label = cases.cut("full", (-2, 30, 45), (5, 20, 8))
    assert image.shape == (3, 5, 20, 8) and label.shape == (5, 20, 8)
    assert image[0, :, 0, 0].tolist() == [0, 0, 1, 2, 3]
    assert image[1, 2, :, 0].tolist() == [*range(31, 41), *[0] * 10]
    assert image[2, 2, 0, :].tolist() == [*range(46, 51), 0, 0, 0]


def test_patches_keep_to_the_annotated_part_where_there_is_an_ignore_label(tmp_path):
    labels = parse_labels({"background": 0, "a": 1, "ignore": 2})
    label = np.full((10, 60, 60), 2, np.int16)
    label[5, 30:33, 30:33] = 0
    store(tmp_path, "scribble", label, labels)
    dataset = PreprocessedDataset(tmp_path, ("scribble",))
    for foreground in (False, True):  # there is no foreground, so both kinds look for annotation
        for name, start in draw(dataset, (4, 16, 16), foreground=foreground, count=50):
            assert (dataset.cut(name, start, (4, 16, 16))[1] == 0).any()


def test_foreground_goes_before_annotation(tmp_path):
    labels = parse_labels({"background": 0, "a": 1, "ignore": 2})
    label = np.zeros((10, 60, 60), np.int16)
    label[5, 50, 50], label[:, :30] = 1, 2
    store(tmp_path, "x", label, labels)
    dataset = PreprocessedDataset(tmp_path, ("x",))
    assert all(
        (dataset.cut(*drawn, (4, 16, 16))[1] == 1).any()
        for drawn in draw(dataset, (4, 16, 16), foreground=True, count=50)
    )


def test_missing_cases_are_counted_and_the_first_is_named(cases):
    with pytest.raises(DatasetError, match=r"lacks 2 of 3 cases, first 'gone'\. Preprocess the dataset again"):
        PreprocessedDataset(cases.folder, ("full", "gone", "lost"))


def test_a_dataset_crosses_process_borders_without_its_caches(cases):
    cases.locations("full"), cases.shape("full")
    kind, parts = cases.__reduce__()
    assert kind is PreprocessedDataset and parts == (cases.folder, cases.identifiers, cases._checked)
    other = copy.copy(cases)  # goes the way of pickle
    assert other._checked is cases._checked and other.shape("full") == SHAPE
    assert other._record.cache_info().currsize == 1 and not other._locations.cache_info().currsize
    np.testing.assert_array_equal(other.locations("full").classes[0], cases.locations("full").classes[0])


def test_balanced_sampling_sees_a_rare_class_as_often_as_a_common_one(tmp_path):
    shape, labels = (8, 20, 20), parse_labels({"background": 0, "common": 1, "rare": 2})
    for index in range(6):
        label = np.zeros(shape, np.int16)
        label[4, 5:9, 5:9] = 1
        if index == 0:
            label[4, 15, 15] = 2
        case = PreprocessedCase(
            image=np.zeros((1, *shape), np.float32),
            label=label,
            history=untouched(Geometry(shape=shape, spacing=(1.0, 1.0, 1.0))),
        )
        save_case(tmp_path, f"c{index}", case, labels, (4, 8, 8), Origin(settings="", files=""))
    cases = PreprocessedDataset(tmp_path, tuple(f"c{index}" for index in range(6)))
    assert cases.holders == (cases.identifiers, ("c0",))
    draws = {balanced: [] for balanced in (True, False)}
    for balanced, found in draws.items():
        random = np.random.default_rng(0)
        for _ in range(400):
            name, start = choose_patch(cases, (4, 8, 8), (4, 8, 8), random, foreground=True, balanced=balanced)
            _, label = cases.cut(name, start, (4, 8, 8))
            found.append((label == 2).any())
    assert np.mean(draws[True]) == pytest.approx(0.5, abs=0.08) and np.mean(draws[False]) < 0.2
