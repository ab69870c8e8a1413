"""Scenes as samples: the seed and the number decide, and every sample has something to segment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samunet.phantom.scenes import make_scene
from samunet.pretraining.source import FAMILY, LEAST_VOXELS, REFERENCE, TARGET, SceneSource, choose_object


@pytest.mark.parametrize("shape", [(1, 48, 48), (8, 32, 32)])
def test_equal_seeds_and_numbers_give_equal_bytes_and_others_do_not(shape):
    one, same, other = (SceneSource(shape=shape, batch_size=2, seed=seed) for seed in (3, 3, 4))
    for number in (0, 7):
        (image, label), (again, label_again) = one[number], same[number]
        assert torch.equal(image, again) and torch.equal(label, label_again)
        assert not torch.equal(image, other[number][0])
        assert image.shape == (1, *shape) and image.dtype == torch.float32 and label.dtype == torch.int16
        assert abs(float(image.mean())) < 1e-3 and abs(float(image.std()) - 1) < 1e-2


def test_every_sample_has_an_object_and_references_lie_beside_it():
    source = SceneSource(shape=(1, 64, 64), batch_size=1, seed=0)
    labels = [source[number][1].numpy() for number in range(60)]
    assert all(np.count_nonzero(label == TARGET) >= LEAST_VOXELS // 2 for label in labels)
    assert {value for label in labels for value in np.unique(label)} == {0, TARGET, REFERENCE, FAMILY}


def test_the_reference_is_of_the_objects_family():
    rng = np.random.default_rng(0)
    seen = 0
    for index in range(40):
        scene = make_scene(1, index, (1, 64, 64))
        label = choose_object(scene, rng)
        if label is None or not (label == REFERENCE).any():
            continue
        seen += 1
        families = {
            value: {scene.families[number - 1] for number in np.unique(scene.parts[label == value]) if number}
            for value in (TARGET, REFERENCE)
        }
        assert families[TARGET] & families[REFERENCE]
    assert seen > 5
