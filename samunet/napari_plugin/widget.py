"""The widget "samunet" of napari's window."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, ComboBox, Container, FileEdit, Label, LineEdit, PushButton, RadioButtons
from napari.layers import Image

from samunet.core.workspace import workspace_from_environment
from samunet.errors import ConfigError
from samunet.interaction.choose import model_named
from samunet.interaction.slices import PlaneModel
from samunet.interaction.volumes import VolumeModel
from samunet.napari_plugin.annotation import Annotation
from samunet.napari_plugin.cases import file_of, label_file_of, open_desk
from samunet.napari_plugin.jobs import Jobs, tell
from samunet.serving.desk import Desk

if TYPE_CHECKING:
    from napari import Viewer

SEED, FOLDER, FILE = "seed", "folder of a trained model", "file of SAM or of a seed"
TOOLS = {
    "point": ("points", "add"),
    "box": ("shapes", "add_rectangle"),
    "lasso": ("shapes", "add_polygon_lasso"),
    "scribble": ("shapes", "add_path"),
    "brush": ("labels", "paint"),
    "eraser": ("labels", "erase"),
}
"""Which layer a tool works in, and in which of its modes."""


class AnnotationWidget(Container):
    """Chooses image, model and label file, and annotates in the layers of `Annotation`."""

    def __init__(self, napari_viewer: Viewer) -> None:
        self.viewer = napari_viewer
        self.opened: Annotation | None = None
        self._open: list[Annotation] = []
        self._starts = 0
        self._model: tuple[str, PlaneModel | VolumeModel] | None = None
        self._jobs = Jobs(self._tell_job)
        self.image = ComboBox(label="image", choices=lambda _: self._images())
        self.model = ComboBox(label="model", choices=[SEED, FOLDER, FILE], value=SEED)
        self.weights = FileEdit(label="its path", mode="d")
        self.output = FileEdit(label="labels", mode="w")
        self.object = ComboBox(label="object", choices=lambda _: self._objects())
        self.new_name = LineEdit()
        self.tool = RadioButtons(label="tool", choices=list(TOOLS), orientation="horizontal", value="point")
        self.outside = CheckBox(label="", text="prompts show what is not of it (Shift and click)")
        self.note = Label(value="Open an image, then start.")
        self._buttons: list[PushButton] = []
        self.start_button = PushButton(text="start")
        super().__init__(
            widgets=[
                self.image,
                self.model,
                self.weights,
                self.output,
                self.start_button,
                self.object,
                self._row(self.new_name, self._button("add", self._add), label="new object"),
                self.tool,
                self.outside,
                self._row(
                    self._button("accept (Y)", Annotation.accept), self._button("discard (N)", Annotation.discard)
                ),
                self._row(self._button("undo", Annotation.undo), self._button("redo", Annotation.redo)),
                self._row(
                    self._button("carry on backward", partial(Annotation.propagate, step=-1)),
                    self._button("carry on forward", partial(Annotation.propagate, step=1)),
                ),
                self._button("fill between planes", Annotation.interpolate),
                self._button("save", Annotation.save),
                self.note,
            ]
        )
        self.weights.visible = False
        self.note.native.setWordWrap(True)
        self.start_button.changed.connect(lambda _: self.start())
        self.image.changed.connect(lambda _: self._suggest())
        self.model.changed.connect(self._choose_model)
        self.object.changed.connect(self._choose_object)
        self.tool.changed.connect(lambda _: self._take_tool())
        self.outside.changed.connect(lambda on: self._with(lambda annotation: setattr(annotation, "outside", on)))
        self.native.destroyed.connect(partial(_close, self._jobs, self._open))  # the window is closed
        self._suggest()
        self._told("")

    def reset_choices(self, *_: Any) -> None:
        """Let image and object be chosen anew, as napari asks for when layers change; the tool stays."""
        self.image.reset_choices()
        with self.object.changed.blocked():
            self.object.reset_choices()

    def start(self) -> None:
        """Open the chosen image for annotation, in place of what is open."""
        layer, layers, path = self.image.value, self._images(), self.output.line_edit.value
        name = SEED if self.model.value == SEED else self.weights.line_edit.value

        def work() -> Desk:
            if layer is None:
                raise ConfigError("There is no image to annotate; open one first.")
            if not path:
                raise ConfigError("Say where labels go; choose a file such as case.nii.gz.")
            if self._model is None or self._model[0] != name:
                if not name:
                    raise ConfigError("Choose the file or folder of the model.")
                self._model = name, model_named(name, None, workspace_from_environment().weights_folders)
            return open_desk(layer, [one for _, one in layers], self._model[1], Path(path).expanduser())

        self._with(Annotation.close)
        self.opened = None
        self._starts += 1
        self._jobs("opening image and model", work, partial(self._opened, layer, self._starts), lambda: self._told(""))

    def _opened(self, layer: Image, start: int, desk: Desk) -> None:
        if start != self._starts:  # it was pressed again meanwhile, perhaps for the same file
            desk.close()
            return
        try:
            self.opened = Annotation(self.viewer, desk, layer, self._jobs, self._told)
        except BaseException:
            desk.close()
            raise
        self._open[:] = [*(one for one in self._open if one.desk.case), self.opened]
        self.opened.outside = self.outside.value
        self.opened.refresh()
        self._take_tool()

    def _images(self) -> list[tuple[str, Image]]:
        return [(layer.name, layer) for layer in self.viewer.layers if isinstance(layer, Image)]

    def _objects(self) -> list[tuple[str, int]]:
        objects = self.opened.objects if self.opened is not None else ()
        return [(f"{thing.value}: {thing.name}", thing.value) for thing in objects]

    def _add(self, annotation: Annotation) -> None:
        annotation.add_object(self.new_name.value.strip())
        self.new_name.value = ""

    def _suggest(self) -> None:
        """Name the label file of the chosen image."""
        file = None if self.image.value is None else file_of(self.image.value)
        self.output.line_edit.value = "" if file is None else str(label_file_of(file))

    def _choose_model(self, kind: str) -> None:
        self.weights.visible = kind != SEED
        self.weights.mode = "d" if kind == FOLDER else "r"

    def _choose_object(self, value: int | None) -> None:
        if value is not None:
            self._with(lambda annotation: annotation.choose(value))

    def _take_tool(self) -> None:
        def take(annotation: Annotation) -> None:
            name, mode = TOOLS[self.tool.value]
            layer = getattr(annotation, name)
            self.viewer.layers.selection.active = layer
            layer.mode = mode

        self._with(take)

    def _with(self, verb: Callable[[Annotation], Any]) -> None:
        """Do something with the annotation, where one is open."""
        if self.opened is not None and not self.opened.closed:
            verb(self.opened)

    def _told(self, note: str) -> None:
        """Show objects, what may be done, and what was done."""
        if self.opened is not None and self.opened.closed:
            self.opened = None
        with self.object.changed.blocked():
            self.object.reset_choices()
            if self.opened is not None and self.opened.objects:
                self.object.value = self.opened.value
        if self.opened is not None:
            note = " ".join(filter(None, (note, self.opened.status())))
        for button in self._buttons:
            button.enabled = self.opened is not None
        self.note.value = note

    def _tell_job(self, what: str) -> None:
        self.note.value = f"{what} …" if what else ""

    def _button(self, text: str, verb: Callable[[Annotation], Any]) -> PushButton:
        button = PushButton(text=text)
        button.changed.connect(lambda _: self._with(verb))
        self._buttons.append(button)
        return button

    def _row(self, *widgets: Any, label: str = "") -> Container:
        return Container(widgets=widgets, layout="horizontal", labels=False, label=label)


def _close(jobs: Jobs, annotations: list[Annotation], *_: Any) -> None:
    for last in (*jobs.end(), *(annotation.end for annotation in annotations)):  # they wait for what is at work
        try:
            last()
        except Exception as error:
            tell(error)
