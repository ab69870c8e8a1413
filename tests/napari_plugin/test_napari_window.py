"""The widget in napari's window, and what napari knows of the plugin."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import nibabel
import numpy as np
import pytest
from annotating import Discs
from napari_here import QUIET, click, napari

import samunet
from samunet.imageio import reader_of_image
from samunet.napari_plugin import widget as module
from samunet.napari_plugin.widget import FILE, AnnotationWidget

pytest.importorskip("qtpy", reason="needs Qt", exc_type=ImportError)
pytestmark = QUIET
CENTER, RADII = (4, 24, 20), (2.5, 10, 8)


@pytest.fixture
def image(tmp_path):
    """A bright ellipsoid in noise."""
    places = np.indices((8, 48, 48))
    far = sum(((axis - at) / radius) ** 2 for axis, at, radius in zip(places, CENTER, RADII, strict=True))
    array = (far <= 1) + np.random.default_rng(0).normal(scale=0.2, size=far.shape)
    path = tmp_path / "case_0000.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array.T.astype(np.float32), np.diag([1.0, 1.0, 3.0, 1.0])), path)
    return path


@pytest.fixture(scope="module")
def application():
    """Qt, where it can draw."""
    from qtpy.QtGui import QOpenGLContext
    from qtpy.QtWidgets import QApplication

    application = QApplication.instance() or QApplication([])
    if not QOpenGLContext().create():
        pytest.skip("needs OpenGL; offscreen it is that of an X server such as Xvfb")
    return application


@pytest.fixture
def window(application, image):
    """A window with the image, and the widget."""
    viewer = napari.Viewer(show=False)
    viewer.open(str(image), plugin="samunet")
    widget = AnnotationWidget(viewer)
    viewer.window.add_dock_widget(widget, name="samunet")
    yield viewer, widget
    if widget.opened is not None:
        widget.opened.close()
    with suppress(RuntimeError):  # closed by the test
        viewer.close()


def settle(widget, until=lambda: True):
    """Let the window work until nothing is left to do."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + 60
    while widget._jobs.busy or not until():
        QApplication.processEvents()
        time.sleep(0.005)
        assert time.monotonic() < end


@pytest.fixture
def told(monkeypatch):
    """Sentences that the window showed."""
    from napari.utils.notifications import notification_manager

    notification_manager.records.clear()
    return lambda: [record.message for record in notification_manager.records]


def test_click_correct_accept_undo_save_and_open_again(window, image, told):
    viewer, widget = window
    assert widget.output.value == image.parent / "labels" / "case.nii.gz"
    widget.start()
    settle(widget)
    annotation = widget.opened
    viewer.dims.current_step = (4, 0, 0)
    assert viewer.layers.selection.active is annotation.points and annotation.points.mode == "add"
    click(annotation.points, *CENTER)
    settle(widget)
    first = annotation.labels.data.copy()
    assert first[CENTER] == 1 and set(np.nonzero(first)[0]) == {4}
    assert widget.note.value.startswith("Draft of object 1, expected IoU 0.")
    click(annotation.points, 4, 24, 26, shift=True)
    settle(widget)
    corrected = annotation.labels.data.copy()
    assert not np.array_equal(first, corrected) and corrected[4, 24, 26] == 0
    for name, labels in (("undo", first), ("redo", corrected), ("accept (Y)", corrected)):
        next(button for button in widget._buttons if button.text == name).changed.emit(True)
        settle(widget)
        assert np.array_equal(annotation.labels.data, labels)
    assert len(annotation.points.data) == 0
    annotation.save()
    settle(widget)
    assert widget.note.value == f"Saved to {widget.output.value}"
    labels, _ = reader_of_image(widget.output.value, None).read_label(widget.output.value)
    assert np.array_equal(labels, corrected)
    widget.start()
    settle(widget)
    assert widget.opened is not annotation and np.array_equal(widget.opened.labels.data, corrected)
    assert told() == []


def test_keys_and_boxes_in_the_window(window, told):
    viewer, widget = window
    widget.start()
    settle(widget)
    annotation = widget.opened
    viewer.dims.current_step = (4, 0, 0)
    widget.tool.value = "box"
    assert viewer.layers.selection.active is annotation.shapes and annotation.shapes.mode == "add_rectangle"
    annotation.shapes.add([np.array([[4, 14, 12], [4, 14, 28], [4, 34, 28], [4, 34, 12]], float)])
    settle(widget)
    assert annotation.labels.data[CENTER] == 1 and 150 < annotation.labels.data.sum() < 400
    press = viewer.window._qt_viewer._key_map_handler.press_key
    assert press("y")
    settle(widget)
    assert annotation.session.state.draft is None and annotation.session.state.labels[CENTER] == 1
    assert press("Control-Z") and press("Control-Z")
    settle(widget)
    assert not annotation.labels.data.any()
    widget.new_name.value = "liver"
    next(button for button in widget._buttons if button.text == "add").changed.emit(True)
    settle(widget)
    assert widget.object.value == 2 and [name for name, _ in widget._objects()] == ["1: object 1", "2: liver"]
    picture = viewer.screenshot(canvas_only=False, flash=False)
    assert picture.shape[2] == 4 and len(np.unique(picture.reshape(-1, 4), axis=0)) > 50


def test_errors_are_sentences_in_the_window(window, told, tmp_path):
    viewer, widget = window
    widget.model.value = FILE
    assert widget.weights.mode.value == "r"
    widget.start()
    widget.weights.value = tmp_path / "absent.pth"
    widget.start()
    settle(widget)
    assert widget.opened is None
    assert told()[0] == "Choose the file or folder of the model."
    assert told()[1].startswith(f"Weights file {tmp_path}/absent.pth does not exist")


def test_a_fault_of_our_own_is_shown_and_does_not_stop_what_follows(window, told, monkeypatch):
    viewer, widget = window
    monkeypatch.setattr(module, "model_named", lambda *_: Discs())
    widget.start()
    settle(widget)
    monkeypatch.setattr(Discs, "answer", lambda *_: 1 / 0)
    widget.opened.points.add([CENTER])
    widget.opened.add_object("next")
    settle(widget)
    assert told() == ["division by zero"] and len(widget.opened.objects) == 2
    assert len(widget.opened.points.data) == 0


@pytest.mark.parametrize("files", [("one.nii.gz", "two.nii.gz"), ("one.nii.gz", "one.nii.gz")])
def test_start_pressed_twice_opens_what_was_asked_for_last(window, told, tmp_path, monkeypatch, files):
    viewer, widget = window
    monkeypatch.setattr(module, "model_named", lambda *_: Discs())
    desks, opening = [], module.open_desk
    monkeypatch.setattr(module, "open_desk", lambda *words: desks.append(opening(*words)) or desks[-1])
    for file in files:
        widget.output.line_edit.value = str(tmp_path / file)
        widget.start()
    settle(widget)
    assert told() == [] and [bool(desk.case) for desk in desks] == [False, True]
    assert widget.opened.session.output == tmp_path / files[1] and len(viewer.layers) == 4


def test_a_closed_window_keeps_what_was_painted_last_and_lets_others_annotate(window, image, monkeypatch):
    viewer, widget = window
    monkeypatch.setattr(module, "model_named", lambda *_: Discs())
    widget.start()
    settle(widget)
    desk, session = widget.opened.desk, widget.opened.session
    widget.opened.labels.brush_size = 1
    widget.opened.labels.paint(CENTER, 1)
    viewer.close()
    settle(widget, lambda: not desk.case)
    assert np.argwhere(session.labels()).tolist() == [list(CENTER)]


def test_the_manifest_names_what_exists():
    npe2 = pytest.importorskip("npe2")
    manifest = npe2.PluginManifest.from_file(Path(samunet.__file__).parent / "napari.yaml")
    manifest.validate_imports()
    (widget,) = manifest.contributions.widgets
    commands = {command.id: command.python_name for command in manifest.contributions.commands}
    assert commands[widget.command] == f"{AnnotationWidget.__module__}:{AnnotationWidget.__name__}"
    project = (Path(samunet.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points."napari.manifest"]\nsamunet = "samunet:napari.yaml"' in project
    assert napari is not None


def test_a_save_that_waits_for_the_model_is_done_when_the_window_closes(window, image, monkeypatch):
    viewer, widget = window
    widget.start()
    settle(widget)
    annotation, session, output = widget.opened, widget.opened.session, widget.output.value
    viewer.dims.current_step = (4, 0, 0)
    ask = type(session).add_prompt

    def slow(*arguments, **options):
        time.sleep(0.5)
        return ask(*arguments, **options)

    monkeypatch.setattr(type(session), "add_prompt", slow)
    click(annotation.points, *CENTER)
    annotation.save()
    viewer.close()
    labels, _ = reader_of_image(output, None).read_label(output)
    assert labels[CENTER] == 1
