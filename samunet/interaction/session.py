"""An annotation of one volume: prompts, drafts, brushes, undo and redo, and a label file in the end.

Whatever changes the volume is a step in the journal, on the disk before the call returns. Axes: D H W voxels of the
image file; a point is its (d, h, w) index.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from samunet.core.codec import atomic_path, file_sha256
from samunet.core.lock import held
from samunet.core.names import is_name, journal_of
from samunet.core.preprocessed import PreprocessedCase
from samunet.core.volume import Volume
from samunet.errors import ConfigError, DatasetError, ShapeError
from samunet.imageio import known_ending, writer_for
from samunet.interaction.closer import ask_plane, ask_whole_plane
from samunet.interaction.embeddings import Embeddings, image_sha256, plane_of, plane_spacing
from samunet.interaction.journal import Journal, begin
from samunet.interaction.operations import answered, changed, interpolated, propagated, replaced
from samunet.interaction.shapes import check_voxels, in_plane, stroke
from samunet.interaction.slices import Answer, PlaneModel
from samunet.interaction.state import (
    CLASSES,
    KINDS,
    Block,
    Box,
    Draft,
    Prompt,
    State,
    Step,
    Thing,
    Voxel,
    extent,
    hull,
    new_thing,
    plane_box,
    slices,
)
from samunet.interaction.volumes import VolumeModel

POINTS_OF = {"point": 1, "box": 2}
MOST_POINTS = 10_000  # of a line, and prompts of a draft


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a call made of the volume."""

    labels: Block | None = None
    """Labels with the draft in them, where they may have changed; None where nothing did."""
    note: str = ""
    """In words, where there is something to say."""


class Session:
    """One annotation at a time, of one label file; calls from several threads wait for each other.

    Args:
        volume: the image.
        model: for planes or volumes.
        output: label file to write, of a known format.
        start: labels to begin with, (D, H, W) whole numbers; None for none. A journal beside `output` goes before it,
            once something was annotated.
        objects: what is annotated, by value; others that `start` holds are added.
        embeddings: folder of those of the image, see `samunet.interaction.embeddings`.

    Raises:
        InUseError: another program annotates the same file.
        DatasetError: the journal is of another image, or the label file was written by others since.
        ConfigError, ShapeError: `output` has no known ending; `start` has another shape than the image.
    """

    def __init__(
        self,
        volume: Volume,
        model: PlaneModel | VolumeModel,
        output: Path,
        *,
        start: np.ndarray | None = None,
        objects: Sequence[Thing] = (),
        embeddings: Path | None = None,
    ) -> None:
        if not known_ending(output):
            raise ConfigError(f"{output} has no ending of an image file; name it, for example, case.nii.gz.")
        if start is not None and start.shape != volume.geometry.shape:
            raise ShapeError(f"The labels have shape {start.shape}, the image {volume.geometry.shape}; they share one.")
        self.volume, self.output, self.image = volume, output, image_sha256(volume)
        self.looks = None if isinstance(model, VolumeModel) else Embeddings(volume, model, self.image, embeddings)
        """What the model sees in planes; None where it looks at volumes."""
        self._model, self._lock = model, threading.RLock()
        self._case: PreprocessedCase | None = None
        with ExitStack() as stack:
            journal = journal_of(output)
            stack.enter_context(held(journal.parent, name=output.name))
            start = np.zeros(volume.geometry.shape, np.uint8) if start is None else start
            file = file_sha256(output) if output.is_file() else None
            self._journal = Journal(journal, partial(begin, self.image, file, start, objects))
            stack.callback(lambda: self._journal.close())
            self._replay(file)
            new = self._new(objects)
            if not self._touched:  # today's labels are the beginning
                self._journal.restart(begin(self.image, file, start, (*self.state.objects, *new)))
                self._replay(file)
            elif new:
                self._commit(Step(op=CLASSES, at=time.time(), objects=new))
            self._closing = stack.pop_all()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session; what is accepted and what is a draft are found again when it is opened."""
        with self._lock:
            self._closing.close()

    @property
    def _touched(self) -> bool:
        """Whether something was annotated, and not only named."""
        return any(op not in ("object", CLASSES) for op, _ in self.steps)

    def _new(self, objects: Sequence[Thing]) -> tuple[Thing, ...]:
        """Return those objects that the journal does not know and the labels have a place for."""
        values, names = ({getattr(thing, name) for thing in self.state.objects} for name in ("value", "name"))
        most = np.iinfo(self.state.labels.dtype).max
        return tuple(one for one in objects if one.value not in values and one.name not in names and one.value <= most)

    def _replay(self, file: str | None) -> None:
        start, files = self._journal.start, {self._journal.start.file}
        if start.image != self.image:
            raise DatasetError(
                f"{self._journal.path} is the journal of another image. Move it away, or name another label file."
            )
        self.start = start.labels.array()
        """Labels at the very beginning."""
        self.state = State(self.start.copy(), start.objects)
        self.steps: list[tuple[str, float]] = []
        """Name and time of every step since then."""
        for step in self._journal.steps():
            if not self.state.can(step.op):  # of two at once, in journals of earlier versions
                continue
            self.state.move(step)
            self.steps.append((step.op, step.at))
            files.add(step.sha256)
        if self._touched and file is not None and file not in files:
            raise DatasetError(
                f"{self.output} was changed by another program since it was annotated here. To go on from the file as "
                f"it is, move its journal {self._journal.path} away; to go on from the journal, move the file away."
            )

    def labels(self) -> np.ndarray:
        """Return the (D, H, W) labels with the draft in them."""
        with self._lock:
            return self.state.shown()

    def name_object(self, name: str | None = None, value: int | None = None) -> Thing:
        """Rename an object, or add one with the next free value.

        Raises:
            ConfigError: there is no such object, another one has the name, or no value is free.
        """
        with self._lock:
            objects, dtype = self.state.objects, self.state.labels.dtype
            taken, most = {thing.value for thing in objects}, np.iinfo(dtype).max
            after = 1 + max(taken, default=0)
            new = after if after <= most else next((free for free in range(1, most) if free not in taken), after)
            thing = new_thing(new) if value is None else self._object(value)
            if thing.value > most:
                raise ConfigError(f"The labels are {dtype}, which has no place for object {new}.")
            thing = thing if name is None else replace(thing, name=name)
            others = [other for other in objects if other.value != thing.value]
            if not is_name(thing.name) or thing.name in {other.name for other in others}:
                raise ConfigError(f"An object needs a name of 1 to 200 characters that no other has; got {name!r:.80}.")
            listed = tuple(sorted((*others, thing), key=lambda thing: thing.value))
            self._take("object", draft=self.state.draft, objects=listed)
            return thing

    def _object(self, value: int) -> Thing:
        for thing in self.state.objects:
            if thing.value == value:
                return thing
        known = ", ".join(f"{thing.value} ({thing.name})" for thing in self.state.objects) or "none"
        raise ConfigError(f"There is no object {value}; there are: {known}.")

    def add_prompt(
        self,
        kind: str,
        points: Sequence[Voxel],
        *,
        value: int,
        axis: int = 0,
        include: bool = True,
        predict: bool = True,
        over: bool = False,
    ) -> Change:
        """Show an object, or what is not of it; in another plane, or for another object, the draft is accepted first.

        Args:
            kind: "point", "box", "scribble" or "lasso".
            points: see `Prompt.points`.
            value: of the object.
            axis: across which planes are segmented, where the model segments planes.
            include: False shows what is not of the object.
            predict: ask the model; False only keeps the prompt.
            over: the object may take voxels of others.

        Raises:
            ConfigError: there is no such object or axis, or a point lies outside the image or the plane.
        """
        with self._lock:
            if kind not in KINDS or len(points) != POINTS_OF.get(kind, len(points)):
                raise ConfigError(
                    f"A prompt is a point of 1 voxel, a box of 2, a scribble or a lasso; got {kind!r} of {len(points)}."
                )
            self._check(value, axis, points)
            flat = self.looks is not None or kind in ("scribble", "lasso")
            index = in_plane(points, axis)[1] if flat else None
            where = (0, None) if self.looks is None else (axis, index)  # a volume has one draft in all views
            taken, old = Change(), self.state.draft
            if old is not None and (old.value, old.axis, old.index) != (value, *where):
                taken, old = self.accept(), None
            draft = old or Draft(value=value, axis=where[0], index=where[1])
            if len(draft.prompts) >= MOST_POINTS:
                raise ConfigError(f"A draft has {MOST_POINTS} prompts at most; accept it first.")
            prompt = Prompt(kind=kind, points=tuple(points), include=include)
            draft = replace(draft, prompts=(*draft.prompts, prompt))
            return self._joined(taken, self._take(kind, draft=self._answered(draft, over) if predict else draft))

    def predict(self, *, over: bool = False) -> Change:
        """Ask the model about the prompts of the draft; raises ConfigError where there is none."""
        with self._lock:
            if self.state.draft is None:
                raise ConfigError("There is no draft; give a prompt first.")
            return self._take("predict", draft=self._answered(self.state.draft, over))

    def accept(self) -> Change:
        """Make the draft part of the labels; without one nothing happens."""
        with self._lock:
            if (draft := self.state.draft) is None:
                return Change()
            box = None if draft.mask is None else draft.mask.box
            return self._take("accept", box=box, labels=None if box is None else self.state.shown(box))

    def discard(self) -> Change:
        """Drop the draft; without one nothing happens."""
        with self._lock:
            return self._take("discard") if self.state.draft is not None else Change()

    def _answered(self, draft: Draft, over: bool) -> Draft:
        """Ask the model about a draft."""
        shape = self.volume.geometry.shape
        region = plane_box(shape, draft.axis, draft.index)
        drawn = np.zeros(shape, np.uint8)
        for prompt in draft.prompts:
            prompt.draw(drawn)
        where = slices(region)
        labels, before = self.state.labels[where], None
        if draft.mask is not None:
            before = np.zeros(labels.shape, bool)
            before[slices(draft.mask.box, region)] = draft.mask.array()
        answer = answered(labels == draft.value, drawn[where], before, partial(self._ask, draft))
        mask = answer.mask if over else answer.mask & ((labels == 0) | (labels == draft.value))
        box = extent(mask | (labels == draft.value))
        corner = [start + at for (start, _), (at, _) in zip(box, region, strict=True)]
        quality = None if answer.quality is None or not np.isfinite(answer.quality) else answer.quality
        return replace(draft, mask=Block.of(mask[slices(box)], corner), quality=quality)

    def _ask(self, draft: Draft, drawn: np.ndarray) -> Answer:
        if draft.index is not None:
            return ask_plane(self._planes(), draft.axis, draft.index, drawn.squeeze(draft.axis))
        if not isinstance(self._model, VolumeModel):
            raise ConfigError(f"Model {self._model.name} segments planes; discard the draft of another model first.")
        self._case = self._case or self._model.open(self.volume)
        return self._model.answer(self._case, drawn)

    def _planes(self) -> Embeddings:
        if self.looks is None:
            raise ConfigError(f"Model {self._model.name} segments volumes, and not plane by plane.")
        return self.looks

    def paint(
        self,
        points: Sequence[Voxel],
        *,
        value: int,
        radius: float,
        axis: int = 0,
        erase: bool = False,
        over: bool = False,
    ) -> Change:
        """Draw with a round brush within a plane, or erase the object there; the draft is accepted first.

        Args:
            points: of the stroke's line.
            radius: in mm; 0 draws single voxels.
            axis: of the plane.
            over: voxels of other objects may be taken, or erased.
        """
        with self._lock:
            self._check(value, axis, points)
            if not 0 <= radius < np.inf:
                raise ConfigError(f"The brush's radius must be 0 mm or more; got {radius}.")
            _, index, path = in_plane(points, axis)
            taken, plane = self.accept(), plane_of(self.state.labels, axis, index)
            mask = stroke(plane.shape, path, radius, plane_spacing(self.volume, axis))
            mask &= (plane == value) | (plane == 0) | over
            new = {index: np.where(mask, 0 if erase else value, plane)}
            return self._joined(taken, self._take_planes("erase" if erase else "paint", axis, new))

    def set_object(self, mask: np.ndarray, *, value: int, over: bool = False, op: str = "initial") -> Change:
        """Make a (D, H, W) bool mask the object, in place of what it was; `op` says what for, in the journal."""
        with self._lock:
            self._check(value, 0, ())
            if mask.shape != self.volume.geometry.shape:
                raise ShapeError(f"The mask has shape {mask.shape}, the image {self.volume.geometry.shape}.")
            taken, labels = self.accept(), self.state.labels
            box = extent(mask | (labels == value))
            part, wanted = labels[slices(box)], mask[slices(box)]
            wanted = wanted & ((part == value) | (part == 0) | over)
            return self._joined(taken, self._take(op, box=box, labels=replaced(part, wanted, value)))

    def interpolate(self, *, value: int, axis: int = 0, over: bool = False) -> Change:
        """Fill planes between those that show the object, by signed distances in mm.

        Args:
            over: voxels of other objects may be taken.

        Raises:
            ConfigError: no plane lies empty between two others.
        """
        with self._lock:
            self._check(value, axis, ())
            taken = self.accept()
            new = interpolated(self.state.labels, value, axis, plane_spacing(self.volume, axis), over=over)
            return self._joined(taken, self._take_planes("interpolate", axis, new), note=f"{len(new)} planes filled")

    def propagate(
        self, index: int, *, value: int, axis: int = 0, step: int = 1, most: int = 1000, over: bool = False
    ) -> Change:
        """Carry the object from a plane to the next ones, see `samunet.interaction.operations.propagated`."""
        with self._lock:
            self._check(value, axis, ())
            taken, ask = self.accept(), partial(ask_whole_plane, self._planes(), axis)
            image = self.volume.array.mean(0) if len(self.volume.array) > 1 else self.volume.array[0]
            new, why = propagated(self.state.labels, image, value, axis, index, step, most, ask, over=over)
            done = self._take_planes("propagate", axis, new) if new else Change()
            return self._joined(taken, done, note=f"{len(new)} planes; {why}")

    def undo(self) -> Change:
        """Take back the last step; raises ConfigError at the beginning."""
        return self._move("undo")

    def redo(self) -> Change:
        """Take the last step that was taken back; raises ConfigError where there is none."""
        return self._move("redo")

    def _move(self, op: str) -> Change:
        with self._lock:
            if not self.state.can(op):
                raise ConfigError(f"There is nothing to {op}.")
            return self._commit(Step(op=op, at=time.time()))

    def save(self) -> Path:
        """Accept the draft and write the labels, whole or not at all, on the image's grid; returns the file."""
        with self._lock:
            self.accept()
            geometry = self.volume.geometry
            writer = writer_for(known_ending(self.output), None, planar=geometry.planar)
            with atomic_path(self.output) as part:
                writer.write_segmentation(self.state.labels, geometry, part)
                own, former = writer.files(part)[1:], writer.files(self.output)[1:]  # the spacing of a TIFF stack
                for beside in own:
                    beside.replace(self.output.with_suffix(beside.suffix))
                for beside in () if own else former:
                    beside.unlink()
                # Before the file has its name: a journal that knows too much does not take it for another's.
                step = Step(op="save", at=time.time(), sha256=file_sha256(part))
                self._journal.append(step)
            self.steps.append((step.op, step.at))
            return self.output

    def _check(self, value: int, axis: int, points: Sequence[Voxel]) -> None:
        """Refuse an object, an axis or voxels that are not there."""
        self._object(value)
        if axis not in (0, 1, 2) or len(points) > MOST_POINTS:
            raise ConfigError(
                f"An axis is 0, 1 or 2, and a line has {MOST_POINTS} points at most; got axis {axis} and {len(points)}."
            )
        check_voxels(points, self.volume.geometry.shape)

    def _take_planes(self, op: str, axis: int, planes: dict[int, np.ndarray]) -> Change:
        """Put new planes into the labels."""
        box, labels = changed(self.state.labels, axis, planes)
        return self._take(op, box=box, labels=labels)

    def _take(
        self,
        op: str,
        *,
        draft: Draft | None = None,
        objects: tuple[Thing, ...] | None = None,
        box: Box | None = None,
        labels: np.ndarray | None = None,
    ) -> Change:
        before = after = None
        if box is not None and labels is not None:
            corner = [start for start, _ in box]
            before, after = Block.of(self.state.labels[slices(box)], corner), Block.of(labels, corner)
        return self._commit(Step(op=op, at=time.time(), draft=draft, objects=objects, before=before, after=after))

    def _commit(self, step: Step) -> Change:
        """Write a step to the journal, and take it."""
        self._journal.append(step)
        self.steps.append((step.op, step.at))
        return self._change(self.state.move(step))

    def _change(self, box: Box | None) -> Change:
        return Change() if box is None else Change(labels=Block.of(self.state.shown(box), [start for start, _ in box]))

    def _joined(self, *changes: Change, note: str = "") -> Change:
        """Return what several changes made together."""
        box = hull(change.labels.box for change in changes if change.labels is not None)
        return replace(self._change(box), note=note)
