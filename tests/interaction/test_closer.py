"""A closer look at what prompts show in a plane, where that is small."""

import numpy as np
import pytest
from annotating import Discs
from hypothesis import given
from hypothesis import strategies as st

from samunet.checkpoints.seeds import shipped_seed
from samunet.core.geometry import Geometry
from samunet.core.prompts import BOX, INSIDE, MASK, OUTSIDE
from samunet.core.volume import Volume
from samunet.interaction.closer import AROUND, FEWEST, ask_plane, clicked, window_about
from samunet.interaction.embeddings import Embeddings, image_sha256
from samunet.interaction.slices import SeedModel


def looks_at(plane, model, spacing=(1.0, 1.0)):
    array = plane[None, None].astype(np.float32)
    volume = Volume(array=array, geometry=Geometry(shape=array.shape[1:], spacing=(1.0, *spacing)))
    return Embeddings(volume, model, image_sha256(volume))


def shown(shape, rows, columns):
    mask = np.zeros(shape, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


spans = st.tuples(st.integers(0, 299), st.integers(1, 300)).map(lambda pair: (pair[0], sum(pair)))
spacings = st.tuples(st.sampled_from([0.3, 1.0, 2.5]), st.sampled_from([0.5, 1.0, 4.0]))


@given(st.tuples(st.integers(1, 300), st.integers(1, 300)), spans, spans, spacings)
def test_a_window_holds_what_is_shown_and_is_square_in_mm(shape, rows, columns, spacing):
    mask = shown(shape, rows, columns)
    window = window_about(mask, spacing)
    if window is None:
        return
    part = tuple(slice(*side) for side in window)
    assert mask[part].sum() == mask.sum() > 0
    longest = max(n * step for n, step in zip(shape, spacing, strict=True))
    sides = [(stop - start) * step for (start, stop), step in zip(window, spacing, strict=True)]
    whole = [n * step for n, step in zip(shape, spacing, strict=True)]
    for side, most, step in zip(sides, whole, spacing, strict=True):
        assert side <= longest / 2**0.5 + step
        assert side >= min(most, max(sides) - max(spacing)) - 1e-6  # cut only where the plane ends
    assert all(0 <= start < stop <= n for (start, stop), n in zip(window, shape, strict=True))


def test_windows_by_hand():
    assert window_about(np.zeros((256, 256), bool), (1, 1)) is None
    assert window_about(shown((256, 256), (100, 180), (100, 110)), (1, 1)) is None  # 2.5 times 80 is no half of 256
    # 2.5 times 20 is 50: the size of 64, a quarter, whose places are 8 apart
    assert window_about(shown((256, 256), (100, 120), (100, 110)), (1, 1)) == ((80, 144), (72, 136))
    assert window_about(shown((256, 256), (0, 20), (250, 256)), (1, 1)) == ((0, 64), (192, 256))
    # 20 rows of 2 mm are as long as 40 columns of 1 mm; places of 128 mm are 16 apart
    assert window_about(shown((128, 256), (60, 80), (100, 140)), (2, 1)) == ((40, 104), (64, 192))
    assert window_about(shown((256, 256), (100, 101), (100, 101)), (1, 1)) == ((84, 116), (84, 116))
    assert AROUND == 2.5 and FEWEST == 24


class Closer(Discs):
    """Looks again at what is small; only what it is shown closer is to be seen in the answer."""

    looks_closer = True

    def __init__(self):
        super().__init__()
        self.shapes = []

    def answer(self, features, drawn, spacing):
        self.shapes.append(drawn.shape)
        return super().answer(features, drawn, spacing)


def test_the_answer_to_a_closer_look_lies_where_the_object_is():
    model = Closer()
    looks = looks_at(np.zeros((200, 300)), model)
    drawn = np.zeros((200, 300), np.uint8)
    drawn[120, 250] = INSIDE
    near = ask_plane(looks, 0, 0, drawn)
    plain = Discs().answer(looks.of(0, 0), drawn, (1, 1))
    assert np.array_equal(near.mask, plain.mask) and near.mask.sum() == 13
    assert model.shapes[0] == (200, 300) and max(model.shapes[1]) < 60
    again = model.encoded
    drawn[122, 250] = OUTSIDE
    ask_plane(looks, 0, 0, drawn)
    assert model.encoded == again, "the next click looks at the same part, which is encoded already"


def test_a_box_is_looked_at_closer_at_once():
    model = Closer()
    drawn = np.zeros((200, 300), np.uint8)
    drawn[10:22, 20:30] = BOX
    assert np.array_equal(ask_plane(looks_at(np.zeros((200, 300)), model), 0, 0, drawn).mask, drawn > 0)
    assert len(model.shapes) == model.encoded == 1


def test_what_is_not_of_the_object_may_lie_far_away():
    model = Closer()
    drawn = np.zeros((200, 300), np.uint8)
    drawn[20, 30], drawn[190, 290] = INSIDE, OUTSIDE
    mask = ask_plane(looks_at(np.zeros((200, 300)), model), 0, 0, drawn).mask
    assert mask.sum() == 13 and mask[20, 30] and max(model.shapes[-1]) < 60


def test_a_mask_that_leaked_does_not_keep_the_model_from_looking_closer():
    """The answer to the whole plane, which the mask fills, is small; so that is looked at again."""

    class Corrected(Closer):
        def answer(self, features, drawn, spacing):
            return super().answer(features, drawn & ~np.uint8(MASK), spacing)

    model = Corrected()
    drawn = np.full((200, 300), MASK, np.uint8)
    drawn[20, 30] |= INSIDE
    mask = ask_plane(looks_at(np.zeros((200, 300)), model), 0, 0, drawn).mask
    assert mask.sum() == 13 and [max(shape) < 60 for shape in model.shapes] == [False, True]


def test_an_object_that_fills_the_plane_is_asked_about_once():
    model = Closer()
    drawn = np.zeros((40, 40), np.uint8)
    drawn[5:35, 5:35] = BOX
    assert ask_plane(looks_at(np.zeros((40, 40)), model), 0, 0, drawn).mask.sum() == 900
    assert model.shapes == [(40, 40)]


def test_somebody_who_knows_the_target_clicks_until_it_is_reached():
    rows, columns = np.ogrid[:60, :80]
    first, second = (np.hypot(rows - row, columns - column) <= 2 for row, column in ((20, 30), (45, 60)))
    looks = looks_at(np.zeros((60, 80)), Discs())
    (mask,) = clicked(looks, 0, 0, first, 5)
    assert np.array_equal(mask, first)
    one, both = clicked(looks, 0, 0, first | second, 5)
    assert one.sum() == 13 and np.array_equal(both, first | second)
    assert len(clicked(looks, 0, 0, np.hypot(rows - 30, columns - 40) <= 9, 3)) == 3


@pytest.mark.parametrize("radius", [6, 10])
def test_the_seed_finds_small_objects_in_large_planes(radius):
    seed = SeedModel(shipped_seed(2))
    rows, columns = np.ogrid[:512, :512]
    target = ((rows - 300) / radius) ** 2 + ((columns - 140) / (1.4 * radius)) ** 2 <= 1
    plane = target + np.random.default_rng(0).normal(scale=0.2, size=target.shape)
    looks, drawn = looks_at(plane, seed), np.zeros(target.shape, np.uint8)
    drawn[300, 140] = INSIDE
    near, far = (
        2 * (mask & target).sum() / (mask.sum() + target.sum())
        for mask in (ask_plane(looks, 0, 0, drawn).mask, seed.answer(looks.of(0, 0), drawn, (1, 1)).mask)
    )
    assert near > 0.85 and near > far
    drawn[400, 420] = OUTSIDE
    again = ask_plane(looks, 0, 0, drawn).mask
    assert 2 * (again & target).sum() / (again.sum() + target.sum()) > 0.85
