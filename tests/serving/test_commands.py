"""samunet_annotate, samunet_embed and samunet_serve: what they open, where labels go, what they refuse."""

from __future__ import annotations

import json
import re
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from annotating import Discs
from tiny import write_tiny_dataset

from samunet.cli import annotate, embed, serve
from samunet.imageio import reader_of_image
from samunet.interaction.volumes import VolumeModel

PAGE = Path(__file__).parents[2] / "documentation/how-to/annotate-from-a-program.md"


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    return write_tiny_dataset(tmp_path, cases=3)


@pytest.fixture
def image(dataset):
    return sorted((dataset / "imagesTr").iterdir())[0]


@pytest.fixture
def model(monkeypatch):
    """Let commands load a model that answers at once."""
    model = Discs()
    monkeypatch.setattr("samunet.interaction.choose.model_named", lambda *_: model)
    return model


@pytest.fixture
def run(model, monkeypatch):
    """Run samunet_annotate, with something that happens while it serves; returns its desk and the browser's pages."""
    pages = []
    monkeypatch.setattr("webbrowser.open", pages.append)

    def run(*words, meanwhile=lambda desk: None):
        def serve(desk, port, started):
            started("http://here/")
            meanwhile(desk)
            kept.append(desk)

        kept = []
        monkeypatch.setattr("samunet.serving.run.serve", serve)
        assert annotate.main([str(word) for word in words]) == 0
        kept[0].close()
        return SimpleNamespace(desk=kept[0], pages=pages)

    return run


def clicked_and_saved(desk):
    assert desk.session.add_prompt("point", [(2, 5, 6)], value=1).labels is not None
    desk.save()


def test_an_image_is_annotated_into_a_file_and_gone_on_with(run, image, tmp_path, capsys):
    words = ("-i", image, "-o", tmp_path / "labels/case.nii.gz", "--labels", "liver=1", "tumor=2")
    assert run(*words, meanwhile=clicked_and_saved).pages == ["http://here/"]
    written = reader_of_image(image, None).read_label(tmp_path / "labels/case.nii.gz")[0]
    assert written[2, 5, 6] == 1
    output = capsys.readouterr().out
    assert "Annotating 1 case at http://here/" in output and str(tmp_path / "labels/annotation.csv") in output

    def found_again(desk):
        assert np.array_equal(desk.session.labels(), written)
        assert [thing.name for thing in desk.session.state.objects] == ["liver", "tumor"]
        assert desk.session.state.can_undo

    assert len(run(*words, "--no_browser", meanwhile=found_again).pages) == 1


def test_a_dataset_begins_with_its_first_case_without_a_label(run, dataset, capsys):
    second = sorted((dataset / "labelsTr").iterdir())[1]
    second.unlink()
    desk = run("-d", "999", meanwhile=clicked_and_saved).desk
    assert len(desk.works) == 3 and second.is_file()
    named = json.loads((dataset / "dataset.json").read_text())["labels"]
    assert {"background": 0} | {thing.name: thing.value for thing in desk.objects} == named
    assert (dataset / "annotation.csv").is_file()
    assert "Next: samunet_plan_and_preprocess -d 999" in capsys.readouterr().out


def test_a_case_without_a_label_begins_with_its_prediction(run, dataset, tmp_path):
    first, second, _ = sorted((dataset / "labelsTr").iterdir())
    shutil.copytree(dataset / "labelsTr", tmp_path / "predictions")
    first.unlink()

    def begins(desk):
        assert desk.session.start.any() and not first.is_file()
        assert desk.works[second.name[:-7]].start == second, "its own label goes before"

    run("-d", "999", "--predictions", tmp_path / "predictions", meanwhile=begins)


def test_labels_that_lie_elsewhere_than_their_image_are_refused(model, dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("samunet.serving.run.serve", lambda *_: None)
    first = sorted((dataset / "labelsTr").iterdir())[0]
    file = nibabel.load(first)
    (tmp_path / "mirrored").mkdir()
    mirrored = nibabel.Nifti1Image(np.asarray(file.dataobj), file.affine @ np.diag([-1, 1, 1, 1]))
    nibabel.save(mirrored, tmp_path / "mirrored" / first.name)
    first.unlink()
    for other in sorted((dataset / "imagesTr").iterdir())[1:]:
        other.unlink()
    assert annotate.main(["-d", "999", "--predictions", str(tmp_path / "mirrored")]) == 2
    assert "they must share one grid" in capsys.readouterr().err


def test_test_cases_and_another_folder_may_be_annotated(run, dataset, tmp_path):
    run("-d", "999", "--test", "-o", tmp_path / "mine", meanwhile=clicked_and_saved)
    images = [file.name for file in (dataset / "imagesTs").iterdir()]
    assert [file.name for file in (tmp_path / "mine").glob("*.nii.gz")] == [images[0].replace("_0000", "")]


@pytest.mark.parametrize(
    "words, reason",
    [
        ([], "Give -i IMAGE -o LABEL, or -d DATASET"),
        (["-d", "999", "-i", "x.nii.gz"], "Give -i IMAGE -o LABEL, or -d DATASET"),
        (["-i", "x.nii.gz"], "-i needs -o LABEL"),
        (["-i", "x.nii.gz", "-o", "y.nii.gz", "--test"], "are for -d DATASET"),
        (["-i", "x.nii.gz", "-o", "y.nii.gz", "--labels", "liver"], "NAME=VALUE"),
        (["-i", "x.nii.gz", "-o", "y.nii.gz", "--labels", "liver=0"], "NAME=VALUE"),
        (["-i", "x.nii.gz", "-o", "y.nii.gz"], "x.nii.gz"),
        (["-i", "IMAGE", "-o", "y.txt"], "no ending of an image file"),
        (["-i", "IMAGE", "-o", "y.jpg"], "y.jpg cannot hold labels of"),
        (["-i", "IMAGE", "-o", "y.png"], "y.png cannot hold labels of"),
        (["-d", "999", "--labels", "liver=1"], "--labels is for -i IMAGE"),
        (["-d", "998"], "998"),
    ],
)
def test_what_does_not_go_together_is_refused(words, reason, model, dataset, image, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("samunet.serving.run.serve", lambda *_: None)
    assert annotate.main([str(image) if word == "IMAGE" else word for word in words]) == 2
    assert reason in capsys.readouterr().err


def test_a_damaged_case_is_passed_over_and_named(run, dataset, capsys):
    first, second, third = sorted((dataset / "imagesTr").iterdir())
    for path in (dataset / "labelsTr").iterdir():
        path.unlink()
    first.write_bytes(first.read_bytes()[:300])
    second.write_bytes(b"")
    opened = []
    run("-d", "999", meanwhile=lambda desk: opened.append(desk.case))
    assert opened == [third.name.removesuffix("_0000.nii.gz")]
    said = capsys.readouterr().out
    assert all(f"Case '{one.name.removesuffix('_0000.nii.gz')}' is passed over" in said for one in (first, second))
    third.write_bytes(b"")
    assert annotate.main(["-d", "999", "--no_browser"]) == 2 and first.name in capsys.readouterr().err


def test_equal_names_are_refused_and_channels_are_not(model, image, tmp_path, capsys):
    other = tmp_path / "other" / image.name
    other.parent.mkdir()
    shutil.copyfile(image, other)
    plain = tmp_path / "other" / image.name.replace("_0000", "")
    for pair in ((image, other), (image.parent, other.parent), (other, plain)):
        shutil.copyfile(image, plain)
        assert embed.main(["-i", *map(str, pair), "-o", str(tmp_path / "cache")]) == 2
        said = capsys.readouterr().err
        assert f"would be one case, '{plain.name[:-7]}'" in said and other.name in said
        plain.unlink()
    shutil.copyfile(image, other.with_name(image.name.replace("_0000", "_0001")))
    assert embed.main(["-i", str(other.parent), str(other), "-o", str(tmp_path / "cache"), "--no_pbar"]) == 0
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [plain.name[:-7]]


def test_embeddings_are_made_once_told_before_and_taken(run, model, dataset, image, tmp_path, capsys):
    words = ["-i", str(dataset / "imagesTr"), "-o", str(tmp_path / "cache"), "--no_pbar"]
    assert embed.main(words) == 0
    assert re.search(r"\(1 of 3\): \d+ planes, .* at most", capsys.readouterr().out)
    made = model.encoded
    assert embed.main(words) == 0 and model.encoded == made

    def encodes_nothing(desk):
        desk.session.add_prompt("point", [(2, 5, 6)], value=1)
        assert model.encoded == made

    words = ("-i", image, "-o", tmp_path / "case.nii.gz", "--labels", "small=1", "--cache", tmp_path / "cache")
    run(*words, meanwhile=encodes_nothing)


def test_an_image_that_cannot_be_encoded_is_named_and_the_others_are(model, dataset, tmp_path, capsys):
    first, second, third = sorted((dataset / "imagesTr").iterdir())
    second.write_bytes(second.read_bytes()[:300])
    assert embed.main(["-i", str(dataset / "imagesTr"), "-o", str(tmp_path / "cache"), "--no_pbar"]) == 3
    said = capsys.readouterr()
    assert f"Case '{second.name.removesuffix('_0000.nii.gz')}' failed" in said.err and "of 2 cases" in said.out
    assert len(list((tmp_path / "cache").glob("*/embeddings.json"))) == 2


def test_embeddings_are_refused_where_they_cannot_be(model, image, tmp_path, monkeypatch, capsys):
    words = ["-i", str(image), "-o", str(tmp_path / "cache")]
    assert embed.main([*words, "-axes", "3"]) == 2 and "-axes are 0, 1 and 2" in capsys.readouterr().err
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    assert embed.main(words) == 2 and "make space" in capsys.readouterr().err
    assert not list((tmp_path / "cache").iterdir())
    whole = VolumeModel.__new__(VolumeModel)
    whole.name = "3d_adapter_prompted"
    monkeypatch.setattr("samunet.interaction.choose.model_named", lambda *_: whole)
    assert embed.main(words) == 2 and "only planes are encoded" in capsys.readouterr().err


def test_the_lines_for_3d_slicer_annotate_over_http_and_ctrl_c_ends_the_server(tmp_path, monkeypatch, capsys):
    """The page's lines run against samunet_serve with the seed, on a bright ball in noise; then comes Ctrl-C."""
    pytest.importorskip("fastapi", reason="the extra annotate is not installed")
    from samunet.serving import run

    z, y, x = np.ogrid[:5, :64, :64]
    ball = (4 * (z - 2)) ** 2 + (y - 30) ** 2 + (x - 40) ** 2 <= 100
    image = (ball * 100 + np.random.default_rng(0).normal(scale=10, size=ball.shape)).astype(np.float32)
    known = {"image": image, "spacing": [1, 1, 4], "origin": [0, 0, 0], "name": "ball", "point": [40, 30, 2]}
    known["direction"] = np.eye(3).tolist()
    (code,) = re.findall(r"```python\n(# Tested.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert code.count("\n") <= 22, "the page promises few lines"

    def client(address):
        try:
            known["address"] = address
            exec(compile(code, PAGE.name, "exec"), known)
        finally:
            signal.raise_signal(signal.SIGINT)

    def serve_and_ask(desk, port, started, serve=run.serve):
        def then(address):
            started(address)
            threading.Thread(target=client, args=(address,)).start()

        serve(desk, port, then)

    monkeypatch.setattr(run, "serve", serve_and_ask)
    assert serve.main(["-o", str(tmp_path), "-device", "cpu"]) == 0
    assert re.fullmatch(
        r"Listening at http://127\.0\.0\.1:\d+/\S{32}/\nLabels .* found again\n", capsys.readouterr().out
    )
    found = known["labels"][2] == 1
    assert 2 * (found & ball[2]).sum() / (found.sum() + ball[2].sum()) > 0.85
    written = reader_of_image(tmp_path / "ball.nii.gz", None).read_label(tmp_path / "ball.nii.gz")[0]
    assert np.array_equal(written, known["labels"])
