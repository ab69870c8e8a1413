"""samunet_info: what it shows, and that it starts quickly."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

import samunet
from samunet.cli import info


def test_everything_is_listed(environment, project, trained, capsys):
    assert info.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    dataset = found["datasets"][project.dataset]
    assert (
        dataset["raw"]
        and "samunetPlans" in dataset["plans"]
        and not any("fingerprint" in name for name in dataset["plans"])
    )
    model = next(model for model in found["models"] if model["name"] == trained.parent.name)
    assert model["dataset"] == project.dataset and "0" in model["folds"] and model["best"] is False
    assert (
        found["packages"]["torch"]
        and "sam_unet" in found["methods"]
        and set(found["checkpoints"]) >= {"sam_vit_b", "medsam_vit_b"}
    )
    assert info.main([]) == 0
    text = capsys.readouterr().out
    assert (
        f"  {project.dataset}: raw; plans: " in text and f"  {project.dataset}/{trained.parent.name}: folds 0" in text
    )
    assert info.main(["--model", f"{project.dataset}/{trained.parent.name}"]) == 0
    text = capsys.readouterr().out
    assert "| 1 | large | " in text and "| folds | 0 |" in text and "license" not in text


def test_nothing_set_is_no_error(monkeypatch, capsys):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.delenv(f"nnUNet_{name}", raising=False)
    assert info.main([]) == 0
    text = capsys.readouterr().out
    assert "nnUNet_raw: not set" in text and "trained models: none" in text


def test_it_loads_neither_torch_nor_numpy(project):
    code = (
        "import sys; from samunet.cli.info import main; main([]); print(sorted({'numpy', 'torch', 'SimpleITK', "
        "'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | project.environment
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_dataset_names_its_only_model_and_lists_several(project, trained, tmp_path, monkeypatch, capsys):
    for name, value in (project.environment | {"nnUNet_results": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    dataset = tmp_path / project.dataset
    assert info.main(["--model", "901"]) == 2
    assert "no trained model '901'. Train one first: samunet_train" in capsys.readouterr().err
    shutil.copytree(trained.parent, dataset / trained.parent.name)
    for wanted in ("901", "0901", "Tiny", project.dataset, str(dataset)):
        assert info.main(["--model", wanted]) == 0
        assert "| training set | trained on 4 cases, validated on 2, " in capsys.readouterr().out
    other = trained.parent.name.replace("3d_adapter", "3d_sam_unet")
    shutil.copytree(trained.parent, dataset / other)
    for wanted in ("901", str(dataset)):
        assert info.main(["--model", wanted]) == 2
        commands = re.findall(r"samunet_info --model ([^;\n]+)", capsys.readouterr().err)
        assert commands == [f"{project.dataset}/{name}" for name in sorted((trained.parent.name, other))]
    with pytest.raises(samunet.ConfigError, match=rf'2 trained models; .*samunet.load\("{dataset}/SAMTrainer'):
        samunet.load(901)
    shutil.rmtree(dataset / other)
    for wanted in (901, "Tiny", dataset):
        assert samunet.load(wanted, device="cpu").folds == ("0",)
