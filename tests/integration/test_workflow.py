"""The documented ways through the project, run as a user would: the tutorial by its console scripts, the demo."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from tiny import write_tiny_dataset

from samunet.cli import demo, evaluate_folder, plan_and_preprocess, predict, train
from samunet.phantom import dataset as phantom

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
COARSE = "-backbone vit_nano -overwrite_target_spacing 6 6 6"


def shell(script: str, folder: Path, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**clean, "PATH": f"{SCRIPTS}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_tutorial_runs_from_top_to_bottom(tmp_path):
    text = (ROOT / "documentation" / "tutorials" / "first-segmentation.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 4
    script = "\n".join(block for block in blocks if "pip install" not in block)
    # The same way on a coarser grid, through the smallest encoder, in fewer steps.
    for told, done in (("_preprocess -d 17", f"_preprocess -d 17 {COARSE}"), ("--iterations 10", "--iterations 2")):
        assert script.count(told) == 1
        script = script.replace(told, done)
    output = shell(script, tmp_path)
    assert "mean foreground" in output


@pytest.mark.slow
def test_the_tutorial_of_few_labels_runs_from_top_to_bottom(tmp_path):
    text = (ROOT / "documentation" / "tutorials" / "few-labels.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    script = "\n".join(blocks)
    shorter = {
        "samunet_fewshot ": "--side 32 --deformation none ",  # registrations of a minute take a second
        "-o few_labels": " --method registration",
        "samunet_plan_and_preprocess -d 18 ": f"{COARSE} ",
    }
    for command, options in shorter.items():
        assert command in script
        script = script.replace(command, f"{command}{options}")
    output = shell(script, tmp_path)
    folder = tmp_path / "samunet_few"
    chosen = (folder / "chosen.txt").read_text().split()
    report = json.loads((folder / "proposals" / "fewshot.json").read_text())
    assert len(chosen) == 3 and sorted(report["references"]) == sorted(chosen)
    assert len(report["confidence"]) == 9 and not report["failures"]
    assert len(list((folder / "proposals" / "preview").iterdir())) == 9
    compared = json.loads((folder / "comparison" / "comparison.json").read_text())
    assert "few_labels" in json.dumps(compared) and (folder / "comparison" / "report.html").is_file()
    assert "trained" in output


def test_the_demo_writes_a_page_and_scores(tmp_path, monkeypatch, capsys):
    few = partial(phantom.write_phantom_dataset, num_training=2, num_test=2)
    monkeypatch.setattr(phantom, "write_phantom_dataset", few)
    words = ["--epochs", "1", "--iterations", "2", "-device", "cpu"]
    assert demo.main(["-o", str(tmp_path / "demo"), *words]) == 0
    output = capsys.readouterr().out
    assert "[6] Evaluation" in output and output.endswith("samunet_import FOLDER\n")
    first, last = map(float, re.search(r"(0\.\d+) after 1 click a structure, (0\.\d+) after 5", output).groups())
    assert 0.2 < first < last < 1
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png") == 4  # two cases, one clicked in, and the learning curve
    assert "clicked in one slice" in page
    summary = json.loads((tmp_path / "demo" / "predictions" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2


@pytest.mark.parametrize("file_ending", [".png", ".nii.gz"])
def test_2d_data_goes_through_every_command_in_its_own_format(tmp_path, monkeypatch, capsys, file_ending):
    (tmp_path / "raw").mkdir()
    folder = write_tiny_dataset(
        tmp_path / "raw",
        name="Dataset903_Plane",
        dimensions=2,
        channels=3 if file_ending == ".png" else 1,
        cases=6,
        size=(1, 48, 40),
        file_ending=file_ending,
    )
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    predictions = tmp_path / "preds"
    short = "--epochs 1 --iterations 2 --batch_size 2 --workers 0 -device cpu"
    for command, words in (
        (plan_and_preprocess, "-d 903 --verify_dataset_integrity -backbone vit_nano"),
        (train, f"903 2d_adapter 0 {short}"),
        (predict, f"-i {folder}/imagesTs -o {predictions} -device cpu"),
        (evaluate_folder, f"{folder}/labelsTs {predictions} -djfile {folder}/dataset.json"),
    ):
        assert command.main(words.split()) == 0
    output = capsys.readouterr().out
    assert "2d_adapter" in output and "mean foreground" in output
    assert {path.name for path in predictions.iterdir()} == {
        f"tiny_006{file_ending}",
        "colors.ctbl",
        "dataset.json",
        "plans.json",
        "summary.json",
    }
    assert train.main(["903", "3d_adapter", "0"]) == 2 and "holds 2D images" in capsys.readouterr().err


def test_the_readme_has_two_quick_start_lines_and_the_test_command_of_ci():
    text = (ROOT / "README.md").read_text()
    section = text.split("## Quick start")[1].split("\n## ")[0]
    lines = [
        line
        for block in re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)
        for line in block.strip().splitlines()
    ]
    assert len(lines) == 2 and "samunet_demo" in lines[0] and "pytest" in lines[1]
    command = lines[1].split("&&")[-1].strip().split("/")[-1]
    assert command in (ROOT / ".ci" / "run").read_text()
