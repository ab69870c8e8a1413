"""The way of a promptable model: train, validate, simulate prompts, predict with them, score, and what is refused on
it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from samunet import pipeline
from samunet.cli import accumulate_crossval_results, compare, evaluate_folder, predict, report, simulate_prompts, train
from samunet.core.dataset import read_dataset_json
from samunet.core.geometry import Geometry
from samunet.core.prompts import (
    INSIDE,
    PROMPTS,
    CasePrompts,
    PromptFile,
    StructurePrompts,
    prompts_behind,
    read_prompts,
    write_prompts,
)
from samunet.core.results import model_folder
from samunet.core.volume import Volume
from samunet.errors import ConfigError
from samunet.evaluation.summary import SUMMARY, read_summary
from samunet.imageio import reader_for
from samunet.inference.load import load_predictor
from samunet.inference.predictor import PredictionOptions, Scores
from samunet.inference.prompted_predictor import PromptedPredictor
from samunet.models.segmenter import ABSENT, PromptedSegmenter
from samunet.pipeline.options import Clicking
from samunet.pipeline.simulated_prompts import middle_of, prompts_for_validation, prompts_from_references
from samunet.preprocessing.prompt_map import prompt_map

NAME = "3d_med_sa_prompted"


@pytest.fixture(scope="module")
def project(project, tmp_path_factory):
    """The tiny project with results of these tests' own, since they train models that others must not find."""
    folder = tmp_path_factory.mktemp("prompted")
    return dataclasses.replace(project, workspace=dataclasses.replace(project.workspace, results_folder=folder))


@pytest.fixture(scope="module")
def prompted(project):
    return project.train(configuration=NAME, config={"epochs": 1, "iterations": 2})


@pytest.fixture(scope="module")
def automatic(project):
    """A model beside it that takes no prompts."""
    return project.train(configuration="3d_adapter")


@pytest.fixture(scope="module")
def boxes(project, tmp_path_factory):
    """Boxes of all training cases, as a file."""
    raw = project.workspace.raw / project.dataset
    path = tmp_path_factory.mktemp("prompts") / "boxes.json"
    assert (
        simulate_prompts.main(
            [str(raw / "labelsTr"), "-djfile", str(raw / "dataset.json"), "-o", str(path), "--box", "--relaxation", "1"]
        )
        == 0
    )
    return path


def predictor_of(fold, **options) -> PromptedPredictor:
    return load_predictor(
        fold.parent, device="cpu", options=PredictionOptions(**{"flips": False, "quiet": True, **options})
    )


def references(project):
    folder = project.workspace.raw / project.dataset
    spec = read_dataset_json(folder / "dataset.json")
    return pipeline.open_dataset(project.workspace, project.dataset).cases, spec, reader_for(spec.file_ending)


@pytest.mark.parametrize(
    "clicking", [Clicking(points=1), Clicking(points=3, axis=2), Clicking(points=0), Clicking(points=0, relaxation=2)]
)
def test_prompts_are_made_where_the_reference_is(project, clicking):
    cases, spec, reader = references(project)
    made = prompts_from_references(cases, spec, reader, clicking, threads=2)
    assert made == prompts_from_references(cases, spec, reader, clicking) and made.origin.startswith("reference: ")
    for case in cases:
        label, _ = reader.read_label(case.label)
        assert set(made.cases[case.identifier].structures) == {
            name for name, (value,) in spec.labels.foreground if (label == value).any()
        }
        for name, (value,) in spec.labels.foreground:
            mask, given = label == value, made.cases[case.identifier].structures.get(name)
            if given is None:
                continue
            slices = np.flatnonzero(np.moveaxis(mask, clicking.axis, 0).any((1, 2)))
            voxels = np.array(given.points, dtype=int).reshape(-1, 3)[:, ::-1]
            if clicking.points:
                assert mask[tuple(voxels.T)].all()
                assert set(voxels[:, clicking.axis]) == set(slices) and len(slices) <= len(
                    voxels
                ) <= clicking.points * len(slices)
            else:
                (x0, y0, z0), (x1, y1, z1) = (tuple(map(int, corner)) for corner in given.box)
                inside = np.zeros_like(mask)
                inside[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1] = True
                assert not (mask & ~inside).any()
                wider = [(z1 - z0, 0), (y1 - y0, 1), (x1 - x0, 2)]
                for extent, axis in wider:
                    held = np.flatnonzero(mask.any(tuple(other for other in range(3) if other != axis)))
                    assert 0 <= extent - (held[-1] - held[0]) <= 2 * clicking.relaxation


def test_a_promptable_fold_is_validated_with_prompts_that_are_named(prompted):
    folder = prompted / "validation"
    assert (
        prompts_behind(folder) == "reference: 1 click per structure and slice" == read_summary(folder / SUMMARY).prompts
    )
    assert json.loads((folder / SUMMARY).read_text())["prompts"].startswith("reference")


def test_files_are_predicted_with_prompts_and_labelled(
    prompted, automatic, project, boxes, tmp_path, environment, capsys
):
    images = project.workspace.raw / project.dataset / "imagesTr"
    words = [
        "-i",
        str(images),
        "-o",
        str(tmp_path / "out"),
        "-d",
        project.dataset,
        "-c",
        NAME,
        "-device",
        "cpu",
        "--disable_tta",
    ]
    assert predict.main(words) == 2
    assert "segments what prompts show" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert predict.main([*words, "--prompts", str(boxes)]) == 0
    assert read_prompts(tmp_path / "out" / PROMPTS) == read_prompts(boxes)
    raw = project.workspace.raw / project.dataset
    assert (
        evaluate_folder.main([str(raw / "labelsTr"), str(tmp_path / "out"), "-djfile", str(raw / "dataset.json")]) == 0
    )
    assert "reference: one 3D box per structure" in read_summary(tmp_path / "out" / SUMMARY).prompts
    assert "with prompts (reference: one 3D box" in capsys.readouterr().out
    words = [
        "-i",
        str(images),
        "-o",
        str(tmp_path / "out"),
        "-d",
        project.dataset,
        "-c",
        "3d_adapter",
        "-device",
        "cpu",
    ]
    assert predict.main(words) == 2
    assert "holds predictions made with prompts; write those without to another folder" in capsys.readouterr().err
    assert predict.main([*words, "--prompts", str(boxes)]) == 2
    assert "segments without prompts" in capsys.readouterr().err


def test_nothing_is_segmented_outside_the_slices_that_a_box_reaches(prompted, project, images_of):
    predictor = predictor_of(prompted, flips=True)
    volume = images_of(0)
    box = StructurePrompts(box=((4.0, 4.0, 3.0), (20.0, 20.0, 7.0)))
    case = predictor.preprocess(volume)
    prompts = CasePrompts(structures={"middle": box})
    logits = predictor.scores(case, prompts=prompts).logits
    assert (logits[[1, 3]] == ABSENT).all() and not logits[0].any()
    shown = prompt_map(prompts, predictor.dataset.labels, case.history)[1].any((1, 2))
    assert 4 <= shown.sum() <= 6 and (logits[2, ~shown] == ABSENT).all() and (logits[2, shown] > ABSENT + 1).all()
    with pytest.raises(ConfigError, match="give clicks or boxes"):
        predictor.predict(volume)
    with pytest.raises(ConfigError, match="outside the image"):
        predictor.predict(
            volume, prompts=CasePrompts(structures={"middle": StructurePrompts(points=((500.0, 0.0, 0.0),))})
        )


class ByPlace(PromptedSegmenter):
    """A network that takes prompts and answers with the place of the first click in the tile, and ABSENT where a slice
    has none.
    """

    prompts = "points"

    def forward(self, image, drawn):
        answers = torch.zeros(len(image), 4, *image.shape[2:])
        for sample, structure, place in (drawn.to(torch.uint8) & INSIDE).flatten(3).any(3).nonzero().tolist():
            answers[sample, 1 + structure, place] = 1.0 + (drawn[sample, structure, place] > 0).nonzero()[0, 1]
        shown = (drawn > 0).flatten(3).any(3)[..., None, None]
        return torch.cat((answers[:, :1], torch.where(shown, answers[:, 1:], ABSENT)), 1)


@pytest.mark.parametrize("uncertainty", [False, True])
def test_a_tile_without_the_click_has_no_say(prompted, uncertainty):
    """In a plane of several tiles, only those that hold the click answer for its structure, and the mean is over those
    alone.
    """
    options = PredictionOptions(flips=False, quiet=True, uncertainty=uncertainty)
    networks = (ByPlace(), ByPlace()) if uncertainty else (ByPlace(),)
    predictor = dataclasses.replace(predictor_of(prompted), networks=networks, options=options)
    depth, height, width = predictor.configuration.patch_size
    geometry = Geometry(shape=(depth, height, 2 * width), spacing=predictor.configuration.spacing, directed=False)
    case = predictor.preprocess(
        Volume(array=np.random.default_rng(0).normal(size=(2, *geometry.shape)).astype(np.float32), geometry=geometry)
    )
    assert case.image.shape[1:] == geometry.shape
    click, far = (
        StructurePrompts(points=((3.0, 2.0, 5.0),)),
        StructurePrompts(background_points=((width + 8.0, 2.0, 5.0),)),
    )
    found = predictor.scores(case, prompts=CasePrompts(structures={"large": click, "small": far}))
    logits = found.logits
    assert torch.allclose(logits[1, 5, :, :width], torch.tensor(4.0)), "3 columns from the tile's rim, plus one"
    assert (logits[1, 5, :, -(width // 2) :] == ABSENT).all() and (logits[1, 4] == ABSENT).all()
    assert (logits[[2, 3]] == ABSENT).all() and not logits[0].any()  # a click outside shows nothing
    if uncertainty:
        assert found.disagreement.abs().max() < 1e-5


def test_the_network_answers_where_it_is_shown_and_nowhere_else(prompted, images_of):
    predictor = predictor_of(prompted)
    case = predictor.preprocess(images_of(0))
    prompts = CasePrompts(structures={"large": StructurePrompts(points=((4.0, 4.0, 8.0),))})
    shown = prompt_map(prompts, predictor.dataset.labels, case.history)[0].any((1, 2))
    logits = predictor.scores(case, prompts=prompts).logits
    assert logits.isfinite().all() and (logits[1, shown] > ABSENT + 1).any() and (logits[1, ~shown] == ABSENT).all()


def test_comparing_and_joining_keep_the_label_and_refuse_to_mix(
    prompted, automatic, project, tmp_path, environment, capsys
):
    raw = project.workspace.raw / project.dataset
    words = ["-d", project.dataset, "-o", str(tmp_path / "report")]
    models = [f"SAMTrainer__samunetPlans__{name}" for name in ("3d_adapter", NAME)]
    assert compare.main([*words, "--models", *models]) == 2
    assert "with prompts" in (message := capsys.readouterr().err) and "another task" in message
    assert not (tmp_path / "report").exists()
    folder = prompted / "validation"
    copies = {name: shutil.copytree(folder, tmp_path / name) for name in ("a", "b")}
    shutil.copytree(prompted / "validation", tmp_path / "references")
    named = [f"{name}={path}" for name, path in copies.items()]
    words = [
        "--reference",
        str(tmp_path / "references"),
        "-djfile",
        str(raw / "dataset.json"),
        "-o",
        str(tmp_path / "page"),
    ]
    assert compare.main([*words, "--predictions", *named]) == 0
    assert "b was shown prompts (reference: 1 click per structure and slice)." in capsys.readouterr().out
    origin = "reference: 1 click per structure and slice"
    assert json.loads((tmp_path / "page" / "comparison.json").read_text())["prompts"] == {"a": origin, "b": origin}
    assert "a was shown prompts; reference: 1 click" in (tmp_path / "page" / "report.html").read_text()
    (copies["b"] / PROMPTS).unlink()
    assert compare.main([*words, "--predictions", *named]) == 2
    assert accumulate_crossval_results.main(["-d", project.dataset, "-c", NAME, "-f", "0"]) == 0
    joined = model_folder(project.workspace, project.dataset, "samunetPlans", NAME) / "crossval_results_folds_0"
    assert prompts_behind(joined) == prompts_behind(folder) == read_summary(joined / SUMMARY).prompts
    assert report.main([project.dataset, NAME, "-o", str(tmp_path / "page.html")]) == 0
    assert "predictions with prompts; reference: 1 click" in (tmp_path / "page.html").read_text()


def test_whole_cases_in_training_are_refused(project, environment, capsys):
    words = [
        project.dataset,
        NAME,
        "1",
        "--epochs",
        "1",
        "--iterations",
        "1",
        "--whole_cases",
        "1",
        "--workers",
        "0",
        "-device",
        "cpu",
    ]
    assert train.main(words) == 2
    assert "leave --whole_cases out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--points", "0"], "--points must be 1 or more"),
        (["--points", "2", "--box"], "--points or --box, not both"),
        (["--whole", "--box"], "leave --whole out"),
        (["--relaxation", "2"], "give --box too"),
        (["-axis", "5"], "the axis 0, 1 or 2"),
    ],
)
def test_wrong_options_of_simulating_are_refused(project, tmp_path, words, message, capsys):
    raw = project.workspace.raw / project.dataset
    assert (
        simulate_prompts.main(
            [str(raw / "labelsTr"), "-djfile", str(raw / "dataset.json"), "-o", str(tmp_path / "p.json"), *words]
        )
        == 2
    )
    assert message in capsys.readouterr().err and not (tmp_path / "p.json").exists()


def test_a_case_without_prompts_is_named_before_anything_is_written(prompted, project, tmp_path):
    cases = pipeline.cases_to_predict(
        project.workspace.raw / project.dataset / "imagesTr", predictor_of(prompted).dataset, tmp_path / "out"
    )
    prompts = PromptFile(cases={cases[0].identifier: CasePrompts(structures={})})
    with pytest.raises(ConfigError, match=f"no case '{cases[1].identifier}'"):
        pipeline.predict(predictor_of(prompted), cases, tmp_path / "out", pipeline.FileOptions(prompts=prompts))
    assert not (tmp_path / "out").exists()
    write_prompts(tmp_path / "p.json", prompts)
    assert read_prompts(tmp_path / "p.json") == prompts


def test_prompts_with_positions_in_mm_are_those_in_voxels(prompted, project, images_of):
    case = sorted((project.workspace.raw / project.dataset / "imagesTr").iterdir())[0]
    image = sitk.ReadImage(str(case))
    lps = image.TransformIndexToPhysicalPoint((10, 12, 5))
    predictor = predictor_of(prompted)
    preprocessed = predictor.preprocess(images_of(0))
    positions = {"voxel": (10.0, 12.0, 5.0), "lps": lps, "ras": (-lps[0], -lps[1], lps[2])}
    found = [
        predictor.scores(
            preprocessed, prompts=CasePrompts(structures={"large": StructurePrompts(points=(point,))}, coordinates=kind)
        ).logits
        for kind, point in (*positions.items(), ("voxel", (12.0, 12.0, 5.0)))
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2]) and not torch.equal(found[0], found[3])


def test_other_prompts_are_predicted_anew_and_what_stays_keeps_its_own(prompted, project, tmp_path):
    predictor = predictor_of(prompted)
    cases = pipeline.cases_to_predict(
        project.workspace.raw / project.dataset / "imagesTr", predictor.dataset, tmp_path / "out"
    )[:2]
    first, second = (case.identifier for case in cases)

    def prompts(origin, **places):
        shown = {
            name: CasePrompts(structures={"large": StructurePrompts(points=((place, 12.0, 5.0),))})
            for name, place in places.items()
        }
        return PromptFile(cases=shown, origin=origin)

    def predict_both(given, only=cases):
        pipeline.predict(predictor, only, tmp_path / "out", pipeline.FileOptions(prompts=given), skip_existing=True)
        return [(tmp_path / "out" / f"{name}.nii.gz").stat().st_mtime_ns for name in (first, second)]

    before = predict_both(prompts("one", **{first: 10.0, second: 10.0}))
    now = predict_both(prompts("two", **{first: 10.0, second: 20.0}))
    assert now[0] == before[0] and now[1] > before[1]
    written = read_prompts(tmp_path / "out" / PROMPTS)
    assert set(written.cases) == {first, second} and "one" in written.origin and "two" in written.origin
    assert written.cases[second].structures["large"].points == ((20.0, 12.0, 5.0),)
    predict_both(prompts("three", **{first: 30.0}), only=cases[:1])
    written = read_prompts(tmp_path / "out" / PROMPTS)
    assert (
        written.cases[first].structures["large"].points[0][0] == 30.0
        and written.cases[second].structures["large"].points[0][0] == 20.0
    )


def test_many_are_predicted_with_prompts_of_each(prompted, images_of):
    predictor = predictor_of(prompted)
    shown = CasePrompts(structures={"large": StructurePrompts(points=((10.0, 12.0, 5.0),))})
    found = list(predictor.predict_many([images_of(0), images_of(1)], prompts=[shown, shown]))
    assert len(found) == 2 and np.array_equal(
        found[0].segmentation, predictor.predict(images_of(0), prompts=shown).segmentation
    )


def test_nnu_net_is_not_asked_to_compete_with_prompts(project, environment, tmp_path, capsys):
    pytest.importorskip("nnunetv2")
    words = ["-d", project.dataset, "-o", str(tmp_path / "out"), "--run_nnunet", "-c", NAME, "-f", "0"]
    assert compare.main(words) == 2
    assert "is shown where to look, nnU-Net is not" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.fixture
def images_of(project):
    """Index of a training case to its volume."""
    cases, spec, reader = references(project)
    return lambda index: reader.read_image(list(cases[index].images))


def test_clicks_at_a_whole_structure_begin_in_the_middle_of_its_largest_piece(project):
    mask = np.zeros((5, 20, 20), bool)
    mask[1:4, 4:11, 4:11], mask[2, 2:13, 2:13], mask[0, 17:19, 17:19] = True, True, True
    assert middle_of(mask) == (2, 7, 7) and middle_of(mask.swapaxes(0, 2), axis=2) == (7, 7, 2)
    dataset = pipeline.open_dataset(project.workspace, project.dataset)
    clicking = Clicking(points=3, whole=True)
    prompts = prompts_from_references(dataset.cases[:2], dataset.spec, dataset.reader, clicking)
    assert prompts.origin == "reference: 3 clicks per structure"
    for case in dataset.cases[:2]:
        label, geometry = dataset.reader.read_label(case.label)
        for name, values in dataset.spec.labels.foreground:
            points = prompts.cases[case.identifier].structures[name].points
            assert len(points) == 3
            assert all(label[int(z), int(y), int(x)] in values for x, y, z in points)


class Touching(PromptedSegmenter):
    """Finds what touches a prompt within its tile."""

    prompts, whole_object = "mixed", True

    def forward(self, image, drawn=None):
        near = (drawn > 0).flatten(2).any(2)[..., None, None, None]
        logits = torch.where((image[:, :1] > 0) & near, 5.0, -5.0)
        return torch.cat([torch.zeros_like(logits[:, :1]), logits], 1)


def touching_predictor(project, dimensions):
    plan = pipeline.open_plan(project.workspace, project.dataset, "samunetPlans")
    name = next(name for name, entry in plan.configurations.items() if entry.dimensions == dimensions)
    return PromptedPredictor(
        plan=plan,
        configuration=plan.configuration(name),
        dataset=read_dataset_json(project.workspace.raw / project.dataset / "dataset.json"),
        folds=("0",),
        networks=(Touching(),),
        device=torch.device("cpu"),
        options=PredictionOptions(flips=False, quiet=True, step_size=0.5, precision="fp32"),
    )


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_prompt_in_one_slice_shows_an_object_beyond_its_tile(project, dimensions):
    """A bar of three tiles is found by one click; by a network of single slices, in its slice."""
    predictor = touching_predictor(project, dimensions)
    _, height, width = predictor.configuration.patch_size
    depth = 4
    image = np.full((len(predictor.plan.channels), depth, height, 3 * width), -1, np.float32)
    image[:, :, 4:8] = 1
    drawn = np.zeros((predictor.map_planes, *image.shape[1:]), np.uint8)
    drawn[0, depth // 2, 5, 2] = INSIDE
    alone = predictor._scores_of(np.concatenate([image, drawn]), None)
    assert (alone.logits[1] > 0).any(dim=(0, 1)).sum() < 3 * width
    grown = predictor.scores_with(image, drawn, None)
    expected = image[0] > 0
    expected[np.arange(depth) != depth // 2] &= dimensions == 3
    assert torch.equal(grown.logits[1] > 0, torch.from_numpy(expected))
    assert (grown.logits[2] == ABSENT).all()


def test_networks_of_single_slices_are_validated_by_a_click_in_each(project, monkeypatch):
    dataset = pipeline.open_dataset(project.workspace, project.dataset)
    for dimensions, origin in ((2, "1 click per structure and slice"), (3, "1 click per structure")):
        predictor = touching_predictor(project, dimensions)
        prompts = prompts_for_validation(predictor, dataset.cases[:1], dataset)
        assert prompts.origin == f"reference: {origin}"
    flat = touching_predictor(project, 2)
    image = np.zeros((len(flat.plan.channels), 3, *flat.configuration.patch_size[1:]), np.float32)
    runs = []
    monkeypatch.setattr(
        PromptedPredictor,
        "_scores_of",
        lambda *_: runs.append(1) or Scores(logits=torch.zeros(3, 3), disagreement=None),
    )
    flat.scores_with(image, np.zeros((flat.map_planes, *image.shape[1:]), np.uint8), None)
    assert len(runs) == 1  # no slice learns from another


def test_the_default_network_with_prompts_is_planned_trained_and_validated_by_one_click_a_structure(project, tmp_path):
    short = {"epochs": 1, "iterations": 2}
    folder = project.train(configuration="3d_adapter_prompted", results=tmp_path, config=short)
    summary = read_summary(folder / "validation" / SUMMARY)
    assert summary.prompts == "reference: 1 click per structure"
    predictor = load_predictor(folder.parent, device="cpu", options=PredictionOptions(flips=False, quiet=True))
    assert isinstance(predictor, PromptedPredictor) and predictor.networks[0].whole_object
