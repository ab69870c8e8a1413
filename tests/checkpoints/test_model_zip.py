"""Models in zip files: they predict alike elsewhere, and nothing that was tampered with is installed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import zipfile

import numpy as np
import pytest

from samunet.checkpoints.model_zip import export_model, install_model
from samunet.checkpoints.zip_manifest import MANIFEST
from samunet.cli import export_model_to_zip, info, install_pretrained_model_from_zip
from samunet.core.codec import read_json, write_json
from samunet.core.plan import load_plan
from samunet.core.workspace import Workspace
from samunet.errors import CheckpointError, ConfigError
from samunet.evaluation.summary import read_summary
from samunet.inference.load import load_predictor
from samunet.inference.predictor import PredictionOptions

PICTURE = (np.random.default_rng(0).normal(size=(2, 16, 40, 32)).astype(np.float32), (2.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("zip") / "model.zip"
    export_model(
        trained.parent,
        path,
        folds=None,
        checkpoint="checkpoint_final",
        license_text="CC BY 4.0",
        embed=False,
        weights_folders=(),
    )
    return path


@pytest.fixture
def elsewhere(tmp_path) -> Workspace:
    return Workspace(
        raw_folder=None,
        preprocessed_folder=None,
        results_folder=tmp_path / "results",
        weights_folders=(tmp_path / "weights",),
    )


def predicted(folder) -> np.ndarray:
    return (
        load_predictor(folder, device="cpu", options=PredictionOptions(flips=False, quiet=True))
        .predict(PICTURE)
        .segmentation
    )


def test_an_installed_model_predicts_as_the_exported_one(trained, packed, elsewhere):
    folder = install_model(packed, elsewhere, overwrite=False)
    assert folder == elsewhere.results / "Dataset901_Tiny" / trained.parent.name
    np.testing.assert_array_equal(predicted(folder), predicted(trained.parent))
    assert not list(elsewhere.results.glob(".part-*"))


def test_the_zip_has_a_card_scores_and_no_path_of_the_machine(trained, packed, tmp_path, monkeypatch):
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
        text = b"".join(archive.read(name) for name in names if not name.endswith((".png", ".safetensors")))
        card = archive.read("MODEL_CARD.md").decode()
    assert names[0] == MANIFEST and any(name.endswith("fold_0/validation/summary.json") for name in names)
    for line in (
        "# Dataset901_Tiny, 3d_adapter",
        "| images | 0000 channel0, 0001 channel1 |",
        "| training set | trained on 4 cases, validated on 2, 2 epochs of 3 steps |",
        "| folds | 0 |",
        "| license | CC BY 4.0 |",
        "| value | name | fold 0, 2 cases |",
    ):
        assert line in card.splitlines()
    plan = load_plan(trained.parent / "plans.json")
    spacing = " x ".join(f"{value:.3g}" for value in plan.configuration("3d_adapter").spacing)
    assert f" voxels at {spacing} mm |" in card and "| method | sam_unet. samunet's own." in card
    scores = read_summary(trained / "validation/summary.json")
    for value, name in enumerate(("large", "middle", "small"), 1):
        assert f"| {value} | {name} | {scores.mean[(value,)].dice:.3f} |" in card.splitlines()
    assert f"| | mean | {scores.foreground_mean.dice:.3f} |" in card and str(trained.parents[3]).encode() not in text
    again = tmp_path / "again.zip"
    export_model(
        trained.parent,
        again,
        folds=("0",),
        checkpoint="checkpoint_final",
        license_text="CC BY 4.0",
        embed=False,
        weights_folders=(),
    )
    assert again.read_bytes() == packed.read_bytes()
    mine = tmp_path / "Dataset901_Tiny" / trained.parent.name
    shutil.copytree(trained.parent, mine)
    (mine / "fold_0_seeds.json").write_text("{}")
    described = read_json(mine / "dataset.json")
    named = {"groups": {"case": "A. B."}, "dataset": {"case": {"images": ["/home/me/x.nii.gz"]}}, "proposals": ["c"]}
    write_json(mine / "dataset.json", described | named)
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    assert export_model_to_zip.main(["-d", "901", "-c", "3d_adapter", "-o", str(again), "-f", "0"]) == 0
    with zipfile.ZipFile(again) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/dataset.json"))
        assert json.loads(archive.read(name)) == described


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

    monkeypatch.setattr("samunet.checkpoints.model_zip.os.replace", fails_at_last)
    with pytest.raises(OSError, match="no"):
        install_model(packed, elsewhere, overwrite=True)
    assert (folder / "plans.json").read_bytes() == before


def rewritten(packed, target, *, change=None, add=None, drop=None, kind=None, manifest=None):
    """Copy a zip with something wrong in it."""
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(target, "w") as archive:
        for info in source.infolist():
            content = source.read(info)
            if drop and info.filename.endswith(drop):
                continue
            if change and info.filename.endswith(change):
                content = bytes([content[0] ^ 1]) + content[1:]
            if kind and info.filename.endswith("plans.json"):
                info.external_attr = (kind | 0o777) << 16
            if manifest and info.filename == MANIFEST:
                content = json.dumps(manifest(json.loads(content))).encode()
            archive.writestr(info, content)
        if add:
            archive.writestr(*add)
    return target


def renamed(raw: dict, old: str, new: str) -> dict:
    return json.loads(json.dumps(raw).replace(old, new))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"change": "checkpoint_final.safetensors"},
            "checkpoint_final.safetensors is not the file that the manifest lists",
        ),
        ({"change": "plans.json"}, "plans.json is not the file that the manifest lists"),
        ({"add": ("extra.txt", b"x")}, "does not hold what its manifest lists, first .'extra.txt'"),
        ({"drop": "plans.json"}, "does not hold what its manifest lists"),
        ({"add": ("../../evil.txt", b"x")}, "the path '../../evil.txt', which leads elsewhere"),
        ({"add": ("/etc/evil.txt", b"x")}, "the path '/etc/evil.txt', which leads elsewhere"),
        ({"add": ("a\\..\\evil.txt", b"x")}, "which leads elsewhere"),
        ({"kind": stat.S_IFLNK}, "holds a link or a device, .*plans.json; a model holds plain files only"),
        ({"kind": stat.S_IFCHR}, "holds a link or a device, .*plans.json"),
        ({"drop": MANIFEST}, "is not a model of samunet; it has no samunet_model.json"),
        ({"manifest": lambda raw: {**raw, "format": 9}}, "has format 9; this version of samunet reads format 1"),
        ({"manifest": lambda raw: {**raw, "model": "../outside"}}, "the path '../outside', which leads elsewhere"),
        (
            {"manifest": lambda raw: {**raw, "model": "Dataset901_Tiny"}},
            "names the model folder 'Dataset901_Tiny', expected",
        ),
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


def test_a_file_that_belongs_to_no_model_is_refused_though_the_manifest_lists_it(packed, elsewhere, tmp_path):
    name, entry = "Dataset901_Tiny/link", {"sha256": "0" * 64, "size": 11}
    listed = rewritten(
        packed,
        tmp_path / "a.zip",
        add=(name, b"/etc/passwd"),
        manifest=lambda raw: {**raw, "files": {**raw["files"], name: entry}},
    )
    with pytest.raises(CheckpointError, match="link, which belongs to no model"):
        install_model(listed, elsewhere, overwrite=False)


def test_bombs_and_broken_files_are_refused(packed, elsewhere, tmp_path):
    whole = packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        places = [
            info.header_offset + 30 + len(info.filename) + 40
            for info in archive.infolist()
            if info.compress_type == zipfile.ZIP_DEFLATED
        ]
    damaged = [whole[:-200], *(whole[:place] + bytes(8 * [255]) + whole[place + 8 :] for place in places)]
    for content in damaged:
        (tmp_path / "b.zip").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"b.zip"):
            install_model(tmp_path / "b.zip", elsewhere, overwrite=False)
    huge = rewritten(
        packed,
        tmp_path / "c.zip",
        manifest=lambda raw: {**raw, "files": {key: {**value, "size": 1} for key, value in raw["files"].items()}},
    )
    with pytest.raises(CheckpointError, match="bytes, its manifest says 1"):
        install_model(huge, elsewhere, overwrite=False)
    assert not elsewhere.results.exists() or not list(elsewhere.results.iterdir())


def test_the_commands_pack_and_install(project, trained, tmp_path, monkeypatch, capsys):
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    assert (
        export_model_to_zip.main(["-d", "901", "-c", "3d_adapter", "-o", str(tmp_path / "m.zip"), "--license", "MIT"])
        == 0
    )
    assert "Dataset901_Tiny/SAMTrainer__samunetPlans__3d_adapter" in capsys.readouterr().out
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "there"))
    assert install_pretrained_model_from_zip.main([str(tmp_path / "m.zip")]) == 0
    capsys.readouterr()
    assert info.main(["--model", MODEL]) == 0 and "| license | MIT |" in capsys.readouterr().out
    assert info.main(["--model", "Dataset901_Tin"]) == 2
    assert f"no trained model 'Dataset901_Tin'. Known: {MODEL}." in capsys.readouterr().err
    assert (
        install_pretrained_model_from_zip.main([str(tmp_path / "m.zip")]) == 2
        and "--overwrite" in capsys.readouterr().err
    )
    assert (
        install_pretrained_model_from_zip.main([str(tmp_path / "none.zip")]) == 2
        and "does not exist" in capsys.readouterr().err
    )
    assert (
        export_model_to_zip.main(["-d", "901", "-f", "3", "-o", str(tmp_path / "x.zip")]) == 2
        and not (tmp_path / "x.zip").exists()
    )


MODEL = "Dataset901_Tiny/SAMTrainer__samunetPlans__3d_adapter"


def with_files(packed, target, *, changed=None, replaced=None, dropped=(), **manifest):
    """Copy a zip with other files, listed in its manifest with their right hashes.

    Args:
        changed: content by path; new ones are added.
        replaced: text by text, in all paths.
        dropped: endings of paths to leave out.
        manifest: other values of its keys.
    """
    with zipfile.ZipFile(packed) as source:
        files = {name: source.read(name) for name in source.namelist()}
    raw = json.loads(files.pop(MANIFEST))
    files = {
        path: content for path, content in {**files, **(changed or {})}.items() if not path.endswith(tuple(dropped))
    }
    for old, new in (replaced or {}).items():
        files = {path.replace(old, new): content for path, content in files.items()}
        raw["model"] = raw["model"].replace(old, new)
    raw["files"] = {
        path: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for path, content in files.items()
    }
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(MANIFEST, json.dumps({**raw, **manifest}))
        for path, content in files.items():
            archive.writestr(path, content)
    return target


def refuses(zip_file, workspace, message):
    with pytest.raises(CheckpointError, match=message) as raised:
        install_model(zip_file, workspace, overwrite=True)
    assert str(raised.value).isprintable() and ".part-" not in str(raised.value)
    folders = (workspace.results, *workspace.weights_folders)
    assert [path for folder in folders if folder.exists() for path in folder.rglob("*")] == []


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"config.json": "con\x1b[2Jfig.json"}, r"of which 'con\\x1b\[2Jfig.json' holds the character"),
        ({"config.json": "a\nb.json"}, r"of which 'a\\nb.json' holds the character"),
        ({"config.json": "a\u202eb.json"}, r"of which 'a\\u202eb.json' holds the character"),
        ({"config.json": "../../evil.json"}, "leads elsewhere"),
        ({"config.json": "a//config.json"}, "of which '' is empty"),
        ({"config.json": "./config.json"}, "of which '.' begins with a dot"),
        ({"config.json": ".bashrc"}, "of which '.bashrc' begins with a dot"),
        ({"config.json": "C:config.json"}, "leads elsewhere"),
        ({"config.json": "nul.json"}, "of which 'nul.json' is one of Windows"),
        ({"config.json": "COM1"}, "of which 'COM1' is one of Windows"),
        ({"config.json": "config.json."}, "of which 'config.json.' is one of Windows"),
        ({"config.json": "config.json "}, "begins or ends with a space"),
        ({"config.json": "x" * 300}, "has 300 bytes, more than 255"),
        ({"config.json": "other.json"}, "fold_0/other.json, which belongs to no model"),
        ({"config.json": "deeper/x.safetensors"}, "deeper/x.safetensors, which belongs to no model"),
        ({"SAMTrainer__samunetPlans__3d_adapter": "nnUNetTrainer__nnUNetPlans__3d_fullres"}, "names the model folder"),
        ({"SAMTrainer__samunetPlans__3d_adapter": "SAMTrainer__nnUNetPlans__3d_adapter"}, "names the model folder"),
        ({"SAMTrainer__samunetPlans__3d_adapter": "SAMTrainer__samunetPlans"}, "names the model folder"),
        ({"Dataset901_Tiny": "ensembles"}, "names the model folder"),
        ({"Dataset901_Tiny": "Dataset901_T\x07"}, "holds the character"),
        ({"3d_adapter": "3d_samed"}, "has no configuration '3d_samed'"),
        ({"3d_adapter": "2d_adapter"}, "was trained as '3d_adapter', its model is 2d_adapter"),
    ],
    ids=ascii,
)
def test_names_in_a_zip_lead_nowhere_else(packed, elsewhere, tmp_path, replaced, message):
    refuses(with_files(packed, tmp_path / "x.zip", replaced=replaced), elsewhere, message)


def test_a_card_is_made_again_and_names_in_it_do_nothing(packed, elsewhere, tmp_path, capsys):
    with zipfile.ZipFile(packed) as archive:
        description = json.loads(archive.read(f"{MODEL}/dataset.json"))
    description["labels"] = {
        "background": 0,
        "\x1b[2Jliver | [x](http://evil)": 1,
        "<script>alert(1)</script>\u202e": 2,
        "n" * 180: 3,
    }
    changed = {
        "MODEL_CARD.md": b"# The best model\n\x1b]0;owned\x07",
        f"{MODEL}/dataset.json": json.dumps(description).encode(),
        f"{MODEL}/fold_0/config.json": b"[1]",
    }
    listed = with_files(packed, tmp_path / "x.zip", changed=changed, license="MIT\n# Safe\x07", samunet="9\x1b[2J")
    folder = install_model(listed, elsewhere, overwrite=False)
    card = (folder / "model_card.md").read_text(encoding="utf-8")
    assert card.startswith("# Dataset901_Tiny, 3d_adapter\n")
    assert all(line.isprintable() for line in card.splitlines())
    assert "best model" not in card and "# Safe" not in card.splitlines() and "<script" not in card.replace("\\<", "")
    assert r"\[2Jliver \| \[x\](http://evil)" in card and r"| license | MIT \# Safe |" in card
    (folder / "model_card.md").write_text("\x1b[2Jnew\nline")
    assert info.main(["--model", str(folder)]) == 0
    assert capsys.readouterr().out == "[2Jnew\nline\n"


def test_a_name_that_ends_early_or_is_no_text_and_a_packing_of_another_kind_are_refused(packed, elsewhere, tmp_path):
    content = with_files(packed, tmp_path / "x.zip", replaced={"config.json": "con~ig.json"}).read_bytes()
    for byte, message in ((b"\0", "holds the character"), (b"\xff", "is no zip file, or damaged|holds the path")):
        (tmp_path / "y.zip").write_bytes(content.replace(b"con~ig.json", b"con" + byte + b"ig.json"))
        refuses(tmp_path / "y.zip", elsewhere, message)
    accented = with_files(packed, tmp_path / "x.zip", replaced={"config.json": "cöfig.json"}).read_bytes()
    (tmp_path / "y.zip").write_bytes(accented.replace("cöfig.json".encode(), b"c\xff\xffig.json"))  # said to be UTF-8
    refuses(tmp_path / "y.zip", elsewhere, "is no zip file, or damaged")
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_LZMA) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    refuses(tmp_path / "z.zip", elsewhere, "stores '.*' in a way that samunet does not")


GARBAGE = (b"", b"\xff", b"[1]", b'{"channel_names": 3, "labels": 3, "file_ending": 3}')


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"dropped": (".safetensors",)}, "holds no fold with a checkpoint of its model"),
        ({"dropped": ("plans.json",)}, "holds no plans.json of its model"),
        ({"dropped": ("dataset.json",)}, "holds no dataset.json of its model"),
        *(({"changed": {f"{MODEL}/dataset.json": content}}, "dataset.json") for content in GARBAGE),
        *(({"changed": {f"{MODEL}/{name}": b"{}"}}, name) for name in ("plans.json", "postprocessing.json")),
        (
            {"changed": {f"{MODEL}/fold_0/checkpoint_final.safetensors": b"no tensors"}},
            "cannot be read .*; it is damaged",
        ),
        (
            {"changed": {f"{MODEL}/fold_1/checkpoint_best.safetensors": b"no tensors"}},
            "cannot be read .*; it is damaged",
        ),
        ({"changed": {f"{MODEL}/fold_0/validation/summary.json": b"{}"}}, "is not a summary.json"),
        ({"weights": "x.pth"}, "name different frozen weights"),
        ({"changed": {"weights/x.pth": b"x"}}, "weights/x.pth, which belongs to no model, or not to this one"),
        ({"changed": {"weights/None": b"x"}}, "weights/None, which belongs to no model, or not to this one"),
        ({"changed": {"weights/sam_vit_b_01ec64.pth.sha256": b"x"}}, "which belongs to no model, or not to this one"),
        ({"files": []}, "a manifest that cannot be read"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:40],
)
def test_a_zip_that_holds_no_model_is_refused(packed, elsewhere, tmp_path, how, message):
    refuses(with_files(packed, tmp_path / "x.zip", **how), elsewhere, message)


@pytest.mark.parametrize(
    "raw", [b"[" * 100_000, b'{"format": 1' + b"0" * 5000 + b"}", b"\xff"], ids=["deep", "long", "bytes"]
)
def test_a_manifest_that_no_reader_takes_is_refused(packed, elsewhere, tmp_path, raw):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(MANIFEST, raw)
    refuses(tmp_path / "x.zip", elsewhere, "a manifest that cannot be read")


def with_weights(packed, target, name, content, *, said=None, **how):
    """A zip whose plan stands on weights of some name and content, which it packs."""
    with zipfile.ZipFile(packed) as source:
        plan = json.loads(source.read(f"{MODEL}/plans.json"))
    digest = said or hashlib.sha256(content).hexdigest()
    for entry in plan["configurations"].values():
        entry |= {"weights": name, "weights_sha256": digest}
    changed = {f"{MODEL}/plans.json": json.dumps(plan).encode(), f"weights/{name}": content}
    return with_files(packed, target, changed=changed, weights=name, weights_sha256=digest, **how)


@pytest.mark.parametrize(
    ("name", "said", "message"),
    [
        ("own.pth", None, "was trained on pretrained weights with SHA-256 None"),  # the checkpoint stands on none
        ("own.pth", "0" * 64, r"weights/own.pth is not the file that plans.json names \(SHA-256 000"),
        ("../own.pth", None, "leads elsewhere"),
        ("sub/own.pth", None, "names the weights 'sub/own.pth', whose name holds the character '/'"),
    ],
)
def test_weights_in_a_zip_are_those_that_its_model_stands_on(packed, elsewhere, tmp_path, name, said, message):
    refuses(with_weights(packed, tmp_path / "x.zip", name, b"foreign", said=said), elsewhere, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sam_vit_b_01ec64.pth", "is not taken from others: sam_vit_b has the published SHA-256 ec2df6"),
        ("SAM_vit_b_01ec64.pth", "is not taken from others: sam_vit_b has the published SHA-256 ec2df6"),
        ("sam_vit_b", "is not taken from others: sam_vit_b has the published SHA-256 ec2df6"),
        ("medsam_vit_b.pth", "is not taken from others: medsam_vit_b has no published hash"),
        ("own.pth.sha256", "is the name of a record of hashes"),
        ("medsam_vit_b.pth.part", "is not taken from others: medsam_vit_b has no published hash"),
    ],
)
def test_a_foreign_file_takes_no_official_name(packed, elsewhere, tmp_path, monkeypatch, name, message):
    monkeypatch.setattr(
        "samunet.checkpoints.model_zip.check_frozen_weights", lambda *_: None
    )  # a checkpoint that says what is wanted
    refuses(with_weights(packed, tmp_path / "x.zip", name, b"foreign"), elsewhere, message)


def test_weights_that_are_here_stay_and_another_file_of_their_name_is_named(packed, elsewhere, tmp_path, monkeypatch):
    monkeypatch.setattr("samunet.checkpoints.model_zip.check_frozen_weights", lambda *_: None)
    whole, here = (
        with_weights(packed, tmp_path / "x.zip", "own.pth", b"theirs"),
        elsewhere.weights_folders[0] / "own.pth",
    )
    here.parent.mkdir()
    here.write_bytes(b"mine")
    with pytest.raises(
        CheckpointError, match=r"own.pth is another file than the model stands on \(SHA-256 .*; move it away"
    ):
        install_model(whole, elsewhere, overwrite=False)
    assert here.read_bytes() == b"mine" and not list(elsewhere.results.rglob("*"))
    here.write_bytes(b"theirs")
    before = here.stat().st_mtime_ns
    install_model(whole, elsewhere, overwrite=False)
    assert here.stat().st_mtime_ns == before and [path.name for path in here.parent.iterdir()] == ["own.pth"]
