from __future__ import annotations

import numpy as np
import pytest
from phantoms import ball
from scipy import ndimage

from samunet.core.volume import Volume
from samunet.errors import PredictionError
from samunet.fewshot import mpa
from samunet.fewshot.examples import Example, References, spec_of_values
from samunet.fewshot.methods import FewShot, best_of
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


def dice(example, warped):
    label = mpa.most_likely(mpa.combined([warped], example.label.shape), (1, 2))
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
    pair = Pair(
        fixed=example.volume, moving=example.volume, label=example.known(), values=(1,), settings=Registration()
    )
    assert register_all([pair], workers=1) == [None]
    assert caplog.messages == ["A registration failed: ValueError: too few samples"]
    assert "Traceback" not in capfd.readouterr().err


def test_of_several_references_the_more_alike_one_counts():
    soft = np.zeros((2, 1, 1, 4, 4), np.float16)
    soft[0, 0, 0, :2], soft[1, 0, 0, 2:] = 1, 1
    alike, unlike = Warped(soft=soft[0], likeness=0.9), Warped(soft=soft[1], likeness=0.1)
    label = mpa.most_likely(mpa.combined([alike, unlike], (1, 8, 8)), (5,))
    assert (label[0, :3] == 5).all() and (label[0, 5:] == 0).all()


def test_an_image_that_is_a_reference_keeps_its_label(seed):
    example = ball((3, 128, 128), (1, 60, 68), 30)
    example.label[example.label == 2] = 1
    chance = (example.label == 1)[None].astype(np.float32)
    label, _ = mpa.segment(seed, example, 0, chance, (1,))
    assert overlap(example.label, label, (1,)).dice >= 0.98


def test_a_structure_that_registration_does_not_find_is_absent(seed):
    example = ball((3, 32, 32), (1, 16, 16), 8)
    label, sure = mpa.segment(seed, example, 0, np.full((2, 3, 32, 32), 0.2, np.float32), (1, 2))
    assert not label.any() and sure == {1: 0.0, 2: 0.0}
    assert mpa.prompts_from(np.full((32, 32), 0.2)) is None


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
    assert best_of({"per_sam": {1: []}, "sam_mpa": {1: []}}, "nearest") == "nearest"
    organ, cells = ball((1, 64, 64), (0, 30, 30), 9), ball((1, 64, 64), (0, 30, 30), 9)
    cells.label[:, 50:58, 50:62] = 1
    for example, method in ((organ, "registration"), (cells, "per_sam_f")):
        described = spec_of_values(("MR",), {0, 1, 2}, "x", ".png")
        references = References(spec=described, cases=(), examples=(example,))
        assert FewShot(references=references, model=None).untried == method
