"""Fixtures: a tiny planned, preprocessed and trained 3D dataset, made once a session with the smallest backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from samunet import pipeline
from samunet.core.workspace import Workspace
from samunet.phantom import write_tiny_dataset
from samunet.training.config import TrainingConfig

torch.set_num_threads(1)  # tests run in parallel processes

TINY = "Dataset901_Tiny"
TINY_TRAINING = {"epochs": 2, "iterations": 3, "batch_size": 2, "workers": 0, "precision": "fp32"}


@dataclass(frozen=True)
class Project:
    """A workspace that holds the tiny dataset."""

    workspace: Workspace
    dataset: str

    @property
    def environment(self) -> dict[str, str]:
        folders = self.workspace
        return {"nnUNet_raw": str(folders.raw), "nnUNet_preprocessed": str(folders.preprocessed), "nnUNet_results": str(folders.results)}

    def train(self, fold: str = "0", *, results: Path | None = None, config: dict | None = None, **options) -> Path:
        workspace = self.workspace if results is None else Workspace(**{**vars(self.workspace), "results_folder": results})
        settings = TrainingConfig(**(TINY_TRAINING | (config or {})))
        options = {"configuration": "3d_adapter", "device": "cpu", **options}
        return pipeline.train(workspace, self.dataset, settings, pipeline.TrainOptions(fold=fold, **options))


def make_project(root: Path, **dataset) -> Project:
    """Write, plan and preprocess a tiny dataset for every configuration that its dimensions allow."""
    workspace = Workspace(raw_folder=root / "raw", preprocessed_folder=root / "preprocessed", results_folder=root / "results")
    workspace.raw.mkdir(parents=True)
    name = dataset.setdefault("name", TINY)
    write_tiny_dataset(workspace.raw, **dataset)
    raw = pipeline.open_dataset(workspace, name)
    fingerprint = pipeline.extract(workspace, raw, threads=1, clean=False, quiet=True)
    plan = pipeline.plan(workspace, raw, fingerprint, pipeline.PlanOptions(backbone="vit_nano"))
    for configuration in plan.configurations:
        pipeline.preprocess(workspace, raw, plan, configuration, threads=1, quiet=True)
    return Project(workspace=workspace, dataset=name)


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Project:
    """A planned and preprocessed tiny 3D dataset of six cases, two channels and three foreground classes."""
    labels = {"background": 0, "large": 1, "middle": 2, "small": 3}
    return make_project(
        tmp_path_factory.mktemp("project"), dimensions=3, channels=2, labels=labels, cases=6, size=(16, 40, 32), seed=1, file_ending=".nii.gz"
    )


@pytest.fixture
def environment(project, monkeypatch) -> None:
    """nnU-Net's variables name the tiny dataset's folders."""
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def trained(project) -> Path:
    """The fold folder of a short training of the tiny dataset."""
    return project.train()
