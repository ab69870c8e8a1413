"""A sample depends on (seed, number) and on nothing else: not on workers, order, or the state of any generator."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from samples import untouched

from samunet.core.geometry import Geometry
from samunet.core.labels import parse_labels
from samunet.core.preprocessed import OUTSIDE_NONZERO, PreprocessedCase
from samunet.data import loader
from samunet.data.augmentation import Augmentation
from samunet.data.dataset import PreprocessedDataset
from samunet.data.loader import PatchSource, batches
from samunet.errors import ConfigError
from samunet.preprocessing.storage import Origin, save_case

PATCH = (4, 16, 20)
LABELS = parse_labels({"background": 0, "dot": 1})


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> PreprocessedDataset:
    folder = tmp_path_factory.mktemp("loader")
    for index in range(3):
        shape = (8, 60 + index, 70)
        history = untouched(Geometry(shape=shape, spacing=(1.0, 1.0, 1.0)))
        label = np.zeros(shape, np.int16)
        label[..., :8] = OUTSIDE_NONZERO
        label[3 + index : 5 + index, 38:41, 40:43] = 1
        image = np.random.default_rng(index).normal(size=(2, *shape)).astype(np.float32)
        save_case(
            folder,
            f"c{index}",
            PreprocessedCase(image=image, label=label, history=history),
            LABELS,
            PATCH,
            Origin(settings="", files=""),
        )
    return PreprocessedDataset(folder, ("c0", "c1", "c2"))


def source(cases, **options) -> PatchSource:
    augmentation = Augmentation(patch_size=PATCH, mirror_axes=(0, 1, 2), masked_channels=())
    return PatchSource(
        **{"cases": cases, "augmentation": augmentation, "batch_size": 2, "seed": 7, "augmented": True, **options}
    )


def equal(one, two) -> bool:
    return torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def test_samples_have_the_patchs_size_and_types(cases):
    for augmented in (True, False):
        image, label = source(cases, augmented=augmented)[0]
        assert (
            image.shape == (2, *PATCH)
            and image.dtype == torch.float32
            and label.shape == PATCH
            and label.dtype == torch.int16
        )


def test_a_sample_does_not_depend_on_the_order_of_asking(cases):
    forward = [source(cases)[n] for n in range(8)]
    asked_backward = source(cases)
    backward = {n: asked_backward[n] for n in reversed(range(8))}
    assert all(equal(forward[n], backward[n]) for n in range(8))
    assert all(not torch.equal(forward[a][0], forward[b][0]) for a in range(8) for b in range(a))


def test_another_seed_gives_other_samples(cases):
    assert not any(torch.equal(source(cases)[n][0], source(cases, seed=8)[n][0]) for n in range(6))


def test_batches_stack_the_samples_of_their_step(cases):
    found = list(batches(source(cases), first_step=3, steps=2, workers=0))
    assert len(found) == 2 and found[0].image.shape == (2, 2, *PATCH) and found[0].label.shape == (2, *PATCH)
    for step, batch in zip((3, 4), found, strict=True):
        for item in range(2):
            assert equal((batch.image[item], batch.label[item]), source(cases)[2 * step + item])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_samples_of_the_main_process_and_repeat_none(cases, workers):
    made = source(cases)
    inline = list(
        batches(made, first_step=1, steps=4, workers=0)
    )  # the pipeline is built now, and must still cross to the workers
    apart = list(batches(made, first_step=1, steps=4, workers=workers))
    assert len(apart) == 4
    for one, two in zip(inline, apart, strict=True):
        assert equal((one.image, one.label), (two.image, two.label))
    images = [image for batch in apart for image in batch.image]
    assert all(not torch.equal(images[a], images[b]) for a in range(8) for b in range(a))


def test_a_file_is_compared_with_its_checksum_once_whichever_process_reads_it_first(cases, monkeypatch):
    fresh = PreprocessedDataset(cases.folder, cases.identifiers)
    made = source(fresh, augmented=False)
    list(batches(made, first_step=0, steps=12, workers=2))  # 24 samples of three cases
    monkeypatch.setattr("samunet.data.dataset.check_arrays", lambda *_: 1 / 0)
    assert len([made[number] for number in range(12)]) == 12
    with pytest.raises(ZeroDivisionError):
        PreprocessedDataset(cases.folder, cases.identifiers).cut("c0", (0, 0, 0), (4, 8, 8))


def test_global_generators_are_neither_read_nor_changed_inline(cases):
    made = source(cases)
    expected = [made[n] for n in range(6)]
    for seed in (1, 2):
        np.random.seed(seed)
        torch.manual_seed(seed)
        numpy_before, torch_before = np.random.get_state(), torch.get_rng_state()
        assert all(equal(made[n], expected[n]) for n in range(6))
        list(batches(source(cases, augmented=False), first_step=0, steps=1, workers=0))
        numpy_after = np.random.get_state()
        assert np.array_equal(numpy_before[1], numpy_after[1]) and numpy_before[2:] == numpy_after[2:]
        assert torch.equal(torch_before, torch.get_rng_state())


def test_generators_are_put_back_when_a_sample_fails(cases, monkeypatch):
    made = source(cases)
    monkeypatch.setattr("samunet.data.loader.augment", lambda *_: 1 / 0)
    numpy_before, torch_before = np.random.get_state(), torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        made[0]
    assert np.array_equal(numpy_before[1], np.random.get_state()[1]) and torch.equal(
        torch_before, torch.get_rng_state()
    )


def test_generators_of_gpus_are_left_alone(cases, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(0)
    assert seeded == [0]  # so torch.manual_seed reaches the GPUs
    source(cases)[1]
    assert seeded == [0]


@pytest.mark.parametrize("augmented", [False, True])
def test_a_batch_of_two_has_one_sample_forced_to_foreground(cases, augmented):
    labels = [batch.label for batch in batches(source(cases, augmented=augmented), first_step=0, steps=60, workers=0)]
    free, forced = (np.mean([(label[item] == 1).any() for label in labels]) for item in range(2))
    assert forced == 1 if not augmented else forced > 0.9  # turning and scaling may push the dot out
    assert free < 0.45  # a patch holds the dot of 2 x 3 x 3 voxels by chance in about one case of six


def test_samples_of_large_batches_are_forced_at_the_end(cases):
    labels = [source(cases, augmented=False, batch_size=6)[n][1] for n in range(60)]
    share = [np.mean([(label == 1).any() for label in labels[item::6]]) for item in range(6)]
    assert share[4:] == [1, 1] and max(share[:4]) < 0.8


def test_validation_samples_are_plain_cuts_without_the_mark_for_outside(cases):
    random = np.random.default_rng(np.random.SeedSequence((7, 0, 0)))
    from samunet.data.sampling import choose_patch

    name, start = choose_patch(cases, PATCH, PATCH, random, foreground=False)
    image, label = source(cases, augmented=False)[0]
    expected = cases.cut(name, start, PATCH)
    assert np.array_equal(image, expected[0]) and np.array_equal(label, np.maximum(expected[1], 0))
    plain = [source(cases, augmented=False)[n][1] for n in range(30)]
    assert all(label.min() >= 0 for label in plain)
    assert any((cases.cut("c0", (0, 0, 0), PATCH)[1] == OUTSIDE_NONZERO).ravel())  # so there was something to remove


def test_augmented_samples_know_no_outside_either(cases):
    assert all(source(cases)[n][1].min() >= 0 for n in range(30))


def test_a_script_without_main_guard_is_told_before_processes_start(tmp_path, monkeypatch):
    script = tmp_path / "mine.py"
    script.write_text("import samunet.pipeline")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    with pytest.raises(
        ConfigError, match="mine.py would run again in each process that prepares patches; .* or train with workers=0"
    ):
        loader._refuse_unguarded_script()
    script.write_text('if __name__ == "__main__":\n    pass')
    loader._refuse_unguarded_script()
