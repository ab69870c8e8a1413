"""A case that is annotated, as layers of a viewer: labels with the draft in them, points and shapes to prompt with.

Axes: D H W voxels of the image file; layers of a planar image have H W alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers.base import ActionType
from napari.utils.colormaps import DirectLabelColormap

from samunet.errors import ConfigError
from samunet.interaction.session import Change, Session
from samunet.interaction.state import Block, Box, Prompt, Thing, Voxel, extent, slices
from samunet.napari_plugin.jobs import Run
from samunet.serving.desk import Desk

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

PLACE = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
"""Where a layer lies."""
KIND = {"rectangle": "box", "ellipse": "box", "polygon": "lasso", "path": "scribble", "line": "scribble"}
"""What a shape shows to the model."""
DRAWN = {"box": "rectangle", "lasso": "polygon", "scribble": "path"}
SHOWS = {True: "#00d26a", False: "#ff3b30"}
"""Colors of prompts that show the object, and of those that show what is not of it."""
POINT = 10  # pixels of the screen


class Annotation:
    """Layers of an open case; what is done in them goes to its session, and what that answers into them.

    Args:
        viewer: gets the layers.
        desk: with the case open.
        image: that shows the case.
        run: does jobs, in order.
        changed: told in words what was done.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        desk: Desk,
        image: Image,
        run: Run,
        changed: Callable[[str], None] = lambda note: None,
    ) -> None:
        self.viewer, self.desk, self._run, self._changed = viewer, desk, run, changed
        if not self.session.state.objects:
            self.session.name_object()
        self.value = self.session.state.objects[0].value
        """Of the object that is annotated."""
        self.outside = False
        """Prompts show what is not of the object."""
        self.closed = False
        self._ndim, self._silent, self._shift, self._brushed = image.ndim, False, False, False
        self._told = self.session.labels()  # what the layer was given
        place, case = {name: getattr(image, name) for name in PLACE}, desk.case
        labels = self._told.copy()
        self.labels = viewer.add_labels(labels[0] if self._ndim == 2 else labels, name=f"{case}: labels", **place)
        self.shapes = viewer.add_shapes(
            ndim=self._ndim,
            name=f"{case}: boxes and lines",
            edge_width=max(0.25, max(labels.shape) / 400),
            edge_color=SHOWS[True],
            face_color="transparent",
            **place,
        )
        self.points = viewer.add_points(
            ndim=self._ndim,
            name=f"{case}: clicks",
            size=1,
            canvas_size_limits=(POINT, POINT),
            face_color=SHOWS[True],
            **place,
        )
        self.layers: tuple[Layer, ...] = (self.labels, self.shapes, self.points)
        self._listen()
        self._show_prompts()

    def _listen(self) -> None:
        self.labels.events.paint.connect(self._painted)
        self.labels.events.selected_label.connect(self._chosen)
        self.shapes.events.data.connect(self._drawn)
        self.points.events.data.connect(self._clicked)
        self.points.mouse_drag_callbacks.append(self._pressed)
        self.viewer.layers.events.removed.connect(self._removed)
        keys = {"y": self.accept, "n": self.discard, "Control-Z": self.undo, "Control-Shift-Z": self.redo}
        for layer in self.layers:
            for key, verb in keys.items():
                layer.bind_key(key, lambda _, verb=verb: verb(), overwrite=True)

    @property
    def session(self) -> Session:
        return self.desk.session

    @property
    def objects(self) -> tuple[Thing, ...]:
        """What may be annotated; nothing once the case is closed."""
        return self.session.state.objects if self.desk.case else ()

    def plane(self) -> tuple[int, int] | None:
        """Return axis and index of the plane that the viewer shows; None where it shows a volume or something else."""
        dims = self.viewer.dims
        first = dims.ndim - self._ndim
        axes = set(range(self._ndim)) - {axis - first for axis in dims.displayed}
        if dims.ndisplay != 2 or len(axes) != self._ndim - 2:
            return None
        if not axes:
            return 0, 0
        (axis,) = axes
        return axis, round(self.labels.world_to_data(dims.point)[axis])

    def status(self) -> str:
        """Say in words what is a draft."""
        if (draft := self.session.state.draft) is None:
            return ""
        name = next(thing.name for thing in self.objects if thing.value == draft.value)
        expected = "" if draft.quality is None else f", expected IoU {draft.quality:.2f}"
        return f"Draft of {name}{expected}: accept it (Y), correct it with clicks, or discard it (N)."

    def choose(self, value: int) -> None:
        """Let what follows show another object."""
        self.value = value
        with self._silence():
            self.labels.selected_label = value

    def add_object(self, name: str | None = None) -> None:
        """Add an object and choose it; without a name it has that of its value."""

        def added(thing: Thing) -> None:
            self.value = thing.value
            self._show(Change(note=f"{thing.name} is object {thing.value}"))

        self._run("adding an object", lambda: self.session.name_object(name or None), added, self.refresh)

    def prompt(self, kind: str, points: Sequence[Voxel], *, include: bool) -> None:
        """Show the object, in the plane that the viewer shows; see `Session.add_prompt`."""
        plane, value = self.plane(), self.value

        def work() -> Change:
            if plane is None:
                raise ConfigError("Clicks go to a plane of the image; switch the viewer to 2D, and show its planes.")
            if not self.objects:  # undone
                self.session.name_object()
            return self.session.add_prompt(kind, points, value=value, axis=plane[0], include=include)

        self._do("looking at the plane", work)

    def accept(self) -> None:
        self._do("accepting", lambda: self.session.accept())

    def discard(self) -> None:
        self._do("discarding", lambda: self.session.discard())

    def undo(self) -> None:
        self._do("undoing", lambda: self.session.undo())

    def redo(self) -> None:
        self._do("doing again", lambda: self.session.redo())

    def interpolate(self) -> None:
        """Fill the planes between those that show the object, across the axis that the viewer steps along."""
        (axis, _), value = self.plane() or (0, 0), self.value
        self._do("filling planes", lambda: self.session.interpolate(value=value, axis=axis))

    def propagate(self, step: int) -> None:
        """Carry the object on from the plane that is shown to the next ones (1) or those before (-1)."""
        (axis, index), value = self.plane() or (0, 0), self.value
        self._do(
            "carrying on to other planes", lambda: self.session.propagate(index, value=value, axis=axis, step=step)
        )

    def save(self) -> None:
        """Write the label file, on the image's grid."""
        self._do("saving", lambda: Change(note=f"Saved to {self.desk.save()}"))

    def refresh(self) -> None:
        """Let the layers show what the session holds, but for what somebody has painted meanwhile."""
        if self.desk.case:
            self._show(Change(labels=Block.of(self.session.labels())))

    def close(self, note: str = "") -> None:
        """Take the layers away, and end the session after what was asked for before; the same label file goes on with
        it.

        Args:
            note: what to say then.
        """
        if self.closed:
            return
        self.closed, self._brushed = True, False
        self.viewer.layers.events.removed.disconnect(self._removed)
        for layer in self.layers:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        self._run("closing", self.end, lambda _: self._changed(note), lambda: self._changed(note))

    def end(self) -> None:
        """Take over what was painted last, and end the session; raises as `Session.set_object` does, but ends it."""
        try:
            if self.desk.case:
                self._take(*self._strokes())
        finally:
            self.desk.close()

    def _do(self, what: str, work: Callable[[], Change]) -> None:
        self._sweep()
        self._run(what, work, self._show, self.refresh)

    def _show(self, change: Change) -> None:
        if not self.desk.case:  # closed since it was asked for
            return
        if change.labels is not None:
            where, new = slices(change.labels.box), change.labels.array()
            shown, told = self._volume()[where], self._told[where]
            np.copyto(shown, new, where=shown == told)  # elsewhere somebody has painted meanwhile
            told[:] = new
        if self.closed:
            return
        if self.value not in {thing.value for thing in self.objects} and self.objects:
            self.value = self.objects[0].value
        colors = {thing.value: thing.color for thing in self.objects}
        with self._silence():
            self.labels.colormap = DirectLabelColormap(color_dict={None: "transparent", 0: "transparent"} | colors)
            self.labels.selected_label = self.value
            self.labels.refresh()
        self._show_prompts()
        self._changed(change.note)

    def _show_prompts(self) -> None:
        draft = self.session.state.draft
        prompts = () if draft is None else draft.prompts
        clicks = [prompt for prompt in prompts if prompt.kind == "point"]
        lines = [prompt for prompt in prompts if prompt.kind != "point"]
        with self._silence():
            self.points.selected_data = set()
            self.points.data = self._places([prompt.points[0] for prompt in clicks])
            if clicks:
                self.points.face_color = [SHOWS[prompt.include] for prompt in clicks]
            self.shapes.data = []
            if draft is not None and lines:
                self.shapes.add(
                    [self._places(_outline(prompt, draft.axis)) for prompt in lines],
                    shape_type=[DRAWN[prompt.kind] for prompt in lines],
                    edge_color=[SHOWS[prompt.include] for prompt in lines],
                )

    def _places(self, points: Sequence[Sequence[float]]) -> np.ndarray:
        return np.array(points, float).reshape(-1, 3)[:, 3 - self._ndim :]

    def _volume(self) -> np.ndarray:
        """Return a (D, H, W) view of what the layer of labels holds."""
        return np.asarray(self.labels.data).reshape(self._told.shape)

    @contextmanager
    def _silence(self) -> Iterator[None]:
        """Let events of layers be our own."""
        before, self._silent = self._silent, True
        try:
            yield
        finally:
            self._silent = before

    def _voxels(self, places: np.ndarray) -> list[Voxel]:
        """Return the voxels of an image at (N, ndim) places."""
        whole = np.zeros((len(places), 3), int)
        whole[:, 3 - self._ndim :] = np.rint(places)
        return [(d, h, w) for d, h, w in whole.tolist()]

    def _pressed(self, _: Any, event: Any) -> None:
        self._shift = "Shift" in event.modifiers

    def _clicked(self, event: Any) -> None:
        if self._silent:
            return
        if event.action == ActionType.ADDED:
            include, self._shift = not (self.outside or self._shift), False
            for point in self._voxels(self.points.data[-len(event.data_indices) :]):
                self.prompt("point", [point], include=include)
        elif event.action in (ActionType.CHANGED, ActionType.REMOVED):
            self._keep()

    def _drawn(self, event: Any) -> None:
        if self._silent:
            return
        draft = self.session.state.draft
        known = sum(prompt.kind != "point" for prompt in draft.prompts) if draft else 0
        if event.action == ActionType.ADDED and len(self.shapes.data) > known:
            kind, points = KIND[self.shapes.shape_type[-1]], np.array(self._voxels(self.shapes.data[-1]))
            points = np.clip(points, 0, np.array(self._told.shape) - 1)
            if kind == "box":
                points = np.array([points.min(0), points.max(0)])
            self.prompt(kind, [(d, h, w) for d, h, w in points.tolist()], include=not self.outside)
        elif event.action in (ActionType.CHANGED, ActionType.REMOVED):
            self._keep()

    def _keep(self) -> None:
        """Show prompts as they are again: they are not moved or removed but by undoing."""
        self._do("showing prompts", lambda: Change(note="Prompts stay as they were; undo takes back the last one."))

    def _chosen(self, _: Any) -> None:
        value = self.labels.selected_label
        if not self._silent and value in {thing.value for thing in self.objects}:
            self.value = value
            self._changed("")

    def _painted(self, _: Any) -> None:
        if not self._silent:
            self._brushed = True  # or will be in a moment: some tools say so before they do it
            self._run("looking at what was painted", lambda: None, lambda _: self._sweep(), self.refresh)

    def _sweep(self) -> None:
        """Take over what was painted, filled or erased with napari's own tools."""
        if self._brushed and self.desk.case:
            self._brushed = False
            strokes = self._strokes()
            work, refused = partial(self._take, *strokes), partial(self._take_back, *strokes)
            self._run("taking over what was painted", work, self._show, refused)

    def _strokes(self) -> tuple[Box, np.ndarray, np.ndarray]:
        """Return where something was painted that the session was not told of: a box, and in it which voxels, and the
        values of all.
        """
        painted = self._volume() != self._told
        box = extent(painted)
        return box, painted[slices(box)].copy(), self._volume()[slices(box)].copy()

    def _take_back(self, box: Box, painted: np.ndarray, values: np.ndarray) -> None:
        """Take strokes out of the layer that the session refused; those painted since then stay."""
        shown = self._volume()[slices(box)]
        np.copyto(shown, self._told[slices(box)], where=painted & (shown == values))
        self.refresh()

    def _take(self, box: Box, painted: np.ndarray, values: np.ndarray) -> Change:
        session = self.session
        wanted = session.labels()
        part = wanted[slices(box)]
        before = part[painted]
        part[painted] = values[painted]
        op = "paint" if values[painted].any() else "erase"
        for value in dict.fromkeys((*np.unique(values[painted]).tolist(), *np.unique(before).tolist())):
            if value and not np.array_equal(session.labels() == value, wanted == value):
                session.set_object(wanted == value, value=value, over=True, op=op)
                op = "initial"  # what else the stroke changed
        return Change(labels=Block.of(session.labels()))

    def _removed(self, event: Any) -> None:
        if event.value in self.layers:
            self.close("The annotation is closed; start goes on with it.")


def _outline(prompt: Prompt, axis: int) -> Sequence[Sequence[float]]:
    """Return the corners of a box across an axis, around its voxels, or those of a line."""
    if prompt.kind != "box":
        return prompt.points if len(prompt.points) > 1 else prompt.points * 2
    low, high = np.min(prompt.points, 0) - 0.5, np.max(prompt.points, 0) + 0.5
    low[axis] = high[axis] = min(point[axis] for point in prompt.points)
    first, second = (side for side in range(3) if side != axis)
    corners = np.repeat(low[None], 4, 0)
    corners[1:3, first], corners[2:, second] = high[first], high[second]
    return corners.tolist()
