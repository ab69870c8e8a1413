"""Annotation in the layers of a viewer: what napari's clicks, shapes and brushes become."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from annotating import Discs
from napari_here import QUIET, ViewerModel, click
from tiny import write_tiny_dataset

from samunet.cli import annotate
from samunet.core.codec import read_json
from samunet.errors import ConfigError, DatasetError, SamunetError
from samunet.imageio import reader_of_image
from samunet.napari_plugin.annotation import Annotation
from samunet.napari_plugin.cases import label_file_of, open_desk
from samunet.napari_plugin.reader import read, reader_of
from samunet.serving.table import effort

pytestmark = QUIET
SIZE = (6, 32, 40)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("raw"), size=SIZE, cases=1, channels=2)


@pytest.fixture
def image(dataset, tmp_path):
    """A file of one channel, which is in no dataset."""
    path = tmp_path / "case_0000.nii.gz"
    shutil.copy(sorted((dataset / "imagesTr").iterdir())[0], path)
    return path


def shown(path, viewer=None):
    """A viewer that shows a file, as napari's own opening of files does."""
    from napari.layers import Image
    from napari.layers._source import layer_source

    viewer = viewer or ViewerModel()
    for data, options, _ in read(str(path)):
        with layer_source(path=str(path), reader_plugin="samunet"):
            viewer.add_layer(Image(data, **options))
    return viewer


class Later:
    """Does jobs when it is told to, as a window does after its events."""

    def __init__(self):
        self.jobs, self.errors, self.notes = [], [], []

    def __call__(self, what, work, done, failed):
        self.jobs.append((work, done, failed))

    def now(self):
        while self.jobs:
            work, done, failed = self.jobs.pop(0)
            try:
                result = work()
            except SamunetError as error:
                self.errors.append(str(error))
                failed()
            else:
                done(result)


def annotated(path, output, model=None, viewer=None):
    viewer, later = shown(path, viewer), Later()
    desk = open_desk(viewer.layers[0], list(viewer.layers), model or Discs(), output)
    annotation = Annotation(viewer, desk, viewer.layers[0], later, later.notes.append)
    return viewer, annotation, later


@pytest.fixture
def opened(image, tmp_path):
    viewer, annotation, later = annotated(image, tmp_path / "labels" / "case.nii.gz")
    viewer.dims.current_step = (2, 0, 0)
    yield viewer, annotation, later
    annotation.desk.close()


def test_a_click_becomes_a_draft_in_the_layer_of_labels(opened):
    viewer, annotation, later = opened
    annotation.points.mode = "add"
    click(annotation.points, 2, 10, 12)
    later.now()
    assert annotation.session.state.draft.index == 2
    assert annotation.labels.data[2].sum() == 13 and annotation.labels.data.sum() == 13  # pixels within 2 of one
    assert annotation.points.data.tolist() == [[2, 10, 12]]
    assert annotation.status() == (
        "Draft of object 1, expected IoU 0.90: accept it (Y), correct it with clicks, or discard it (N)."
    )


def test_shift_and_click_corrects(opened):
    viewer, annotation, later = opened
    annotation.points.mode = "add"
    click(annotation.points, 2, 10, 12)
    later.now()
    click(annotation.points, 2, 10, 14, shift=True)
    later.now()
    assert annotation.labels.data[2, 10, 12:15].tolist() == [1, 0, 0]
    assert [prompt.include for prompt in annotation.session.state.draft.prompts] == [True, False]
    assert not np.array_equal(*annotation.points.face_color)
    annotation.outside = True
    click(annotation.points, 2, 8, 12)
    later.now()
    assert annotation.labels.data[2, 8, 12] == 0


@pytest.mark.parametrize("order, axis", [((0, 1, 2), 0), ((1, 0, 2), 1), ((2, 0, 1), 2)])
def test_clicks_go_to_the_plane_that_is_shown(opened, order, axis):
    viewer, annotation, later = opened
    viewer.dims.order = order
    annotation.points.add([[2, 10, 12]])
    later.now()
    there = np.argwhere(annotation.labels.data)
    assert len(there) > 5 and set(there[:, axis]) == {(2, 10, 12)[axis]}


def test_the_plane_is_found_beside_layers_with_more_dimensions(opened):
    viewer, annotation, later = opened
    viewer.add_image(np.zeros((3, 2, 6, 32, 40)))
    viewer.dims.point = (1, 1, *annotation.labels.data_to_world((2, 0, 0)))
    assert annotation.plane() == (0, 2)
    viewer.dims.order = (0, 2, 3, 1, 4)
    assert annotation.plane() is None


def test_in_3d_a_click_is_refused_with_a_sentence(opened):
    viewer, annotation, later = opened
    viewer.dims.ndisplay = 3
    annotation.points.add([[2, 10, 12]])
    later.now()
    assert later.errors == ["Clicks go to a plane of the image; switch the viewer to 2D, and show its planes."]
    assert not annotation.labels.data.any() and len(annotation.points.data) == 0


@pytest.mark.parametrize("shape, count", [("rectangle", 4 * 7), ("ellipse", 4 * 7), ("polygon", 4 * 7), ("path", None)])
def test_shapes_show_areas(opened, shape, count):
    viewer, annotation, later = opened
    corners = [[2, 5, 6], [2, 5, 12], [2, 8, 12], [2, 8, 6]]
    annotation.shapes.add([np.array(corners, float)], shape_type=shape)
    later.now()
    (prompt,) = annotation.session.state.draft.prompts
    assert prompt.kind == {"polygon": "lasso", "path": "scribble"}.get(shape, "box")
    if count:
        assert annotation.labels.data[2, 5:9, 6:13].all() and annotation.labels.data.sum() == count
    assert len(annotation.shapes.data) == 1
    annotation.undo()
    later.now()
    assert len(annotation.shapes.data) == 0 and not annotation.labels.data.any()


def test_a_box_that_leaves_the_image_ends_at_its_rim(opened):
    viewer, annotation, later = opened
    annotation.shapes.add([np.array([[2, -9, -3], [2, -9, 4], [2, 3, 4], [2, 3, -3]], float)], shape_type="rectangle")
    later.now()
    assert annotation.session.state.draft.prompts[0].points == ((2, 0, 0), (2, 3, 4))


def test_prompts_are_not_moved_or_removed_but_by_undo(opened):
    viewer, annotation, later = opened
    annotation.points.add([[2, 10, 12]])
    later.now()
    annotation.points.selected_data = {0}
    annotation.points.remove_selected()
    later.now()
    assert len(annotation.points.data) == 1 and "undo takes back" in later.notes[-1]


def test_objects_have_names_colors_and_own_labels(opened):
    viewer, annotation, later = opened
    annotation.add_object("spleen")
    later.now()
    assert annotation.value == annotation.labels.selected_label == 2
    annotation.points.add([[2, 10, 12]])
    later.now()
    assert annotation.labels.data[2, 10, 12] == 2
    first, second = (annotation.labels.get_color(value) for value in (1, 2))
    assert not np.array_equal(first, second)
    annotation.labels.selected_label = 1
    assert annotation.value == 1
    annotation.add_object("spleen")
    later.now()
    assert later.errors[-1].startswith("An object needs a name of 1 to 200 characters that no other has")


def test_what_napari_paints_and_erases_is_a_step(opened):
    viewer, annotation, later = opened
    labels = annotation.labels
    labels.brush_size = 3
    labels.paint((2, 10, 12), 1)
    later.now()
    painted = labels.data.copy()
    assert painted[2, 10, 12] == 1 and np.array_equal(annotation.session.state.labels, painted)
    labels.paint((2, 10, 12), 0)
    later.now()
    assert not annotation.session.state.labels.any()
    assert effort(annotation.session)["strokes"] == 2
    annotation.undo()
    later.now()
    assert np.array_equal(labels.data, painted)


def test_painting_over_another_object_takes_its_voxels(opened):
    viewer, annotation, later = opened
    annotation.add_object()
    later.now()
    annotation.labels.brush_size = 3
    annotation.labels.paint((2, 10, 12), 1)
    later.now()
    annotation.labels.paint((2, 10, 13), 2)
    later.now()
    assert annotation.session.state.labels[2, 10, 11:15].tolist() == [1, 2, 2, 2]


def test_painting_a_value_that_no_object_has_is_refused_and_taken_back(opened):
    viewer, annotation, later = opened
    annotation.labels.paint((2, 10, 12), 7)
    later.now()
    assert later.errors == ["There is no object 7; there are: 1 (object 1)."] and not annotation.labels.data.any()


def test_what_is_painted_while_a_job_fails_is_taken_over(opened):
    viewer, annotation, later = opened
    annotation.add_object("object 1")  # refused, as another object has the name
    annotation.labels.brush_size = 3
    annotation.labels.paint((2, 10, 12), 1)
    painted = annotation.labels.data.copy()
    later.now()
    assert len(later.errors) == 1 and painted.any()
    assert np.array_equal(annotation.labels.data, painted)
    assert np.array_equal(annotation.session.state.labels, painted)


def test_what_is_painted_while_a_stroke_is_refused_stays(opened):
    viewer, annotation, later = opened
    annotation.labels.brush_size = 1
    annotation.labels.paint((2, 10, 12), 7)
    later.jobs.pop()[1](None)  # it was looked at, and is to be taken over
    work, _, failed = later.jobs.pop()
    with pytest.raises(ConfigError, match="no object 7"):
        work()
    annotation.labels.paint((2, 20, 20), 1)
    failed()
    later.now()
    assert np.argwhere(annotation.session.state.labels).tolist() == [[2, 20, 20]]
    assert np.array_equal(annotation.labels.data, annotation.session.state.labels)


@pytest.mark.parametrize(
    "end", [Annotation.close, lambda annotation: annotation.viewer.layers.remove(annotation.labels)]
)
@pytest.mark.parametrize("swept", [False, True])
def test_what_was_painted_last_is_there_when_the_case_is_opened_again(opened, image, end, swept):
    viewer, annotation, later = opened
    output = annotation.session.output
    annotation.labels.paint((2, 10, 12), 1)
    if swept:  # it waits to be taken over, and is then undone
        annotation.accept()
        annotation.undo()
    annotation.labels.paint((3, 10, 12), 1)
    end(annotation)
    later.now()
    assert not annotation.desk.case and not later.errors
    _, again, later = annotated(image, output)
    assert again.labels.data[3, 10, 12] == 1 and again.labels.data[2, 10, 12] == (not swept)
    again.close()
    later.now()


def test_a_stroke_that_is_refused_at_the_end_is_told_and_the_case_closed(opened):
    viewer, annotation, later = opened
    annotation.labels.paint((2, 10, 12), 7)
    annotation.close()
    later.now()
    assert later.errors == ["There is no object 7; there are: 1 (object 1)."] and not annotation.desk.case


def test_planes_are_carried_on_and_filled(opened):
    viewer, annotation, later = opened
    for index in (1, 4):
        annotation.points.add([[index, 10, 12]])
    later.now()
    annotation.interpolate()
    later.now()
    assert later.notes[-1] == "2 planes filled" and annotation.labels.data[1:5, 10, 12].all()
    viewer.dims.current_step = (4, 0, 0)
    annotation.propagate(1)
    later.now()
    assert later.notes[-1].startswith(("1 planes; the image ends", "0 planes; in plane 5"))


def test_saved_labels_lie_on_the_images_grid_and_everything_is_found_again(opened, image, tmp_path):
    viewer, annotation, later = opened
    annotation.points.add([[2, 10, 12]])
    annotation.accept()
    annotation.points.add([[3, 10, 12]])
    annotation.save()
    later.now()
    output = tmp_path / "labels" / "case.nii.gz"
    assert later.notes[-1] == f"Saved to {output}"
    labels, grid = reader_of_image(output, None).read_label(output)
    assert grid.voxels_apart(reader_of_image(image, None).read_image([image]).geometry) < 1e-3
    assert np.array_equal(labels, annotation.labels.data) and labels[3, 10, 12] == 1
    assert (output.parent / "annotation.csv").read_text().startswith("case,clicks")
    annotation.points.add([[4, 10, 12]])
    later.now()
    before = annotation.labels.data.copy()
    annotation.close()
    later.now()
    assert len(viewer.layers) == 1
    _, again, later = annotated(image, output)
    assert np.array_equal(again.labels.data, before) and again.points.data.tolist() == [[4, 10, 12]]
    for _ in range(6):
        again.undo()
    later.now()
    assert not again.labels.data.any()
    again.close()
    later.now()


def test_the_browser_goes_on_with_the_same_case(opened, image, monkeypatch):
    viewer, annotation, later = opened
    annotation.points.add([[2, 10, 12]])
    later.now()
    output, labels = annotation.session.output, annotation.labels.data.copy()
    annotation.close()
    later.now()
    monkeypatch.setattr("samunet.interaction.choose.model_named", lambda *_: Discs())
    seen = []
    monkeypatch.setattr(
        "samunet.serving.run.serve", lambda desk, *_: (seen.append(desk.session.labels()), desk.close())
    )
    assert annotate.main(["-i", str(image), "-o", str(output), "--no_browser"]) == 0
    assert np.array_equal(seen[0], labels)


def test_taking_a_layer_away_ends_the_annotation(opened):
    viewer, annotation, later = opened
    viewer.layers.remove(annotation.shapes)
    later.now()
    assert not annotation.desk.case and len(viewer.layers) == 1
    assert later.notes[-1] == "The annotation is closed; start goes on with it."


def test_a_case_of_a_dataset_has_its_channels_objects_and_place(dataset):
    first, second = sorted((dataset / "imagesTr").iterdir())[:2]
    output = label_file_of(first)
    assert output == dataset / "labelsTr" / "tiny_000.nii.gz"
    viewer = shown(second, shown(first))
    desk = open_desk(viewer.layers[0], list(viewer.layers), Discs(), output)
    assert len(desk.session.volume.array) == 2 and desk.session.labels().max() == 2
    names = {name for name, value in read_json(dataset / "dataset.json")["labels"].items() if value}
    assert {thing.name for thing in desk.session.state.objects} == names
    desk.close()
    shutil.rmtree(output.parent / ".annotating")


def test_a_picture_is_annotated_in_two_dimensions(tmp_path):
    dataset = write_tiny_dataset(tmp_path, dimensions=2, channels=3, size=(1, 32, 40), file_ending=".png", cases=1)
    path = sorted((dataset / "imagesTr").iterdir())[0]
    from napari.layers import Image
    from napari.layers._source import layer_source
    from PIL import Image as Picture

    viewer, later = ViewerModel(), Later()
    with layer_source(path=str(path)):
        viewer.add_layer(Image(np.asarray(Picture.open(path)), rgb=True))
    desk = open_desk(viewer.layers[0], viewer.layers, Discs(), tmp_path / "mine.png")
    annotation = Annotation(viewer, desk, viewer.layers[0], later)
    annotation.points.add([[10, 12]])
    annotation.shapes.add([np.array([[20, 20], [20, 24], [22, 24], [22, 20]], float)], shape_type="rectangle")
    later.now()
    assert annotation.labels.data.shape == (32, 40) or annotation.labels.data.ndim == 2
    assert annotation.labels.data[10, 12] and annotation.labels.data[21, 22]
    annotation.save()
    later.now()
    labels, _ = reader_of_image(tmp_path / "mine.png", None).read_label(tmp_path / "mine.png")
    assert np.array_equal(labels[0], annotation.labels.data)
    annotation.close()
    later.now()


def test_an_array_without_a_file_is_annotated_with_its_scale(tmp_path):
    viewer = ViewerModel()
    layer = viewer.add_image(np.random.default_rng(0).normal(size=SIZE), scale=(3, 1, 0.5))
    desk = open_desk(layer, [layer], Discs(), tmp_path / "mine.nii.gz")
    assert desk.session.volume.geometry.spacing == (3.0, 1.0, 0.5)
    assert desk.session.output == tmp_path / "mine.nii.gz"
    desk.close()
    with pytest.raises(ConfigError, match=r"are written as .nii.gz; mine.png is not"):
        open_desk(layer, [layer], Discs(), tmp_path / "mine.png")
    film = viewer.add_image(np.zeros((2, *SIZE)))
    with pytest.raises(ConfigError, match="is neither a plane nor a volume"):
        open_desk(film, [film], Discs(), tmp_path / "film.nii.gz")


def test_a_layer_with_other_axes_than_its_file_is_refused(image, tmp_path):
    viewer = shown(image)
    viewer.layers[0].data = viewer.layers[0].data.T
    with pytest.raises(DatasetError, match="does not show .* as samunet reads it"):
        open_desk(viewer.layers[0], viewer.layers, Discs(), tmp_path / "x.nii.gz")
    open_desk(shown(image).layers[0], (), Discs(), tmp_path / "x.nii.gz").close()  # nothing stayed locked


def test_the_reader_scales_volumes_by_their_spacing(image):
    assert reader_of("notes.txt") is None and reader_of([str(image), str(image)]) is None
    ((data, options, kind),) = reader_of(str(image))(str(image))
    volume = reader_of_image(image, None).read_image([image])
    assert np.array_equal(data, volume.array[0]) and kind == "image"
    assert options == {"name": "case_0000", "scale": volume.geometry.spacing}
