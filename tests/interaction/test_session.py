"""An annotation: what prompts, brushes and carrying on make of a volume, and that nothing accepted is lost."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading

import numpy as np
import pytest
from annotating import OBLIQUE, SHAPE, Discs, volume
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from samunet.core.geometry import Geometry
from samunet.core.names import journal_of
from samunet.core.prompts import BOX, INSIDE
from samunet.errors import ConfigError, DatasetError, InUseError, ShapeError
from samunet.imageio import reader_of_image
from samunet.interaction import session as session_module
from samunet.interaction.session import Session
from samunet.interaction.slices import Answer
from samunet.interaction.state import Step, Thing

VOXELS = st.tuples(*(st.integers(0, size - 1) for size in SHAPE))
LIVER = Thing(value=1, name="liver", color="#000000")
SPHERE = Geometry(shape=(21, 40, 40), spacing=(2.0, 0.5, 0.5))


@pytest.fixture
def session(tmp_path):
    with Session(volume(), Discs(), tmp_path / "case.nii.gz") as session:
        session.name_object("liver")
        session.name_object("tumor")
        yield session


def reopened(session, **options):
    session.close()
    return Session(session.volume, Discs(), session.output, **({"start": session.start} | options))


def test_a_click_is_a_draft_until_it_is_accepted(session):
    change = session.add_prompt("point", [(2, 5, 6)], value=1)
    assert not session.state.labels.any() and session.labels()[2, 5, 6] == 1
    assert np.array_equal(change.labels.array(), session.labels()[2:3, 3:8, 4:9])
    session.accept()
    assert session.state.draft is None and session.state.labels.sum() == 13  # pixels within 2 of one


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_click_segments_its_plane_across_each_axis(session, axis):
    session.add_prompt("point", [(2, 5, 6)], value=1, axis=axis)
    there = np.argwhere(session.labels() == 1)
    assert set(there[:, axis]) == {(2, 5, 6)[axis]} and len(there) > 5


def test_a_correction_removes_what_was_accepted_and_leaves_other_pieces(session):
    session.add_prompt("point", [(2, 2, 2)], value=1)
    session.accept()
    session.add_prompt("point", [(2, 7, 9)], value=1)
    session.accept()
    session.add_prompt("point", [(2, 2, 3)], value=1, include=False)
    session.accept()
    labels = session.state.labels[2]
    assert labels[2, 3] == 0 and labels[2, 1] == 1 and labels[7, 9] == 1


def test_an_object_takes_voxels_of_another_only_where_it_may(session):
    session.add_prompt("point", [(2, 5, 6)], value=1)
    session.add_prompt("point", [(2, 5, 7)], value=2)
    assert session.labels()[2, 5, 6] == 1 and session.labels()[2, 5, 9] == 2
    session.undo()
    session.add_prompt("point", [(2, 5, 7)], value=2, over=True)
    assert session.labels()[2, 5, 6] == 2


def test_another_plane_or_object_accepts_the_draft_first(session):
    session.add_prompt("point", [(2, 5, 6)], value=1)
    session.add_prompt("point", [(3, 5, 6)], value=1)
    session.add_prompt("point", [(3, 2, 2)], value=2)
    assert [op for op, _ in session.steps] == ["object", "object", "point", "accept", "point", "accept", "point"]
    assert session.state.labels[2, 5, 6] == session.state.labels[3, 5, 6] == 1


def test_prompts_wait_until_the_model_is_asked(session):
    assert session.add_prompt("point", [(2, 2, 2)], value=1, predict=False).labels is None
    session.add_prompt("point", [(2, 7, 9)], value=1, predict=False)
    session.predict()
    assert session.labels()[2, 2, 2] == session.labels()[2, 7, 9] == 1


def test_boxes_scribbles_and_lassos_show_areas(session):
    session.add_prompt("box", [(1, 2, 3), (1, 5, 8)], value=1)
    assert np.array_equal(np.argwhere(session.labels()[1])[[0, -1]], [[2, 3], [5, 8]])
    session.add_prompt("lasso", [(2, 1, 1), (2, 1, 6), (2, 6, 1)], value=1)
    assert session.labels()[2, 2, 2] == 1 and session.labels()[2, 5, 5] == 0
    session.add_prompt("scribble", [(3, 4, 0), (3, 4, 11)], value=1)
    assert session.labels()[3, 4].all() and not session.labels()[3, 8].any()


def test_a_brush_is_as_wide_in_mm_as_asked_for(session):
    session.paint([(2, 5, 6)], value=1, radius=1.0)  # pixels of 1 mm x 0.5 mm
    assert session.state.labels[2].sum() == 2 * 2 + 1 + 2
    session.paint([(2, 5, 6)], value=1, radius=0, erase=True)
    assert session.state.labels[2].sum() == 6
    session.paint([(2, 5, 6), (2, 5, 6)], value=2, radius=1.0)
    assert (session.state.labels[2] == 2).sum() == 1  # what is another object's stays
    session.paint([(2, 5, 6)], value=2, radius=1.0, over=True)
    assert (session.state.labels[2] == 2).sum() == 7


def test_between_two_discs_radii_are_linear_in_mm(tmp_path):
    """Radii of 4 and 8 mm, 8 planes apart: each plane between them adds half a mm."""
    grid = Geometry(shape=(9, 60, 80), spacing=(2.0, 0.5, 0.4))
    h, w = np.ogrid[:60, :80]
    far = np.hypot((h - 30) * 0.5, (w - 40) * 0.4)
    start = np.zeros(grid.shape, np.uint8)
    start[0], start[8] = far <= 4, far <= 8
    with Session(volume(grid), Discs(), tmp_path / "x.nii.gz", start=start) as session:
        assert session.interpolate(value=1).note == "7 planes filled"
        radii = [np.sqrt(plane.sum() * 0.2 / np.pi) for plane in session.state.labels]
        assert np.allclose(radii, 4 + np.arange(9) / 2, atol=0.25)  # half a pixel
        with pytest.raises(ConfigError, match="leaves no plane empty"):
            session.interpolate(value=1)


def test_between_two_discs_apart_there_is_an_oblique_tube(tmp_path):
    start = np.zeros((5, 20, 60), np.uint8)
    for plane, column in ((0, 10), (4, 50)):
        start[plane] = np.hypot(*np.ogrid[-10:10, -column : 60 - column]) <= 5
    with Session(
        volume(Geometry(shape=start.shape, spacing=(1, 1, 1))), Discs(), tmp_path / "x.nii.gz", start=start
    ) as s:
        s.interpolate(value=1)
        assert [int(np.argwhere(plane)[:, 1].mean()) for plane in s.state.labels] == [10, 20, 30, 40, 50]
        assert all(0.9 < plane.sum() / start[0].sum() < 1.1 for plane in s.state.labels)


class Shrinking(Discs):
    """Answers a box less its rim."""

    def answer(self, features, drawn, spacing):
        rows, columns = np.nonzero(drawn & BOX)
        mask = np.zeros(drawn.shape, bool)
        mask[rows.min() + 1 : rows.max(), columns.min() + 1 : columns.max()] = True
        assert (drawn & INSIDE > 0).sum() == 1 and drawn[19, 19] == BOX | INSIDE  # of equal places the first
        return Answer(mask, 1.0)


def test_propagation_ends_where_the_area_collapses(tmp_path):
    start = np.zeros(SPHERE.shape, np.uint8)
    start[10, 10:30, 10:30] = 1
    with Session(volume(SPHERE), Shrinking(), tmp_path / "x.nii.gz", start=start) as session:
        change = session.propagate(10, value=1, step=-1)
        # sides of 20, 18, ..., 8, 6: from 6 to 4 the area falls below a half
        assert change.note == "7 planes; in plane 2 the area goes from 36 to 16 pixels"
        assert [int(plane.sum()) for plane in session.state.labels[2:11]] == [0, *(side**2 for side in range(6, 21, 2))]
        assert session.propagate(10, value=1, step=1, most=2).note == "2 planes; it was asked for no more"
        session.undo()
        assert not session.state.labels[11:].any() and session.state.labels[3:11].any()
        assert session.propagate(4, value=1, step=1).note == "0 planes; plane 5 shows it already"
        with pytest.raises(ConfigError, match="shows 0 pixels"):
            session.propagate(0, value=1)


def test_propagation_ends_where_the_object_is_no_longer_as_bright(tmp_path):
    image = volume(SPHERE)
    image.array[0, 13:] += 1.5
    start = np.zeros(SPHERE.shape, np.uint8)
    start[10, 10:30, 10:30] = 1
    with Session(image, Shrinking(), tmp_path / "x.nii.gz", start=start) as session:
        note = "2 planes; in plane 13 it is not as bright as where it came from"
        assert session.propagate(10, value=1).note == note


def test_undoing_everything_gives_the_bytes_of_the_beginning(tmp_path):
    start = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    with Session(volume(), Discs(), tmp_path / "case.nii.gz", start=start) as session:
        session.add_prompt("point", [(2, 5, 6)], value=1, over=True)
        session.paint([(1, 1, 1), (1, 8, 9)], value=2, radius=2.0, over=True)
        session.set_object(np.ones(SHAPE, bool), value=1, over=True)
        after = session.labels().tobytes()
        while session.state.can_undo:
            session.undo()
        assert session.labels().tobytes() == start.tobytes()
        while session.state.can_redo:
            session.redo()
        assert session.labels().tobytes() == after


def test_labels_are_written_on_the_images_grid(session):
    session.add_prompt("point", [(2, 5, 6)], value=2)
    session.save()
    labels, geometry = reader_of_image(session.output, None).read_label(session.output)
    assert np.array_equal(labels, session.labels()) and labels[2, 5, 6] == 2
    assert geometry.shape == OBLIQUE.shape and geometry.voxels_apart(OBLIQUE) < 1e-3


def test_a_session_goes_on_where_it_ended_with_names_draft_and_undo(session):
    session.name_object("lesion", 2)
    session.add_prompt("point", [(2, 5, 6)], value=1)
    before = session.labels()
    with reopened(session) as again:
        assert [thing.name for thing in again.state.objects] == ["liver", "lesion"]
        assert np.array_equal(again.labels(), before) and again.state.draft.prompts[0].points == ((2, 5, 6),)
        again.undo()
        again.undo()
        assert [thing.name for thing in again.state.objects] == ["liver", "tumor"] and not again.labels().any()


def test_a_case_that_was_merely_opened_begins_with_what_there_is_today(session):
    session.name_object("liver metastasis", 2)
    prediction = np.zeros(SHAPE, np.uint8)
    prediction[2, 3:6] = 1
    later = [Thing(value=value, name=name, color="#000000") for value, name in ((1, "Liver"), (3, "spleen"))]
    with reopened(session, start=prediction, objects=later) as again:
        assert np.array_equal(again.labels(), prediction)
        assert [thing.name for thing in again.state.objects] == ["liver", "liver metastasis", "spleen"]
        again.paint([(1, 1, 1)], value=3, radius=0)
        kept = again.labels()
    more = [*later, Thing(value=4, name="kidney", color="#000000")]
    with reopened(again, start=np.zeros(SHAPE, np.uint8), objects=more) as once_more:  # the journal goes before it
        assert np.array_equal(once_more.labels(), kept)
        assert [thing.value for thing in once_more.state.objects] == [1, 2, 3, 4]
        assert once_more.paint([(1, 2, 2)], value=4, radius=0).labels is not None
        once_more.undo()
        once_more.undo()
    later = [*more, Thing(value=5, name="pancreas", color="#000000")]
    with reopened(once_more, objects=later) as last:  # a class that comes later is no step of the user's
        assert last.state.can_redo and [thing.value for thing in last.state.objects] == [1, 2, 3, 4, 5]
        last.redo()
        assert np.array_equal(last.labels(), kept) and last.name_object(value=5).name == "pancreas"


def test_of_two_undos_at_once_one_is_refused_before_it_is_written(tmp_path):
    with Session(volume(), Discs(), tmp_path / "case.nii.gz", objects=[LIVER]) as session:
        session.paint([(1, 1, 1)], value=1, radius=0)
        refused = []

        def undo():
            try:
                session.undo()
            except ConfigError as error:
                refused.append(str(error))

        with session._lock:  # as while an object is carried on
            threads = [threading.Thread(target=undo) for _ in range(2)]
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join()
        assert refused == ["There is nothing to undo."]
        session._journal.append(Step(op="undo", at=0.0))  # as an earlier version left it
    with reopened(session) as again:
        assert not again.labels().any() and again.state.can_redo


def test_a_quality_that_is_no_number_is_none(tmp_path, monkeypatch):
    with Session(volume(), Discs(), tmp_path / "case.nii.gz", objects=[LIVER]) as session:
        monkeypatch.setattr(
            session_module, "ask_plane", lambda *_: Answer(mask=np.ones(SHAPE[1:], bool), quality=float("nan"))
        )
        session.add_prompt("point", [(2, 5, 6)], value=1)
    with reopened(session) as again:
        assert again.state.draft.quality is None and again.labels()[2].all()


def test_the_spacing_of_a_tiff_stack_lies_beside_the_labels(tmp_path):
    with Session(volume(), Discs(), tmp_path / "case.tif", objects=[LIVER]) as session:
        session.paint([(1, 1, 1)], value=1, radius=0)
        session.save()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["case.json", "case.tif"]
    labels, geometry = reader_of_image(session.output, None).read_label(session.output)
    assert np.array_equal(labels, session.labels()) and geometry.spacing == pytest.approx(OBLIQUE.spacing)


def test_voxels_of_others_are_carried_over_where_that_is_asked_for(tmp_path):
    start = np.zeros(SHAPE, np.uint8)
    start[[1, 3], 2:6, 2:6], start[2] = 1, 2
    for over, there in ((False, 0), (True, 16)):
        with Session(volume(), Discs(), tmp_path / f"{over}.nii.gz", start=start, objects=[LIVER]) as session:
            session.interpolate(value=1, over=over)
            assert (session.labels()[2] == 1).sum() == there
            session.undo()
            session.set_object(np.arange(SHAPE[0])[:, None, None] + 0 * start == 4, value=2, over=True)
            change = session.propagate(3, value=1, over=over)
            assert (change.labels is not None) == over


def test_the_journal_of_another_image_is_refused(session):
    session.close()
    with pytest.raises(DatasetError, match="the journal of another image"):
        Session(volume(seed=1), Discs(), session.output)


def test_a_file_that_another_program_wrote_is_not_overwritten(session):
    session.save()
    with reopened(session) as again:
        again.save()
    session.output.write_bytes(b"another program's")
    with pytest.raises(DatasetError, match="was changed by another program"):
        Session(session.volume, Discs(), session.output)


def test_a_file_that_cannot_be_put_in_its_place_does_not_count_as_saved(session, monkeypatch):
    def locked(source, target, replace=os.replace):
        if target == session.output:
            raise OSError(13, "Permission denied")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("samunet.core.codec.os.replace", locked)
        with pytest.raises(OSError, match="Permission denied"):
            session.save()
    assert [op for op, _ in session.steps] == ["object", "object"]
    session.save()
    with reopened(session) as again:
        again.save()


def test_two_programs_do_not_annotate_one_file(session, monkeypatch):
    monkeypatch.setattr("samunet.core.lock.WAIT_S", 0.0)
    with pytest.raises(InUseError, match="in use by"):
        Session(session.volume, Discs(), session.output)


def test_a_damaged_line_before_others_is_refused_and_half_a_last_one_cut_off(session):
    session.paint([(1, 1, 1)], value=1, radius=0)
    session.paint([(1, 2, 2)], value=1, radius=0)
    session.close()
    path = journal_of(session.output)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with Session(session.volume, Discs(), session.output) as again:
        assert again.labels()[1, 1, 1] == 1 and again.labels()[1, 2, 2] == 0
    path.write_bytes(whole.replace(b'"op":"paint"', b'"op":"erase"', 1))
    with pytest.raises(DatasetError, match=r"line 4 is damaged\. .* leave of it here its first 3 lines"):
        Session(session.volume, Discs(), session.output)


@pytest.mark.parametrize("spoil", [lambda line: line[:-7], lambda line: line.replace(b"5", b"6", 1), lambda _: b""])
def test_a_damaged_first_line_is_refused_by_name_and_kept(session, spoil):
    session.close()
    path = journal_of(session.output)
    damaged = spoil(path.read_bytes().splitlines(keepends=True)[0])
    path.write_bytes(damaged)
    with pytest.raises(DatasetError, match=rf"{path}: line 1 is damaged\. .* go on from the label file"):
        Session(session.volume, Discs(), session.output)
    assert path.read_bytes() == damaged


def test_a_whole_last_line_that_is_damaged_is_refused_and_kept(session):
    session.paint([(1, 1, 1)], value=1, radius=0)
    session.close()
    path = journal_of(session.output)
    damaged = path.read_bytes().replace(b'"op":"paint"', b'"op":"erase"')
    path.write_bytes(damaged)
    with pytest.raises(DatasetError, match="line 4 is damaged"):
        Session(session.volume, Discs(), session.output)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("only_first", [True, False])
def test_a_last_line_that_lacks_its_end_alone_is_kept_and_the_next_one_begins_behind_it(session, only_first):
    session.paint([(1, 1, 1)], value=1, radius=0)
    session.close()
    path = journal_of(session.output)
    lines = path.read_bytes().splitlines(keepends=True)
    kept = lines[:1] if only_first else lines
    path.write_bytes(b"".join(kept)[:-1])
    with Session(session.volume, Discs(), session.output) as again:
        assert len(again.steps) == len(kept) - 1 and again.labels()[1, 1, 1] == (not only_first)
        thing = again.name_object()
        again.paint([(1, 2, 2)], value=thing.value, radius=0)
    assert path.read_bytes().startswith(b"".join(kept))
    with Session(session.volume, Discs(), session.output) as again:
        assert len(again.steps) == len(kept) + 1 and again.labels()[1, 2, 2] == thing.value


class Failing:
    """A journal's file on a disk that takes half a line, and does not give it back."""

    def __init__(self, file):
        self.file = file

    def write(self, line):
        self.file.write(line[: len(line) // 2])
        raise OSError(28, "No space left on device")

    def truncate(self, _):
        raise OSError(5, "Input/output error")

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_half_a_line_that_cannot_be_taken_back_spoils_no_later_one(session):
    session.paint([(1, 1, 1)], value=1, radius=0)
    journal, file = session._journal, session._journal._file
    journal._file = Failing(file)
    with pytest.raises(OSError, match="No space left"):
        session.paint([(1, 2, 2)], value=1, radius=0)
    with pytest.raises(OSError, match="Input/output error"):
        session.paint([(1, 2, 2)], value=1, radius=0)
    journal._file = file
    session.paint([(1, 3, 3)], value=1, radius=0)
    with reopened(session) as again:
        assert np.argwhere(again.labels()).tolist() == [[1, 1, 1], [1, 3, 3]]


def test_a_step_that_cannot_be_written_leaves_everything_as_it_was(session, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("samunet.interaction.journal.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            session.paint([(1, 1, 1)], value=1, radius=0)
    assert not session.labels().any()
    session.paint([(1, 2, 2)], value=1, radius=0)
    with reopened(session) as again:
        assert again.labels().sum() == 1


def test_what_does_not_fit_is_refused_with_a_sentence(session, tmp_path):
    for message, call in {
        "There is no object 7; there are: 1 \\(liver\\), 2 \\(tumor\\)": lambda: session.paint([], value=7, radius=1),
        r"lies in the image of 12 x 10 x 6 voxels; got \[12, 5, 2\]": lambda: session.add_prompt(
            "point", [(2, 5, 12)], value=1
        ),
        "An axis is 0, 1 or 2": lambda: session.interpolate(value=1, axis=3),
        "must lie in one plane": lambda: session.add_prompt("lasso", [(1, 2, 3), (2, 3, 4)], value=1),
        "got 'circle' of 1": lambda: session.add_prompt("circle", [(1, 2, 3)], value=1),
        "that no other has; got 'tumor'": lambda: session.name_object("tumor", 1),
        "There is nothing to redo": session.redo,
        "There is no draft": session.predict,
        "radius must be 0 mm or more": lambda: session.paint([(1, 1, 1)], value=1, radius=-1.0),
        "from 0 to 65535; these are from 0 to 70000": lambda: Session(
            session.volume, Discs(), tmp_path / "many.nii.gz", objects=[Thing(value=70_000, name="a", color="#000000")]
        ),
        "was closed since; open its image again": lambda: reopened(session).close() or session.undo(),
        "has no ending of an image file": lambda: Session(session.volume, Discs(), tmp_path / "labels"),
    }.items():
        with pytest.raises(ConfigError, match=message):
            call()
    with pytest.raises(ShapeError, match="they share one"):
        Session(session.volume, Discs(), tmp_path / "b.nii.gz", start=np.zeros((1, 2, 3), np.uint8))
    assert [op for op, _ in session.steps] == ["object", "object"]


def test_more_than_255_objects_need_labels_of_16_bits(tmp_path):
    with (
        Session(
            volume(), Discs(), tmp_path / "a.nii.gz", objects=[Thing(value=255, name="last", color="#000000")]
        ) as s,
        pytest.raises(ConfigError, match="uint8, which has no place for object 256"),
    ):
        assert [s.name_object().value for _ in range(254)] == [*range(1, 255)]
        s.name_object()
    start = np.full(SHAPE, 300, np.int32)
    with Session(volume(), Discs(), tmp_path / "b.nii.gz", start=start) as s:
        assert s.labels().dtype == np.uint16 and s.name_object().value == 301


class Annotation(RuleBasedStateMachine):
    """Random operations, undone, redone and begun again at any moment, against a list of volumes."""

    folders = itertools.count()

    @initialize(start=st.integers(0, 2**32 - 1))
    def begin(self, start):
        self.output = self.root / f"{next(self.folders)}" / "case.nii.gz"
        values = np.random.default_rng(start).integers(0, 3, SHAPE).astype(np.uint8) if start % 2 else None
        self.session = Session(volume(), Discs(), self.output, start=values)
        while len(self.session.state.objects) < 2:
            self.session.name_object()
        self.past, self.future = [], []
        self.now = self.session.labels().tobytes()

    def after(self, change):
        """Note what an operation did; undo steps are those that the session counts."""
        box = change.labels
        if box is not None:
            assert np.array_equal(self.session.state.shown(box.box), box.array())

    def operate(self, operation):
        before, count = self.now, len(self.session.steps)
        with contextlib.suppress(ConfigError):
            self.after(operation())
        new = self.session.steps[count:]
        if new:
            self.future = []
            # what is accepted by itself looks as before
            self.past += [before] * len(new)
        self.now = self.session.labels().tobytes()

    @rule(
        kind=st.sampled_from(["point", "box", "scribble", "lasso"]),
        points=st.lists(VOXELS, min_size=1, max_size=4),
        value=st.integers(1, 3),
        axis=st.integers(0, 2),
        include=st.booleans(),
        predict=st.booleans(),
        over=st.booleans(),
    )
    def prompt(self, kind, points, axis, **options):
        flat = [tuple(points[0][axis] if side == axis else place for side, place in enumerate(p)) for p in points]
        if kind == "point":
            flat = flat[:1]
        elif kind == "box":
            flat = [flat[0], flat[-1]]
        self.operate(lambda: self.session.add_prompt(kind, flat, axis=axis, **options))

    @rule(
        points=st.lists(VOXELS, min_size=1, max_size=4),
        value=st.integers(1, 3),
        axis=st.integers(0, 2),
        erase=st.booleans(),
        over=st.booleans(),
        radius=st.floats(0, 5),
    )
    def paint(self, points, axis, **options):
        flat = [tuple(points[0][axis] if side == axis else place for side, place in enumerate(p)) for p in points]
        self.operate(lambda: self.session.paint(flat, axis=axis, **options))

    @rule(value=st.integers(1, 3), axis=st.integers(0, 2), index=st.integers(0, 11), step=st.sampled_from([1, -1]))
    def propagate(self, value, axis, index, step):
        self.operate(lambda: self.session.propagate(index, value=value, axis=axis, step=step))

    @rule(value=st.integers(1, 3), axis=st.integers(0, 2))
    def interpolate(self, value, axis):
        self.operate(lambda: self.session.interpolate(value=value, axis=axis))

    @rule(seed=st.integers(0, 2**32 - 1), value=st.integers(1, 3), over=st.booleans())
    def set_object(self, seed, value, over):
        mask = np.random.default_rng(seed).random(SHAPE) < 0.3
        self.operate(lambda: self.session.set_object(mask, value=value, over=over))

    @rule(operation=st.sampled_from(["accept", "discard", "predict"]))
    def settle(self, operation):
        self.operate(getattr(self.session, operation))

    @rule()
    def undo(self):
        if not self.past:
            return
        self.after(self.session.undo())
        self.future.append(self.now)
        self.now = self.past.pop()

    @precondition(lambda self: self.future)
    @rule()
    def redo(self):
        self.after(self.session.redo())
        self.past.append(self.now)
        self.now = self.future.pop()

    @rule()
    def save(self):
        count = len(self.session.steps)
        self.session.save()
        if len(self.session.steps) - count == 2:  # it accepted a draft
            self.past.append(self.now)
            self.future = []
        assert reader_of_image(self.output, None).read_label(self.output)[0].tobytes() == (
            np.frombuffer(self.now, np.uint8).astype(np.int16).tobytes()
        )

    @rule()
    def begin_again(self):
        self.session = reopened(self.session)

    @invariant()
    def nothing_is_lost(self):
        if hasattr(self, "session"):
            assert self.session.labels().tobytes() == self.now

    def teardown(self):
        if hasattr(self, "session"):
            self.session.close()
            with reopened(self.session) as again:
                assert again.labels().tobytes() == self.now
                while self.past:
                    again.undo()
                    assert again.labels().tobytes() == self.past.pop()


def test_300_random_operations_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Annotation, "root", tmp_path, raising=False)
    monkeypatch.setattr(session_module, "known_ending", lambda path: ".nii.gz")
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Annotation, settings=settings(max_examples=10, stateful_step_count=30, deadline=None, database=None)
    )
