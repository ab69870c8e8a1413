"""Models in zip files: they predict alike elsewhere, and nothing that was tampered with is installed."""

from __future__ import annotations

import json
import os
import stat
import zipfile

import numpy as np
import pytest

from samunet.cli import export_model_to_zip, install_pretrained_model_from_zip
from samunet.core.workspace import Workspace
from samunet.errors import CheckpointError, ConfigError
from samunet.inference.predictor import PredictionOptions, Predictor
from samunet.model_zip import MANIFEST, export_model, install_model

PICTURE = (np.random.default_rng(0).normal(size=(2, 16, 40, 32)).astype(np.float32), (2.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("zip") / "model.zip"
    export_model(trained.parent, path, folds=None, checkpoint="checkpoint_final", license_text="CC BY 4.0", embed=False, weights_folders=())
    return path


@pytest.fixture
def elsewhere(tmp_path) -> Workspace:
    return Workspace(raw_folder=None, preprocessed_folder=None, results_folder=tmp_path / "results", weights_folders=(tmp_path / "weights",))


def predicted(folder) -> np.ndarray:
    return Predictor.from_folder(folder, device="cpu", options=PredictionOptions(flips=False, quiet=True)).predict(PICTURE).segmentation


def test_an_installed_model_predicts_as_the_exported_one(trained, packed, elsewhere):
    folder = install_model(packed, elsewhere, overwrite=False)
    assert folder == elsewhere.results / "Dataset901_Tiny" / trained.parent.name
    np.testing.assert_array_equal(predicted(folder), predicted(trained.parent))
    assert not list(elsewhere.results.glob(".part-*"))


def test_the_zip_has_a_card_scores_and_no_path_of_the_machine(trained, packed, tmp_path):
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
        text = b"".join(archive.read(name) for name in names if not name.endswith((".png", ".safetensors")))
        card = archive.read("MODEL_CARD.md").decode()
    assert names[0] == MANIFEST and any(name.endswith("fold_0/validation/summary.json") for name in names)
    assert "Licence: CC BY 4.0" in card and str(trained.parents[3]).encode() not in text
    again = tmp_path / "again.zip"
    export_model(trained.parent, again, folds=("0",), checkpoint="checkpoint_final", license_text="CC BY 4.0", embed=False, weights_folders=())
    assert again.read_bytes() == packed.read_bytes()


def test_a_model_that_is_there_is_replaced_only_when_asked_for(trained, packed, elsewhere):
    folder = install_model(packed, elsewhere, overwrite=False)
    (folder / "note.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists already; move it away, or replace it with --overwrite"):
        install_model(packed, elsewhere, overwrite=False)
    assert (folder / "note.txt").exists()
    install_model(packed, elsewhere, overwrite=True)
    assert not (folder / "note.txt").exists()
    np.testing.assert_array_equal(predicted(folder), predicted(trained.parent))


def test_a_model_that_cannot_be_replaced_stays(packed, elsewhere, monkeypatch):
    folder = install_model(packed, elsewhere, overwrite=False)
    before, replace = (folder / "plans.json").read_bytes(), os.replace

    def fails_at_last(source, target):
        if str(target) == str(folder) and "replaced" not in str(source):
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr("samunet.model_zip.os.replace", fails_at_last)
    with pytest.raises(OSError, match="no"):
        install_model(packed, elsewhere, overwrite=True)
    assert (folder / "plans.json").read_bytes() == before


def rewritten(packed, target, *, change=None, add=None, drop=None, manifest=None):
    """Copy a zip with something wrong in it."""
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(target, "w") as archive:
        for info in source.infolist():
            content = source.read(info)
            if drop and info.filename.endswith(drop):
                continue
            if change and info.filename.endswith(change):
                content = bytes([content[0] ^ 1]) + content[1:]
            if manifest and info.filename == MANIFEST:
                content = json.dumps(manifest(json.loads(content))).encode()
            archive.writestr(info, content)
        if add:
            archive.writestr(*add)
    return target


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("Dataset901_Tiny/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def renamed(raw: dict, old: str, new: str) -> dict:
    return json.loads(json.dumps(raw).replace(old, new))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"change": "checkpoint_final.safetensors"}, "checkpoint_final.safetensors is not the file that the manifest lists"),
        ({"change": "plans.json"}, "plans.json is not the file that the manifest lists"),
        ({"add": ("extra.txt", b"x")}, "does not hold what its manifest lists, first .'extra.txt'"),
        ({"drop": "plans.json"}, "does not hold what its manifest lists"),
        ({"add": ("../../evil.txt", b"x")}, "the path '../../evil.txt', which leads elsewhere"),
        ({"add": ("/etc/evil.txt", b"x")}, "the path '/etc/evil.txt', which leads elsewhere"),
        ({"add": ("a\\..\\evil.txt", b"x")}, "which leads elsewhere"),
        ({"drop": MANIFEST}, "is not a model of samunet; it has no samunet_model.json"),
        ({"manifest": lambda raw: {**raw, "format": 9}}, "has format 9; this version of samunet reads format 1"),
        ({"manifest": lambda raw: {**raw, "model": "../outside"}}, "the path '../outside', which leads elsewhere"),
        ({"manifest": lambda raw: {**raw, "model": "Dataset901_Tiny"}}, "names the model folder 'Dataset901_Tiny', expected"),
        ({"manifest": lambda raw: {**raw, "surprise": 1}}, "a manifest that cannot be read .*unknown key 'surprise'"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:40],
)
def test_what_was_tampered_with_is_refused_and_nothing_is_written(packed, elsewhere, tmp_path, how, message):
    broken = rewritten(packed, tmp_path / "broken.zip", **how)
    with pytest.raises(CheckpointError, match=message):
        install_model(broken, elsewhere, overwrite=False)
    assert not elsewhere.results.exists() or not list(elsewhere.results.iterdir())
    assert not (tmp_path / "evil.txt").exists() and not (tmp_path / "outside").exists()


def test_links_bombs_and_broken_files_are_refused(packed, elsewhere, tmp_path):
    name = "Dataset901_Tiny/link"
    entry = {"sha256": "0" * 64, "size": 11}
    linked = rewritten(packed, tmp_path / "a.zip", add=(link(), b"/etc/passwd"), manifest=lambda raw: {**raw, "files": {**raw["files"], name: entry}})
    with pytest.raises(CheckpointError, match="belongs to no model|holds a link or a device"):
        install_model(linked, elsewhere, overwrite=False)
    whole = packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        places = [info.header_offset + 30 + len(info.filename) + 40 for info in archive.infolist() if info.compress_type == zipfile.ZIP_DEFLATED]
    damaged = [whole[:-200], *(whole[:place] + bytes(8 * [255]) + whole[place + 8 :] for place in places)]
    for content in damaged:
        (tmp_path / "b.zip").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"b.zip"):
            install_model(tmp_path / "b.zip", elsewhere, overwrite=False)
    huge = rewritten(
        packed, tmp_path / "c.zip", manifest=lambda raw: {**raw, "files": {key: {**value, "size": 1} for key, value in raw["files"].items()}}
    )
    with pytest.raises(CheckpointError, match="bytes, its manifest says 1"):
        install_model(huge, elsewhere, overwrite=False)
    assert not elsewhere.results.exists() or not list(elsewhere.results.iterdir())


def test_the_commands_pack_and_install(project, trained, tmp_path, monkeypatch, capsys):
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    assert export_model_to_zip.main(["-d", "901", "-c", "3d_adapter", "-o", str(tmp_path / "m.zip"), "--license", "MIT"]) == 0
    assert "Dataset901_Tiny/SAMTrainer__samunetPlans__3d_adapter" in capsys.readouterr().out
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "there"))
    assert install_pretrained_model_from_zip.main([str(tmp_path / "m.zip")]) == 0
    assert install_pretrained_model_from_zip.main([str(tmp_path / "m.zip")]) == 2 and "--overwrite" in capsys.readouterr().err
    assert install_pretrained_model_from_zip.main([str(tmp_path / "none.zip")]) == 2 and "does not exist" in capsys.readouterr().err
    assert export_model_to_zip.main(["-d", "901", "-f", "3", "-o", str(tmp_path / "x.zip")]) == 2 and not (tmp_path / "x.zip").exists()
