"""Files to files: the commands on phantoms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from phantoms import ball, write_dataset, write_image
from PIL import Image

from samunet.cli.choose_cases import main as choose
from samunet.cli.fewshot import main as fewshot
from samunet.core.codec import read_json, write_json
from samunet.core.dataset import PROPOSALS, Case, read_dataset_json
from samunet.core.geometry import turn_between
from samunet.core.history import turned
from samunet.core.labels import parse_labels
from samunet.core.names import journal_of
from samunet.core.volume import Volume
from samunet.core.workspace import Workspace
from samunet.errors import ConfigError, DatasetError
from samunet.fewshot.examples import References, read_references, spec_of_values
from samunet.fewshot.methods import FewShot, Proposal
from samunet.fewshot.models import model_named
from samunet.fewshot.run import Asked, _write, choose_cases, propose_labels
from samunet.imageio import reader_for
from samunet.ops.overlap import overlap
from samunet.pipeline.datasets import refuse_proposals

SHAPE, DISC = (14, 32, 32), (1, 64, 80)


@pytest.fixture
def raw(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    return tmp_path / "raw"


def test_volumes_with_a_case_that_fails_become_a_dataset_whose_proposals_are_named(tmp_path, raw, capsys):
    labeled = [ball(SHAPE, (7, 15, 16), 6, name="one"), ball(SHAPE, (7, 17, 15), 6, name="two", seed=1)]
    references = write_dataset(tmp_path / "references", labeled)
    new = ball(SHAPE, (7, 16, 17), 6.5, name="new", seed=2)
    coarse = ball(SHAPE, (7, 16, 16), 6, name="coarse", spacing=(1.0, 5.0, 5.0))
    for example in (*labeled, new, coarse):
        write_image(tmp_path / "images", example)
    words = ["-i", tmp_path / "images", "-r", references, "-o", tmp_path / "out", "--method", "registration"]
    words += ["--preview", "-np", "1", "--no_pbar", "--deformation", "none"]
    assert fewshot([*map(str, words), "--as_dataset", "Dataset901_Few"]) == 3
    said = capsys.readouterr().out
    assert f"Wrote pictures to look at to {tmp_path / 'out' / 'preview'}" in said
    assert "Dice to expect, by leaving out each of 2 references in turn:" in said
    assert "'coarse' and reference 'one' have the spacings 1 x 5 x 5 and 1 x 1 x 1 mm" in said
    label, _ = reader_for(".nii.gz").read_label(tmp_path / "out" / "new.nii.gz")
    assert overlap(new.label, label, (1,)).dice > 0.8
    report = read_json(tmp_path / "out" / "fewshot.json")
    assert report["confidence"].keys() == {"new"} and report["failures"].keys() == {"coarse"}
    assert min(report["expected_dice"]["registration"]["shell"]) > 0.8
    assert (tmp_path / "out" / "preview" / "new.png").stat().st_size > 1000
    spec = read_dataset_json(raw / "Dataset901_Few" / "dataset.json")
    assert spec.proposals == {"new"} and spec.num_training == 3
    kept, _ = reader_for(".nii.gz").read_label(raw / "Dataset901_Few" / "labelsTr" / "one.nii.gz")
    assert np.array_equal(kept, labeled[0].label)


@pytest.mark.slow  # every method, on every reference
def test_pictures_are_labeled_by_the_best_method_on_the_references(tmp_path, raw):
    labeled = [ball(DISC, (0, 30, 30), 16, name="one"), ball(DISC, (0, 34, 50), 16, name="two", seed=1)]
    for example in labeled:
        example.label[example.label == 2] = 1
    references = write_dataset(tmp_path / "references", labeled, ".png")
    (references / "dataset.json").unlink()
    for part in ("imagesTr", "labelsTr"):
        for path in (references / part).iterdir():
            path.rename(path.with_name(path.name.replace("_0000", "")))
    new = ball(DISC, (0, 32, 40), 16, name="new", seed=2)
    images = write_image(tmp_path / "images", new, ".png").parent
    words = ["-i", images, "-r", references, "-o", tmp_path / "out", "-np", "1", "--no_pbar", "--deformation", "none"]
    assert fewshot([*map(str, words)]) == 0
    report = read_json(tmp_path / "out" / "fewshot.json")
    means = {
        name: np.mean([dice for parts in classes.values() for dice in parts])
        for name, classes in report["expected_dice"].items()
    }
    assert len(means) == 5 and report["method"] == max(means, key=means.get)
    label, _ = reader_for(".png").read_label(tmp_path / "out" / "new.png")
    assert overlap(new.label, label, (1, 2)).dice > 0.7


def test_proposals_are_refused_for_training_until_they_are_corrected(tmp_path):
    workspace = Workspace(raw_folder=tmp_path, preprocessed_folder=tmp_path / "p", results_folder=tmp_path / "r")
    folder = write_dataset(tmp_path / "Dataset901_Few", [ball(DISC, (0, 30, 30), 16, name="one")])
    described = read_json(folder / "dataset.json")
    write_json(folder / "dataset.json", described | {PROPOSALS: ["two", "three"]})
    older = read_dataset_json(folder / "dataset.json")
    with pytest.raises(DatasetError, match=r"1 of 2 cases are proposals .* 'two'\. .*'proposals' in .*--proposals"):
        refuse_proposals(workspace, older, ["one", "two"])
    refuse_proposals(workspace, older, ["one"])
    write_json(folder / "dataset.json", described)  # corrected, while the preprocessed copy is older
    with pytest.raises(DatasetError, match=r"1 of 2 cases were preprocessed while .* 'two'\. Run first: samunet_prep"):
        refuse_proposals(workspace, older, ["one", "two"])
    refuse_proposals(workspace, read_dataset_json(folder / "dataset.json"), ["one", "two"])


def test_proposals_are_no_references(tmp_path):
    pair = [ball(DISC, (0, 30, 30), 16, name=name) for name in ("one", "two")]
    folder = write_dataset(tmp_path / "data", pair)
    described = read_json(folder / "dataset.json")
    write_json(folder / "dataset.json", described | {PROPOSALS: ["two"]})
    assert [case.identifier for case in read_references(folder).cases] == ["one"]
    write_json(folder / "dataset.json", described | {PROPOSALS: ["one", "two"]})
    with pytest.raises(DatasetError, match="All labels of .* are proposals; correct one"):
        read_references(folder)


def test_references_are_left_out_and_kept_apart_from_proposals(tmp_path, raw, capsys):
    labeled = ball(DISC, (0, 30, 30), 16, name="one")
    references = write_dataset(tmp_path / "references", [labeled], ".png")
    words = ["-i", references / "imagesTr", "-r", references, "-o", references / "labelsTr"]
    assert fewshot([*map(str, words)]) == 2
    assert "holds the references' labels; give another output folder" in capsys.readouterr().err
    (references / "dataset.json").unlink()
    label = references / "labelsTr" / "one.png"
    label.rename(label.with_name("one_0000.png"))
    assert fewshot([*map(str, words[:-1]), str(tmp_path / "out")]) == 2
    assert "No image is without a label (1 given)" in capsys.readouterr().err


def test_what_is_wrong_with_references_is_one_sentence(tmp_path):
    empty = ball(SHAPE, (7, 500, 500), 6, name="empty")
    folder = write_dataset(tmp_path / "empty", [empty])
    with pytest.raises(DatasetError, match="label of reference 'empty' in .* is empty; label a structure, or remove"):
        read_references(folder)
    shell = ball(SHAPE, (7, 16, 16), 6)
    shell.label[shell.label == 2] = 1
    with pytest.raises(DatasetError, match=r"Class 'core' \(2\) is in no reference of .*; add one that shows it"):
        read_references(write_dataset(tmp_path / "shell", [shell]))
    other = ball(SHAPE, (7, 16, 16), 6)
    other.label[other.label == 2] = 3
    with pytest.raises(DatasetError, match=r"holds the values \[.*3.*\], which dataset.json does not name"):
        read_references(write_dataset(tmp_path / "other", [other]))
    coarse = [ball(SHAPE, (7, 16, 16), 6, name="a"), ball(SHAPE, (7, 16, 16), 6, name="b", spacing=(9.0, 1.0, 1.0))]
    with pytest.raises(DatasetError, match="'b' and reference 'a' have the spacings 9 x 1 x 1 and 1 x 1 x 1 mm"):
        read_references(write_dataset(tmp_path / "coarse", coarse))
    with pytest.raises(DatasetError, match="has neither a dataset.json nor folders images and labels"):
        read_references(tmp_path)


def test_the_cases_to_label_are_named_by_the_command(tmp_path, raw, capsys):
    kinds = {"bright": (0, 20, 20), "left": (0, 44, 60), "none": (0, 500, 500)}
    for kind, center in kinds.items():
        for number in range(2):
            example = ball(DISC, center, 12, name=f"{kind}{number}", seed=number)
            example.volume.array[:] *= 1 + (kind == "bright")
            write_image(tmp_path / "images", example, ".png")
    assert choose(["-i", str(tmp_path / "images"), "-n", "3", "--no_pbar"]) == 0
    said = capsys.readouterr()
    names = said.out.splitlines()  # and nothing else, as a shell loops over them
    assert sorted(name[:-1] for name in names) == sorted(kinds)
    image = tmp_path / "images" / f"{names[0]}_0000.png"
    assert said.err.splitlines()[-1] == f"Next: samunet_annotate -i {image} -o LABELED/labels/{names[0]}.png"


def test_whatever_is_wrong_with_an_image_it_alone_fails_by_name(tmp_path, raw, monkeypatch, capsys):
    labeled = [ball(DISC, (0, 30, 30), 16, name=name, seed=seed) for seed, name in enumerate(("one", "two"))]
    references = write_dataset(tmp_path / "references", labeled, ".png")
    names = ("broken", "cut", "good", "odd")
    for name in names:
        write_image(tmp_path / "images", ball(DISC, (0, 32, 32), 16, name=name, seed=2), ".png")
    (tmp_path / "images" / "cut_0000.png").write_bytes(b"\x89PNG\r\n")
    forgotten = []
    propose, forget = FewShot.propose, FewShot.forget

    def fails(self, method, image, examples=None):
        if image.identifier in ("odd", "two"):
            raise np.linalg.LinAlgError("Singular matrix")
        if image.identifier == "broken":
            raise AttributeError("no such thing")
        return propose(self, method, image, examples)

    monkeypatch.setattr(FewShot, "propose", fails)
    monkeypatch.setattr(FewShot, "forget", lambda self, name: forgotten.append(name) or forget(self, name))
    words = ["-i", tmp_path / "images", "-r", references, "-o", tmp_path / "out", "--method", "nearest", "--no_pbar"]
    assert fewshot([*map(str, words)]) == 3
    report = read_json(tmp_path / "out" / "fewshot.json")
    assert report["confidence"].keys() == {"good"} and (tmp_path / "out" / "good.png").is_file()
    assert report["failures"]["odd"] == "LinAlgError: Singular matrix"
    assert report["failures"]["broken"] == "AttributeError: no such thing"
    assert "cut_0000.png" in report["failures"]["cut"]
    assert report["expected_dice"]["nearest"]["shell"][1] == 0
    said = capsys.readouterr().out
    assert "nearest fails on reference 'two': LinAlgError: Singular matrix" in said
    assert "Case 'broken' failed: AttributeError: no such thing" in said
    assert forgotten == list(names)


def test_proposals_that_somebody_corrects_are_left_alone_by_name(tmp_path, raw, capsys):
    references = write_dataset(tmp_path / "references", [ball(DISC, (0, 30, 30), 16, name="one")], ".png")
    for name in ("mine", "new"):
        write_image(tmp_path / "images", ball(DISC, (0, 32, 32), 16, name=name, seed=2), ".png")
    words = ["-i", tmp_path / "images", "-r", references, "-o", tmp_path / "out", "--method", "nearest", "--no_pbar"]
    assert fewshot([*map(str, words)]) == 0
    output = tmp_path / "out" / "mine.png"
    journal_of(output).parent.mkdir()
    journal_of(output).touch()
    output.write_bytes((references / "labelsTr" / "one.png").read_bytes() + b"corrected")
    (tmp_path / "out" / "new.png").unlink()
    capsys.readouterr()
    assert fewshot([*map(str, words), "--as_dataset", "Dataset901_Few"]) == 0
    said = capsys.readouterr().out
    assert "Left alone, as somebody corrects them: mine. To propose one again, move its journal away" in said
    assert output.read_bytes().endswith(b"corrected") and (tmp_path / "out" / "new.png").is_file()
    report = read_json(tmp_path / "out" / "fewshot.json")
    assert report["corrected"] == ["mine"] and report["confidence"].keys() == {"new"}
    spec = read_dataset_json(raw / "Dataset901_Few" / "dataset.json")
    assert spec.proposals == {"mine", "new"}


def test_a_full_disk_ends_the_work(tmp_path, raw, monkeypatch, capsys):
    references = write_dataset(tmp_path / "references", [ball(DISC, (0, 30, 30), 16, name="one")], ".png")
    write_image(tmp_path / "images", ball(DISC, (0, 32, 32), 16, name="new"), ".png")

    def full(*_):
        raise OSError(28, "No space left on device", "new.png")

    monkeypatch.setattr("samunet.fewshot.run._write", full)
    words = ["-i", tmp_path / "images", "-r", references, "-o", tmp_path / "out", "--method", "nearest", "--no_pbar"]
    assert fewshot([*map(str, words)]) == 2
    assert "new.png: No space left on device; make space" in capsys.readouterr().err


def test_what_cannot_become_a_dataset_is_refused_before_the_work(tmp_path, raw):
    references = write_dataset(tmp_path / "references", [ball(DISC, (0, 30, 30), 16, name="one")], ".png")
    write_image(tmp_path / "images", ball(DISC, (0, 32, 32), 16, name="new"), ".png")
    write_image(tmp_path / "other", ball(DISC, (0, 32, 32), 16, name="other"), ".bmp")
    asked = Asked(
        images=(tmp_path / "images", tmp_path / "other"),
        references=references,
        output=tmp_path / "out",
        dataset="Dataset901_Few",
        raw=raw,
    )
    with pytest.raises(DatasetError, match=r"must share one known ending; found \.bmp, \.png"):
        propose_labels(asked, model=None)
    write_image(tmp_path / "capitals", ball(DISC, (0, 32, 32), 16, name="NEW"), ".png")
    twice = dataclasses.replace(asked, images=(tmp_path / "images", tmp_path / "capitals"))
    with pytest.raises(DatasetError, match="several cases have one name, first 'new'"):
        propose_labels(twice, model=None)
    assert not (tmp_path / "out").exists()


def test_cases_to_choose_are_counted_before_the_work_and_those_that_fail_left_out(tmp_path, raw, capsys):
    for radius, name in enumerate(("one", "two", "zero"), 16):
        write_image(tmp_path / "images", ball(DISC, (0, 30, 30), radius, name=name), ".png")
    with pytest.raises(ConfigError, match="-n is the number of cases to choose, 1 to 3 of these; got 4"):
        choose_cases([tmp_path / "images"], 4, model=None)
    (tmp_path / "images" / "zero_0000.png").write_bytes(b"")
    assert choose(["-i", str(tmp_path / "images"), "-n", "2", "--no_pbar"]) == 3
    said = capsys.readouterr()
    assert "Case 'zero' failed: " in said.err and sorted(said.out.splitlines()) == ["one", "two"]


def test_references_with_regions_become_a_dataset_with_them(tmp_path, raw):
    references = write_dataset(tmp_path / "references", [ball(DISC, (0, 30, 30), 16, name="one")], ".png")
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    described = read_json(references / "dataset.json") | {"labels": labels, "regions_class_order": [1, 2]}
    write_json(references / "dataset.json", described)
    write_image(tmp_path / "images", ball(DISC, (0, 32, 32), 16, name="new"), ".png")
    words = ["-i", tmp_path / "images", "-r", references, "-o", tmp_path / "out", "--method", "nearest", "--no_pbar"]
    assert fewshot([*map(str, words), "--as_dataset", "Dataset901_Few"]) == 0
    spec = read_dataset_json(raw / "Dataset901_Few" / "dataset.json")
    assert spec.labels.foreground == read_dataset_json(references / "dataset.json").labels.foreground
    assert read_json(tmp_path / "out" / "fewshot.json")["confidence"]["new"].keys() == {"whole", "core"}


def test_values_that_share_a_regions_name_are_told_apart():
    labels = parse_labels({"background": 0, "lesion": [1, 2], "core": 2, "edema": [3, 4]}, [1, 2, 3])
    spec = dataclasses.replace(spec_of_values(("MR",), {0, 1}, "x", ".png"), labels=labels)
    named = References(spec=spec, cases=(), examples=()).classes
    assert named == {1: "lesion", 2: "core", 3: "edema (3)", 4: "edema (4)"}


def test_an_image_is_known_again_whatever_its_name(tmp_path, raw, capsys):
    labeled = ball(DISC, (0, 30, 30), 16, name="patient (1)")
    references = write_dataset(tmp_path / "references", [labeled], ".png")
    (references / "dataset.json").unlink()
    (references / "imagesTr" / "patient (1)_0000.png").rename(references / "imagesTr" / "patient (1).png")
    assert fewshot(["-i", str(references / "imagesTr"), "-r", str(references), "-o", str(tmp_path / "out")]) == 2
    assert "No image is without a label (1 given)" in capsys.readouterr().err


def test_references_without_a_description_may_have_nnunets_names(tmp_path):
    folder = write_dataset(tmp_path / "data", [ball(SHAPE, (7, 16, 16), 6, name=name) for name in ("one", "two_0001")])
    (folder / "dataset.json").unlink()
    for name in ("one", "two_0001"):
        first = folder / "imagesTr" / f"{name}_0000.nii.gz"
        first.with_name(f"{name}_0001.nii.gz").write_bytes(first.read_bytes())
    found = read_references(folder)
    assert [case.identifier for case in found.cases] == ["one", "two_0001"]
    assert found.spec.channels == ("channel0", "channel1") and len(found.examples[0].volume.array) == 2
    (folder / "labelsTr" / "one.nii.gz").rename(folder / "labelsTr" / "three.nii.gz")
    with pytest.raises(DatasetError, match="holds 1 label without an image of the same name in .*, first 'three'"):
        read_references(folder)


def test_numbered_pictures_are_cases_and_masks_of_255_are_refused_by_name(tmp_path):
    examples = [ball(DISC, (0, 30, 30), 16, name=f"scan_{number:04}") for number in (1, 2)]
    folder = write_dataset(tmp_path / "data", examples, ".png")
    (folder / "dataset.json").unlink()
    for example in examples:
        (folder / "imagesTr" / f"{example.identifier}_0000.png").rename(
            folder / "imagesTr" / f"{example.identifier}.png"
        )
    assert [case.identifier for case in read_references(folder).cases] == ["scan_0001", "scan_0002"]
    for part in ("imagesTr", "labelsTr"):
        first = folder / part / "scan_0001.png"
        first.rename(first.with_name("scan_0000.png"))
    (folder / "imagesTr" / "scan_0003.png").write_bytes((folder / "imagesTr" / "scan_0002.png").read_bytes())
    found = read_references(folder)
    assert [case.identifier for case in found.cases] == ["scan", "scan_0002"] and len(found.spec.channels) == 1
    for path in (folder / "labelsTr").iterdir():
        white = np.array(Image.open(path))
        Image.fromarray(np.where(white > 0, 255, 0).astype(np.uint8)).save(path)
    with pytest.raises(DatasetError, match=r"labelsTr hold the values 0, 255; values from 0 to 1 are expected"):
        read_references(folder)


def test_what_is_known_is_kept_when_the_work_is_stopped(tmp_path, raw, monkeypatch):
    labeled = [ball(DISC, (0, 30, 30), 16, name=name, seed=seed) for seed, name in enumerate(("one", "two"))]
    references = write_dataset(tmp_path / "references", labeled, ".png")
    for name in ("a", "b"):
        write_image(tmp_path / "images", ball(DISC, (0, 32, 32), 16, name=name, seed=2), ".png")
    propose = FewShot.propose

    def stopped(self, method, image, examples=None):
        if image.identifier == "b":
            raise KeyboardInterrupt
        return propose(self, method, image, examples)

    monkeypatch.setattr(FewShot, "propose", stopped)
    asked = Asked(
        images=(tmp_path / "images",), references=references, output=tmp_path / "out", method="nearest", quiet=True
    )
    with pytest.raises(KeyboardInterrupt):
        propose_labels(asked, model_named("seed", device="cpu"))
    report = read_json(tmp_path / "out" / "fewshot.json")
    assert report["confidence"].keys() == {"a"} and len(report["expected_dice"]["nearest"]["shell"]) == 2


def test_references_of_equal_names_are_refused(tmp_path):
    folder = write_dataset(tmp_path / "data", [ball(DISC, (0, 30, 30), 16, name=name) for name in ("one", "one_0000")])
    (folder / "dataset.json").unlink()
    (folder / "imagesTr" / "one_0000_0000.nii.gz").rename(folder / "imagesTr" / "one.nii.gz")
    with pytest.raises(DatasetError, match="holds 2 images of case 'one'; rename or remove one of them"):
        read_references(folder)


@pytest.mark.parametrize("there", ["SAR", "RSA", "LIP"])
def test_volumes_of_other_orientations_get_the_same_labels_on_their_own_grids(tmp_path, there):
    asymmetric = ball(SHAPE, (6, 12, 20), 6, name="one", spacing=(1.0, 1.5, 1.0))
    turn = turn_between("SPL", there)

    def stored(example):
        volume = example.volume
        array, grid = np.ascontiguousarray(turned(volume.array, *turn)), volume.geometry.turned(*turn)
        label = np.ascontiguousarray(turned(example.label, *turn))
        return dataclasses.replace(example, volume=Volume(array=array, geometry=grid), label=label)

    references = read_references(
        write_dataset(tmp_path / "data", [asymmetric, stored(dataclasses.replace(asymmetric, identifier="two"))])
    )
    first, second = references.examples
    assert first.volume.geometry.orientation == second.volume.geometry.orientation == "SPL"
    assert np.array_equal(first.label, second.label) and np.array_equal(first.volume.array, second.volume.array)
    assert first.volume.geometry.voxels_apart(second.volume.geometry) < 1e-3
    few = FewShot(references=references, model=model_named("seed", device="cpu"))
    new = ball(SHAPE, (7, 14, 18), 6, name="new", seed=2, spacing=(1.0, 1.5, 1.0))
    plain, other = few.propose("nearest", new), few.propose("nearest", stored(new))
    assert plain.label.any() and np.array_equal(other.label, turned(plain.label, *turn))


def test_previews_are_hung_as_radiologists_do_however_the_file_is_stored(tmp_path):
    spec = spec_of_values(("MR",), {0, 1, 2}, "x", ".nii.gz")
    pictures = []
    for columns in (1, -1):
        direction = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (float(columns), 0.0, 0.0))
        image = ball(SHAPE, (7, 12, 10), 6, name=f"case{columns}", direction=direction)
        volume = dataclasses.replace(image.volume, array=image.volume.array[..., ::columns])
        image = dataclasses.replace(image, volume=volume, label=image.label[..., ::columns])
        asked = Asked(images=(), references=tmp_path, output=tmp_path, preview=True)
        case = Case(identifier=image.identifier, images=(tmp_path / "x_0000.nii.gz",), label=None)
        references = References(spec=spec, cases=(), examples=())
        _write(asked, references, case, image, Proposal(label=image.label, confidence={}))
        pictures.append((tmp_path / "preview" / f"{image.identifier}.png").read_bytes())
    assert pictures[0] == pictures[1]


def test_a_name_that_is_taken_is_refused_before_the_work(tmp_path, raw):
    raw.mkdir()
    (raw / "Dataset901_Other").mkdir()
    asked = Asked(images=(tmp_path,), references=tmp_path, output=tmp_path, dataset="Dataset901_Few", raw=raw)
    with pytest.raises(DatasetError, match="901 belongs to Dataset901_Other"):
        propose_labels(asked, model=None)
    with pytest.raises(ConfigError, match="There is no 'sam_mpe'. Did you mean 'sam_mpa'"):
        propose_labels(Asked(images=(), references=tmp_path, output=tmp_path, method="sam_mpe"), model=None)
