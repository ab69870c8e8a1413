"""`import samunet` does what the commands do."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import samunet
from samunet.core.codec import file_sha256
from samunet.core.results import VALIDATION

STUB = Path(samunet.__file__).with_suffix(".pyi")


def test_every_name_is_there_and_says_what_it_takes_gives_and_raises():
    for name in samunet.__all__:
        value = getattr(samunet, name)
        assert value.__doc__, name
        if inspect.isfunction(value) and value is not samunet.variants:
            for part in ("Args:", "Returns:", "Raises:"):
                assert part in value.__doc__ or (part == "Returns:" and "returns" in value.__doc__.lower()), name
    assert sorted(samunet.__all__) == sorted(
        alias.name
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    )


def test_importing_it_loads_neither_torch_nor_numpy():
    code = "import samunet, sys; print(sorted({'torch', 'numpy', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_variants_are_those_that_configurations_may_name():
    import samunet.variants  # the package of that name must not be in the way

    assert {"sam_unet", "ma_sam", "sam_unet_prompted"} <= set(samunet.variants())


def test_the_steps_are_those_of_the_commands(project, trained, images, environment, tmp_path):
    model = samunet.load(trained.parent, device="cpu", flips=False, quiet=True)
    written = samunet.predict(model, images, tmp_path / "out", quiet=True)
    first = sorted(images.glob("*_000?.nii.gz"))[:2]
    alone = model.predict(first)
    assert file_sha256(alone.save(tmp_path / "alone.nii.gz")) == file_sha256(written[0])
    labels = trained / VALIDATION
    same = samunet.evaluate(labels, labels, dataset_json=trained.parent / "dataset.json", tolerance=None)
    assert same.foreground_mean.dice == 1
    comparison = samunet.compare(
        labels, {"a": labels, "b": labels}, tmp_path / "page", dataset_json=trained.parent / "dataset.json"
    )
    assert (tmp_path / "page" / "report.html").is_file() and comparison.verdicts()
    with pytest.raises(samunet.ConfigError, match="two folders of predictions at least; got 1"):
        samunet.compare(labels, {"a": labels}, tmp_path / "page")


def test_a_dataset_is_planned_preprocessed_and_trained(project, tmp_path):
    before = project.workspace
    workspace = samunet.Workspace(
        raw_folder=before.raw, preprocessed_folder=tmp_path / "pre", results_folder=tmp_path / "results"
    )
    plan = samunet.plan(project.dataset, memory_gib=1.0, backbone="vit_nano", workspace=workspace)
    assert isinstance(plan, samunet.Plan) and "3d_adapter" in plan.configurations
    folder = samunet.preprocess(project.dataset, "3d_adapter", workspace=workspace)
    assert len(list(folder.glob("*.b2nd"))) >= 4
    fold = samunet.train(
        project.dataset, "3d_adapter", 1, workspace=workspace, device="cpu", validate=False,
        epochs=1, iterations=1, batch_size=1, workers=0, validation_iterations=1,
    )  # fmt: skip
    assert samunet.load(fold.parent, folds=[1], device="cpu", workspace=workspace).folds == ("1",)


def test_a_folder_is_segmented_with_a_model_of_another_workspace(project, trained, images, monkeypatch, tmp_path):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.delenv(f"nnUNet_{name}", raising=False)
    inputs = sorted(images.glob("*_000?.nii.gz"))[:2]
    folder = tmp_path / "images"
    folder.mkdir()
    for path in inputs:
        (folder / path.name).write_bytes(path.read_bytes())
    written = samunet.predict(project.dataset, folder, tmp_path / "out", workspace=project.workspace, quiet=True)
    assert [path.is_file() for path in written] == [True]


def test_cases_that_lack_a_file_are_left_out_where_asked(tmp_path):
    for part, names in (("references", "ab"), ("predictions", "bc")):
        (tmp_path / part).mkdir()
        for name in names:
            Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / part / f"{name}.png")
    description = {"channel_names": {"0": "x"}, "labels": {"background": 0, "a": 1}, "numTraining": 2}
    (tmp_path / "predictions" / "dataset.json").write_text(json.dumps({**description, "file_ending": ".png"}))
    folders = tmp_path / "references", tmp_path / "predictions"
    with pytest.raises(samunet.DatasetError, match=r"no prediction in .* --chill \(chill=True in Python\)"):
        samunet.evaluate(*folders)
    summary = samunet.evaluate(*folders, chill=True)
    assert [case.name for case in summary.cases] == ["b.png"] and summary.foreground_mean.dice == 1


def test_wrong_words_name_the_nearest(trained):
    with pytest.raises(samunet.ConfigError, match=r"no option 'flip' here.*flips"):
        samunet.load(trained.parent, flip=False)
    with pytest.raises(AttributeError, match="evaluat"):
        samunet.evaluat  # noqa: B018


def test_a_failing_image_is_named_and_the_others_are_written(trained, images, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted(images.glob("*_000?.nii.gz"))[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
        (folder / f"broken{path.name[-12:]}").write_bytes(path.read_bytes()[:200])
    with pytest.raises(samunet.DatasetError, match="1 of 2 images could not be segmented. broken: "):
        samunet.predict(trained.parent, folder, tmp_path / "out", quiet=True)
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1
