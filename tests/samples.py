"""Small plans, configurations, histories and datasets that several tests start from."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tiny import write_tiny_dataset

from samunet import pipeline
from samunet.core.codec import file_sha256
from samunet.core.fingerprint import IntensityStatistics
from samunet.core.geometry import Geometry
from samunet.core.history import SpatialHistory
from samunet.core.plan import ChannelPlan, Configuration, Plan, Topology, save_plan
from samunet.core.workspace import Workspace
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.training.config import TrainingConfig

TINY = "Dataset901_Tiny"
TINY_TRAINING = {"epochs": 2, "iterations": 3, "batch_size": 2, "workers": 0, "precision": "fp32"}
START = multiprocessing.get_context("forkserver")
"""Starts processes that have imported what trains."""
START.set_forkserver_preload(["samunet.pipeline.training", "samunet.pipeline.measuring"])


def untouched(geometry: Geometry) -> SpatialHistory:
    """The history of a case that was neither transposed, cropped nor resampled."""
    return SpatialHistory(
        geometry=geometry,
        transpose=(0, 1, 2),
        crop=tuple((0, n) for n in geometry.shape),
        shape_after_crop=geometry.shape,
        spacing_after_transpose=geometry.spacing,
        shape_after_resample=geometry.shape,
        spacing_after_resample=geometry.spacing,
    )


def small_plan(*, dataset="Dataset001_X", transpose=(0, 1, 2), scheme="none", within_mask=False) -> Plan:
    """A plan of one channel without configurations."""
    figures = IntensityStatistics(
        mean=0.0, median=0.0, std=1.0, minimum=0.0, maximum=1.0, percentile_00_5=0.0, percentile_99_5=1.0
    )
    return Plan(
        dataset=dataset,
        plans_name="p",
        reader="SimpleITKIO",
        memory_gib=8.0,
        precision="mixed",
        asked_spacing=None,
        transpose=transpose,
        channels=(ChannelPlan(name="channel0", scheme=scheme, within_mask=within_mask, intensities=figures),),
        configurations={},
        reasons={},
    )


def small_configuration(spacing, dimensions=3) -> Configuration:
    """A configuration of one stage on the smallest backbone."""
    return Configuration(
        variant="sam_unet",
        dimensions=dimensions,
        data_identifier="p_3d",
        spacing=spacing,
        median_shape=(8.0, 32.0, 32.0),
        patch_size=(1 if dimensions == 2 else 8, 16, 16),
        batch_size=2,
        backbone="vit_nano",
        weights=None,
        weights_sha256=None,
        encoder_scale=1.0,
        topology=Topology(strides=((1, 1, 1),), kernels=((3, 3, 3),), widths=(8,)),
        mirror_axes=(0, 1, 2)[3 - dimensions :],
        variant_options={},
    )


def planned_with_weights(
    root: Path, name: str, *, size, side: int, **options
) -> tuple[Workspace, pipeline.RawDataset, Path, Plan]:
    """Four cases in a workspace under `root`, planned with random weights of vit_nano for `side` pixels."""
    weights = root / "sam_vit_nano.pth"
    torch.manual_seed(1)
    torch.save(build_sam(backbone_named("vit_nano"), (side, side)).state_dict(), weights)
    workspace = Workspace(
        raw_folder=root / "raw", preprocessed_folder=root / "preprocessed", results_folder=root / "results"
    )
    workspace.raw.mkdir()
    write_tiny_dataset(workspace.raw, name=name, cases=4, size=size)
    dataset = pipeline.open_dataset(workspace, name)
    fingerprint = pipeline.extract(workspace, dataset, threads=1, clean=False, quiet=True)
    asked = pipeline.PlanOptions(backbone="vit_nano", weights=str(weights), sha256=file_sha256(weights), **options)
    return workspace, dataset, weights, plan_narrowly(workspace, dataset, fingerprint, asked)


def narrow(plan: Plan) -> Plan:
    """Return a plan with at most 16 features in each stage of its U-Nets.

    A step of a training then takes a tenth of the time, and a checkpoint of the tiny dataset a tenth of the disk.
    """
    configurations = {}
    for name, entry in plan.configurations.items():
        widths = tuple(min(width // 3, 16) for width in entry.topology.widths)
        configurations[name] = replace(entry, topology=replace(entry.topology, widths=widths))
    return replace(plan, configurations=configurations)


def plan_narrowly(
    workspace: Workspace, dataset: pipeline.RawDataset, fingerprint, options: pipeline.PlanOptions
) -> Plan:
    """Plan as asked for, and save the plan with narrow U-Nets in its place."""
    plan = narrow(pipeline.plan(workspace, dataset, fingerprint, options))
    save_plan(pipeline.plan_path(workspace, plan.dataset, plan.plans_name), plan)
    return plan


@dataclass(frozen=True)
class Project:
    """A workspace that holds the tiny dataset."""

    workspace: Workspace
    dataset: str

    @property
    def environment(self) -> dict[str, str]:
        folders = self.workspace
        return {
            "nnUNet_raw": str(folders.raw),
            "nnUNet_preprocessed": str(folders.preprocessed),
            "nnUNet_results": str(folders.results),
        }

    def train(self, fold: str = "0", *, results: Path | None = None, config: dict | None = None, **options) -> Path:
        workspace = (
            self.workspace if results is None else Workspace(**{**vars(self.workspace), "results_folder": results})
        )
        settings = TrainingConfig(**(TINY_TRAINING | (config or {})))
        options = {"configuration": "3d_adapter", "device": "cpu", **options}
        return pipeline.train(workspace, self.dataset, settings, pipeline.TrainOptions(fold=fold, **options))


def make_project(root: Path, **dataset) -> Project:
    """Write, plan and preprocess a tiny dataset for every configuration that its dimensions allow."""
    workspace = Workspace(
        raw_folder=root / "raw", preprocessed_folder=root / "preprocessed", results_folder=root / "results"
    )
    workspace.raw.mkdir(parents=True)
    name = dataset.setdefault("name", TINY)
    write_tiny_dataset(workspace.raw, **dataset)
    raw = pipeline.open_dataset(workspace, name)
    fingerprint = pipeline.extract(workspace, raw, threads=1, clean=False, quiet=True)
    plan = plan_narrowly(workspace, raw, fingerprint, pipeline.PlanOptions(backbone="vit_nano"))
    for configuration in plan.configurations:
        pipeline.preprocess(workspace, raw, plan, configuration, threads=1, quiet=True)
    return Project(workspace=workspace, dataset=name)


def make_tiny_project(root: Path) -> Project:
    """A planned and preprocessed tiny 3D dataset of six cases, two channels and three foreground classes."""
    labels = {"background": 0, "large": 1, "middle": 2, "small": 3}
    return make_project(
        root, dimensions=3, channels=2, labels=labels, cases=6, size=(16, 40, 32), seed=1, file_ending=".nii.gz"
    )
