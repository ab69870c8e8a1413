"""samunet_info: what it shows, and that it starts quickly."""

from __future__ import annotations

import json
import os
import subprocess
import sys

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
