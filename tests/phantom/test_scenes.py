"""Procedural scenes: equal by seed, whole objects with their parts, shapes that are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from samunet.phantom.scenes import SMALLEST, make_scene, smooth_noise
from samunet.phantom.shapes import mirrored, rotation, sheet, shrunk, star, tube

SHAPES = ((1, 48, 64), (12, 40, 32))
RNG = np.random.default_rng


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_seeds_give_equal_bytes_and_others_other_scenes(shape):
    first, again, other = make_scene(3, 5, shape), make_scene(3, 5, shape), make_scene(3, 6, shape)
    assert first.image.tobytes() == again.image.tobytes() and first.parts.tobytes() == again.parts.tobytes()
    assert (first.parents, first.families, first.spacing) == (again.parents, again.families, again.spacing)
    assert first.image.tobytes() != other.image.tobytes() and first.parts.tobytes() != other.parts.tobytes()


@pytest.mark.parametrize("shape", SHAPES)
def test_objects_are_numbered_in_a_row_and_lie_in_what_they_are_parts_of(shape):
    counts, nested, channels = [], 0, set()
    for index in range(40):
        scene = make_scene(0, index, shape)
        assert scene.parts.shape == shape and scene.image.shape[1:] == shape and scene.image.dtype == np.float32
        assert abs(scene.image.mean()) < 1e-3 and abs(scene.image.std() - 1) < 1e-3
        count = len(scene.parents)
        assert set(np.unique(scene.parts)) | {0} == set(range(count + 1)) and len(scene.families) == count
        for number, parent in enumerate(scene.parents, start=1):
            assert 0 <= parent < number
            own = scene.mask(number)
            assert own.any() and (not parent or not (own & ~scene.mask(parent)).any())
            nested += parent > 0
        counts.append(count)
        channels.add(len(scene.image))
    assert np.mean(counts) > 4 and nested > 40 and channels == {1, 3}


def test_an_object_with_its_parts_is_more_than_what_shows_of_it():
    scene = next(scene for index in range(99) if any((scene := make_scene(1, index, (1, 64, 64))).parents))
    part = next(number for number, parent in enumerate(scene.parents, start=1) if parent)
    whole = scene.parents[part - 1]
    assert scene.mask(whole).sum() > (scene.parts == whole).sum() and (scene.mask(whole) >= scene.mask(part)).all()
    assert scene.mask(whole).sum() >= SMALLEST


def test_a_star_without_bays_is_a_ball():
    center = np.array([0.1, -0.2, 0.0], np.float32)
    positions = RNG(0).normal(size=(3, 200)).astype(np.float32)
    level = star(RNG(1), center, 0.3, rough=0.0, stretch=1.0).level(positions)
    assert np.allclose(level, np.linalg.norm(positions - center[:, None], axis=0) - 0.3, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_no_part_of_a_body_is_out_of_its_reach(seed):
    rng, center = RNG(seed), np.array([0.1, 0.0, -0.3], np.float32)
    axis = np.linspace(-2, 2, 60, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, -1)
    for body in (
        star(rng, center, 0.4, rough=0.45, stretch=2.5),
        tube(rng, center, 0.8, 0.1, flat=False),
        sheet(rng, center, 0.3, 0.15),
    ):
        inside = grid[:, body.level(grid) < 0]
        assert inside.size and (np.linalg.norm(inside - body.center[:, None], axis=0) <= body.reach).all()


def test_a_tube_is_one_piece_and_flat_where_it_is_asked_to_be():
    axis = np.linspace(-1, 1, 80, dtype=np.float32)
    grid = np.stack(np.meshgrid(np.zeros(1, np.float32), axis, axis, indexing="ij")).reshape(3, -1)
    for seed in range(10):
        body = tube(RNG(seed), np.zeros(3, np.float32), 0.8, 0.06, flat=True)
        inside = (body.level(grid) < 0).reshape(80, 80)
        assert ndimage.label(inside)[1] == 1 and inside.sum() * (2 / 79) ** 2 > 0.5 * 0.8 * 0.06


def test_a_twin_is_the_mirror_image_and_a_layer_less_is_a_layer_less():
    body = star(RNG(2), np.array([0.0, 0.1, 0.4], np.float32), 0.2, rough=0.4, stretch=2.0)
    twin, positions = mirrored(body, 0.1), RNG(3).uniform(-1, 1, size=(3, 100)).astype(np.float32)
    flipped = positions.copy()
    flipped[2] = 0.2 - flipped[2]
    assert np.allclose(twin.level(flipped), body.level(positions), atol=1e-5)
    assert np.allclose(twin.center, [0, 0.1, -0.2])
    assert np.allclose(shrunk(body, 0.05).level(positions), body.level(positions) + 0.05)


def test_rotations_keep_lengths_and_handedness():
    for seed in range(10):
        turn = rotation(RNG(seed))
        assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-5) and np.linalg.det(turn) > 0


def test_smooth_noise_is_smooth_and_about_one_wide():
    fields = [smooth_noise(RNG(seed), (8, 64, 64), 3) for seed in range(20)]
    assert 0.7 < np.std(fields) < 1.3
    steps = [np.abs(np.diff(field, axis=2)).mean() / field.std() for field in fields]
    assert max(steps) < 0.15  # white noise: 1.1
