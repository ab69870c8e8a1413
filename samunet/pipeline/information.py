"""What is on this machine: versions, folders, datasets, plans, models, checkpoints, devices.

Loads neither torch nor numpy.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from samunet import __version__
from samunet.core.plugins import variant_names
from samunet.core.results import best_models, finished_folds, trained_models
from samunet.core.workspace import FINGERPRINT_FILE, PURPOSE, Workspace
from samunet.errors import ConfigError
from samunet.sam.checkpoints import CHECKPOINTS, find_checkpoint

PACKAGES = ("torch", "segment-anything", "numpy", "scipy", "SimpleITK", "nibabel", "nnunetv2")
GPU_DEVICES = ("/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # of NVIDIA, of Windows' in its Linux, of AMD
GPU_TIMEOUT = 5.0  # seconds


def gather(workspace: Workspace) -> dict[str, Any]:
    """Return everything as plain values that json can write; folders that are not set are None."""
    own = (workspace.raw_folder, workspace.preprocessed_folder, workspace.results_folder)
    return {
        "samunet": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "cpus": os.cpu_count(),
        "gpus": _gpus(),
        "folders": {name: _text(path) for name, path in zip(PURPOSE, own, strict=True)},
        "datasets": _datasets(workspace),
        "models": _models(workspace),
        "weights_folders": [str(path) for path in workspace.weights_folders],
        "checkpoints": {
            checkpoint.name: _text(find_checkpoint(checkpoint, workspace.weights_folders)) for checkpoint in CHECKPOINTS
        },
        "methods": list(variant_names()),
    }


def lines(facts: dict[str, Any]) -> Sequence[str]:
    """Return what `gather` found as lines for people."""
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items() if version)
    gpus = "; ".join(facts["gpus"]) or "none seen"
    text = [f"samunet {facts['samunet']}, Python {facts['python']}, {facts['system']}", f"packages: {packages}"]
    text += [f"CPUs: {facts['cpus']}; NVIDIA GPUs: {gpus}", f"methods: {', '.join(facts['methods'])}"]
    text += [f"{name}: {path or 'not set'}" for name, path in facts["folders"].items()]
    text.append("datasets:" if facts["datasets"] else "datasets: none")
    for name, parts in facts["datasets"].items():
        raw, plans = "raw" if parts["raw"] else "no raw data", ", ".join(parts["plans"]) or "none"
        text.append(f"  {name}: {raw}; plans: {plans}")
    hint = " (labels, channels, scores of one: samunet_info --model NAME)"
    text.append(f"trained models{hint}:" if facts["models"] else "trained models: none")
    for model in facts["models"]:
        folds, best = ", ".join(model["folds"]), "; marked as best" if model["best"] else ""
        text.append(f"  {model['dataset']}/{model['name']}: folds {folds}{best}")
    text.append("SAM checkpoints:")
    text += [f"  {name}: {path or 'not here'}" for name, path in facts["checkpoints"].items()]
    return text


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def gpu_in_sight() -> bool:
    """Tell whether there seems to be a GPU to train on: NVIDIA's, AMD's (ROCm), or Apple's.

    Loads no torch, so it may err.
    """
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    return apple or any(Path(path).exists() for path in GPU_DEVICES) or bool(_gpus())


def _gpus() -> list[str]:
    """Ask NVIDIA's own tool; torch would take seconds to load."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    words = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=GPU_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _datasets(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """Return by name whether raw data are there, and the names of samunet's plans."""
    datasets: dict[str, dict[str, Any]] = {}
    for folder in (workspace.raw_folder, workspace.preprocessed_folder):
        for path in sorted(folder.glob("Dataset*_*")) if folder is not None else ():
            datasets.setdefault(path.name, {"raw": False, "plans": []})
            if folder == workspace.raw_folder:
                datasets[path.name]["raw"] = (path / "dataset.json").is_file()
            if folder == workspace.preprocessed_folder:
                datasets[path.name]["plans"] = sorted(
                    plan.stem for plan in path.glob("samunet*.json") if plan.name != FINGERPRINT_FILE
                )
    return dict(sorted(datasets.items()))


def _models(workspace: Workspace) -> list[dict[str, Any]]:
    if workspace.results_folder is None:
        return []
    models = []
    for folder in trained_models(workspace):
        dataset, best = folder.parent.name, False
        with suppress(ConfigError):  # of a file that marks nothing
            best = folder in best_models(workspace, dataset)
        folds = list(finished_folds(folder))
        models.append({"dataset": dataset, "name": folder.name, "folds": folds, "best": best})
    return models
