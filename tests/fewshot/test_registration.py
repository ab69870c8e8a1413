from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import ball
from scipy import ndimage

from samunet.core.volume import Volume
from samunet.errors import PredictionError
from samunet.fewshot import mpa, per_sam
from samunet.fewshot.examples import Example, References, spec_of_values
from samunet.fewshot.methods import FewShot, Proposal, best_of
from samunet.fewshot.models import model_named
from samunet.fewshot.registration import Pair, Registration, Warped, register, register_all
from samunet.ops.overlap import overlap


@pytest.fixture(scope="module")
def seed():
    return model_named("seed", device="cpu")


def warped_by_a_known_field(example, amount):
    """Return an example seen through a smooth field of some voxels."""
    places = np.indices(example.label.shape).astype(float)
    for axis in (1, 2):
        places[axis] += amount * np.sin(places[3 - axis] / 12)
    image = ndimage.map_coordinates(example.volume.array[0], places, order=1, mode="nearest")
    label = ndimage.map_coordinates(example.label, places, order=0, mode="nearest")
    volume = Volume(array=image[None], geometry=example.volume.geometry)
    return Example(identifier="warped", volume=volume, label=label)


def chances(array):
    return mpa.Chances(soft=array.astype(np.float32), shape=array.shape[1:])


def dice(example, warped):
    label, _ = mpa.most_likely(mpa.combined([warped], example.label.shape), (1, 2))
    return [overlap(example.label, label, (value,)).dice for value in (1, 2)]


@pytest.mark.parametrize(
    ("shape", "center", "deformation"),
    [
        ((16, 40, 40), (8, 18, 22), "demons"),
        ((1, 64, 80), (0, 30, 44), "demons"),
        ((1, 64, 80), (0, 30, 44), "bsplines"),
    ],
)
def test_a_known_warp_is_undone(shape, center, deformation):
    moving = ball(shape, center, 10)
    fixed = warped_by_a_known_field(moving, 2.5)
    settings = Registration(deformation=deformation)
    found = register(
        Pair(fixed=fixed.volume, moving=moving.volume, label=moving.label, values=(1, 2), settings=settings)
    )
    before = overlap(fixed.label, moving.label, (1,)).dice
    reached = dice(fixed, found)
    assert reached[0] >= 0.9 and reached[0] > before + 0.1
    assert found.likeness > 0.8


@pytest.mark.parametrize("spacing", [0.0005, 0.02, 20.0])
@pytest.mark.parametrize("deformation", ["demons", "none"])
def test_a_shift_is_undone_whatever_a_voxel_measures(spacing, deformation):
    shape, grid = (1, 96, 96), {"spacing": (1.0, spacing, spacing)}
    moving, fixed = ball(shape, (0, 44, 44), 14, **grid), ball(shape, (0, 53, 50), 14, seed=1, **grid)
    settings = Registration(deformation=deformation)
    pair = Pair(fixed=fixed.volume, moving=moving.volume, label=moving.label, values=(1, 2), settings=settings)
    assert min(dice(fixed, register(pair))) > 0.85


@pytest.mark.parametrize("depth", [1, 3])
def test_thin_volumes_are_registered(depth):
    shape = (depth, 48, 48)
    moving, fixed = (ball(shape, (depth // 2, 22 + n, 24), 9, planar=False, seed=n) for n in (0, 3))
    pair = Pair(fixed=fixed.volume, moving=moving.volume, label=moving.label, values=(1, 2), settings=Registration())
    assert min(dice(fixed, register(pair))) > 0.8


def test_of_a_picture_and_one_whose_pixels_are_measured_each_counts_its_own():
    shape = (1, 64, 64)
    moving = ball(shape, (0, 30, 30), 12, spacing=(1.0, 0.001, 0.001))
    fixed = ball(shape, (0, 33, 32), 12, seed=1, measured=False)
    pair = Pair(fixed=fixed.volume, moving=moving.volume, label=moving.label, values=(1, 2), settings=Registration())
    [found] = register_all([pair], workers=1)
    assert found is not None and min(dice(fixed, found)) > 0.85


def test_a_pair_out_of_time_gives_nothing_and_stops_no_other():
    small, large = ball((1, 32, 32), (0, 16, 16), 8), ball((96, 96, 96), (48, 48, 48), 20)
    pairs = [
        Pair(
            fixed=one.volume,
            moving=one.volume,
            label=one.label,
            values=(1, 2),
            settings=Registration(deformation="none" if one is small else "demons", seconds=seconds),
        )
        for one, seconds in ((large, 0.5), (small, 60))
    ]
    slow, quick = register_all(pairs, workers=2)
    assert slow is None
    assert quick is not None and min(dice(small, quick)) > 0.95


def test_where_no_reference_is_registered_in_time_the_case_says_so(seed):
    example = ball((1, 32, 32), (0, 16, 16), 8, name="reference")
    few = FewShot(
        references=References(spec=spec_of_values(("MR",), {0, 1, 2}, "x", ".png"), cases=(), examples=(example,)),
        model=seed,
        registration=Registration(seconds=1e-4),
    )
    said = r"'new': no reference could be registered \(1 tried\); .* 0.0001 s, .*--side"
    with pytest.raises(PredictionError, match=said):
        few.propose("registration", ball((1, 32, 32), (0, 16, 16), 8, name="new"))


def test_a_registration_that_fails_is_told_in_one_line(monkeypatch, caplog, capfd):
    monkeypatch.setattr("samunet.fewshot.registration.START", "raise ValueError('too few samples')")
    example = ball((1, 32, 32), (0, 16, 16), 8)
    volume, words = example.volume, {"values": (1,), "settings": Registration(), "name": "'new' with 'one'"}
    pair = Pair(fixed=volume, moving=volume, label=example.known(), **words)
    assert register_all([pair], workers=1) == [None]
    assert caplog.messages == ["Registration of 'new' with 'one' failed: ValueError: too few samples"]
    assert "Traceback" not in capfd.readouterr().err
    told = "RuntimeError: in Execute: ITK ERROR: Metric(0x1): no overlap\nFor instance, align the centers."
    monkeypatch.setattr("samunet.fewshot.registration.START", f"import sys; sys.exit({told!r})")
    assert register_all([pair], workers=1) == [None]
    assert caplog.messages[1:] == ["Registration of 'new' with 'one' failed: Metric(0x1): no overlap"]


def test_of_several_references_the_more_alike_one_counts():
    soft = np.zeros((2, 1, 1, 4, 4), np.float16)
    soft[0, 0, 0, :2], soft[1, 0, 0, 2:] = 1, 1
    alike, unlike = Warped(soft=soft[0], likeness=0.9), Warped(soft=soft[1], likeness=0.1)
    label, _ = mpa.most_likely(mpa.combined([alike, unlike], (1, 8, 8)), (5,))
    assert (label[0, :3] == 5).all() and (label[0, 5:] == 0).all()


@settings(max_examples=30, deadline=None)
@given(
    reduced=st.tuples(*[st.integers(1, 6)] * 3), shape=st.tuples(*[st.integers(1, 9)] * 3), seed_of=st.integers(0, 99)
)
def test_chances_on_a_plane_are_those_of_the_whole_image(reduced, shape, seed_of):
    soft = np.random.default_rng(seed_of).random((2, *reduced), np.float32)
    found, whole = mpa.Chances(soft=soft, shape=shape), F.interpolate(torch.tensor(soft)[None], shape, mode="trilinear")
    assert all(np.array_equal(found.of(number), whole[0, number]) for number in (0, 1))
    for axis in (0, 1, 2):
        for index in range(shape[axis]):
            plane = whole[0].select(axis + 1, index)
            np.testing.assert_allclose(found.plane(axis, index), plane, atol=1e-6)


def test_of_many_classes_one_at_a_time_is_enlarged(seed, monkeypatch):
    soft = np.zeros((40, 4, 8, 8), np.float32)
    for number in range(40):
        soft[number, number % 4, number // 8, number % 8] = 0.9
    refs, most, whole = [], [], mpa.Chances.of

    def watched(self, number):
        array = whole(self, number)
        refs.append(weakref.ref(array))
        most.append(sum(ref() is not None for ref in refs))
        return array

    monkeypatch.setattr(mpa.Chances, "of", watched)
    monkeypatch.setattr(mpa, "decoded", lambda model, look, part: (part > 0.5, 0.7))
    by_value, values = mpa.Chances(soft=soft, shape=(4, 8, 8)), tuple(range(1, 41))
    for label, sure in (
        mpa.most_likely(by_value, values),
        mpa.segment(seed, ball((4, 8, 8), (2, 4, 4), 2), 0, by_value, values),
    ):
        assert all((label == value).sum() == 1 for value in values) and min(sure.values()) >= 0.7
    assert max(most) <= 2  # the one before goes when the next has come


def test_an_image_that_is_a_reference_keeps_its_label(seed):
    example = ball((3, 128, 128), (1, 60, 68), 30)
    example.label[example.label == 2] = 1
    label, _ = mpa.segment(seed, example, 0, chances((example.label == 1)[None]), (1,))
    assert overlap(example.label, label, (1,)).dice >= 0.98


def test_a_structure_that_registration_does_not_find_is_absent(seed):
    example = ball((3, 32, 32), (1, 16, 16), 8)
    label, sure = mpa.segment(seed, example, 0, chances(np.full((2, 3, 32, 32), 0.2)), (1, 2))
    assert not label.any() and sure == {1: 0.0, 2: 0.0}
    assert mpa.prompts_from(np.full((32, 32), 0.2)) is None


def test_a_structure_in_a_single_slice_stays_and_one_that_is_gone_is_not_sure(seed, monkeypatch):
    chance = np.zeros((2, 5, 32, 32), np.float32)
    chance[0, 2, 8:20, 8:20], chance[1, 2, 9:19, 9:19] = 0.9, 0.6
    monkeypatch.setattr(mpa, "decoded", lambda model, look, part: (part > 0.5, 0.7))
    label, sure = mpa.segment(seed, ball((5, 32, 32), (2, 14, 14), 6), 0, chances(chance), (1, 2))
    assert np.array_equal(label == 1, chance[0] > 0.5) and sure == {1: 0.7, 2: 0.0}


def test_what_no_other_reference_shows_is_not_known(monkeypatch):
    one, two = ball((1, 32, 32), (0, 16, 16), 8, name="one"), ball((1, 32, 32), (0, 16, 16), 8, name="two")
    two.label[two.label == 2] = 1
    described = spec_of_values(("MR",), {0, 1, 2}, "x", ".png")
    few = FewShot(references=References(spec=described, cases=(), examples=(one, two)), model=None)
    monkeypatch.setattr(
        FewShot, "propose", lambda self, method, image, others: Proposal(label=one.label, confidence={})
    )
    scores = few.leave_one_out(["nearest"])["nearest"]
    assert np.isnan(scores[2][0]) and scores[2][1] == 0 and scores[1][0] == 1


def test_a_hole_in_one_slice_is_filled(seed, monkeypatch):
    ring = ball((1, 32, 32), (0, 16, 16), 8)
    ring.label[ring.label == 2] = 0
    few = FewShot(
        references=References(spec=spec_of_values(("MR",), {0, 1}, "x", ".png"), cases=(), examples=(ring,)), model=seed
    )
    monkeypatch.setattr(per_sam, "find_all", lambda *_, **__: (ring.label.copy(), {1: 0.5}))
    filled = few.propose("per_sam", ring).label
    assert (filled == 1).sum() == (ball((1, 32, 32), (0, 16, 16), 8).label > 0).sum()


def test_prompts_lie_where_they_should():
    chance = np.zeros((80, 80))
    chance[20:40, 20:60] = 1
    prompts = mpa.prompts_from(chance)
    assert len(prompts.inside) == 2 and all(chance[tuple(place)] for place in prompts.inside)
    assert np.hypot(*(prompts.inside[0] - prompts.inside[1])) > 5
    away = ndimage.distance_transform_edt(chance == 0)
    assert len(prompts.outside) == 4 and all(3 < away[tuple(place)] <= 7 for place in prompts.outside)
    assert prompts.box == (17, 16, 42, 63)


def test_the_best_method_on_the_references_is_taken_and_with_one_reference_that_for_its_kind():
    assert best_of({"per_sam": {1: [0.2], 2: [0.4]}, "sam_mpa": {1: [0.5], 2: [0.3]}}, "nearest") == "sam_mpa"
    assert best_of({"per_sam": {1: [np.nan]}, "sam_mpa": {1: []}}, "nearest") == "nearest"
    assert best_of({"per_sam": {1: [np.nan, 0.4]}, "sam_mpa": {1: [0.2, 0.5]}}, "nearest") == "per_sam"
    organ, cells = ball((1, 64, 64), (0, 30, 30), 9), ball((1, 64, 64), (0, 30, 30), 9)
    cells.label[:, 50:58, 50:62] = 1
    for example, method in ((organ, "registration"), (cells, "per_sam_f")):
        described = spec_of_values(("MR",), {0, 1, 2}, "x", ".png")
        references = References(spec=described, cases=(), examples=(example,))
        assert FewShot(references=references, model=None).untried == method
