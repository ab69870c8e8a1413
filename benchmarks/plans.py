"""What is planned for data of many kinds: our patch beside that of nnU-Net's own planner at the same memory.

    python benchmarks/plans.py            # needs nnunetv2; measured datasets are those of nnUNet_raw that are there

Most fingerprints are written by hand from the shapes, spacings and structures of public data sets, as far as their
publications give them; the two phantoms and the datasets of MEASURED are measured. Writes
benchmarks/results/plans.json, from which tests/planning/test_kinds_of_data.py plans again; what nnU-Net planned for a
row that is there unchanged is kept. The page is written by benchmarks/tables.py.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from phantoms import LESIONS, VESSELS, write_phantoms

from samunet import pipeline
from samunet.core.codec import read_json, write_json
from samunet.core.dataset import DatasetSpec, read_dataset_json
from samunet.core.fingerprint import CaseFingerprint, ClassSize, Fingerprint, IntensityStatistics
from samunet.core.plan import Plan
from samunet.core.workspace import FINGERPRINT_FILE, Workspace, workspace_from_environment
from samunet.errors import DatasetError, PlanningError
from samunet.imageio import reader_for
from samunet.models.spec import NetworkSpec
from samunet.pipeline.estimating import estimate_gib, planned_method
from samunet.planning.extract import FINGERPRINT_FORMAT
from samunet.planning.planners.default import Target, smallest_class
from samunet.planning.planners.default import plan as make_plan
from samunet.sam.backbones import TOKEN_PIXELS, backbone_named, encoder_size
from samunet.variants import sam_unet

RESULTS = Path(__file__).parent / "results"
MEMORY_GIB = 8.0
BACKBONE = "vit_tiny"
MEASURED = (4, 35, 45)
OTHERS = ("3d_ma_sam", "3d_masksam", "2d_samed", "2d_med_sa")
STATISTICS = IntensityStatistics(
    mean=0.0, median=0.0, std=1.0, minimum=0.0, maximum=1.0, percentile_00_5=0.0, percentile_99_5=1.0
)
Size = tuple[float, float]  # typical diameter of a component and typical local width, mm


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What planning needs to know of a dataset; shapes and spacings are (D, H, W)."""

    name: str
    cases: list[tuple[tuple[float, ...], tuple[int, ...], int]]
    """Spacing in mm, shape in voxels, and how many cases have them."""
    channels: int
    classes: dict[str, Size]
    planar: bool = False


def volumes(
    name: str, spacing: tuple[float, ...], shape: tuple[int, ...], cases: int, channels: int, **classes: Size
) -> Kind:
    return Kind(name=name, cases=[(spacing, shape, cases)], channels=channels, classes=classes)


def pictures(name: str, side: tuple[int, int], cases: int, channels: int, **classes: Size) -> Kind:
    return Kind(
        name=name, cases=[((1.0, 1.0, 1.0), (1, *side), cases)], channels=channels, classes=classes, planar=True
    )


KINDS = (
    volumes(
        "BraTS: brain tumors, MR",
        (1, 1, 1),
        (155, 240, 240),
        1251,
        4,
        edema=(42, 12),
        core=(17, 6),
        enhancing=(20, 4.5),
    ),
    volumes(
        "Brain tumors with specks of necrosis, MR",
        (1, 1, 1),
        (155, 240, 240),
        484,
        2,
        edema=(42, 12),
        necrosis=(1.1, 1),
        enhancing=(20, 4.5),
    ),
    volumes("LiTS: liver tumors, CT", (1, 0.77, 0.77), (432, 512, 512), 131, 1, liver=(150, 80), tumor=(25, 15)),
    volumes(
        "KiTS: kidney tumors, CT",
        (1, 0.78, 0.78),
        (480, 512, 512),
        300,
        1,
        kidney=(55, 30),
        tumor=(40, 25),
        cyst=(14, 9),
    ),
    volumes(
        "ACDC: heart, cine MR", (10, 1.56, 1.56), (9, 256, 216), 200, 1, right=(42, 22), muscle=(50, 9), left=(42, 28)
    ),
    volumes(
        "AMOS: 15 organs, CT",
        (5, 0.68, 0.68),
        (103, 512, 512),
        240,
        1,
        liver=(140, 75),
        adrenal=(16, 5),
        esophagus=(17, 11),
    ),
    volumes("Pancreas tumors, CT", (2.5, 0.8, 0.8), (93, 512, 512), 281, 1, pancreas=(36, 16), tumor=(24, 15)),
    volumes("HepaticVessel, CT", (5, 0.8, 0.8), (49, 512, 512), 303, 1, vessel=(16, 6), tumor=(30, 19)),
    volumes(
        "TotalSegmentator: 104 classes, CT",
        (1.5, 1.5, 1.5),
        (249, 236, 236),
        1204,
        1,
        **{f"c{i}": (11.0 + i, 6.0 + i / 2) for i in range(104)},
    ),
    volumes("MS lesions, MR", (1, 1, 1), (182, 218, 182), 60, 1, lesion=(5, 3)),
    volumes("Arteries, MR angiography", (0.8, 0.47, 0.47), (100, 448, 448), 42, 1, artery=(6, 3)),
    volumes("Lung nodules, CT", (1.25, 0.7, 0.7), (260, 512, 512), 600, 1, nodule=(8, 5)),
    volumes("Thin slab, OCT", (0.05, 0.01, 0.01), (12, 496, 512), 80, 1, fluid=(0.2, 0.06)),
    volumes("Few thick slices, spine MR", (4.4, 0.6, 0.6), (15, 512, 512), 200, 1, disc=(22, 9), canal=(14, 8)),
    volumes("Electron microscopy, membranes", (40e-6, 4e-6, 4e-6), (125, 1250, 1250), 3, 1, membrane=(900e-6, 40e-6)),
    volumes("Cells in 3D, light microscopy", (1e-3, 0.09e-3, 0.09e-3), (35, 512, 708), 60, 1, nucleus=(9e-3, 5e-3)),
    volumes("Small crops, isotropic", (1, 1, 1), (35, 50, 35), 200, 1, head=(12, 7), tail=(10, 6)),
    pictures("DRIVE: retinal vessels", (584, 565), 20, 3, vessel=(180, 4)),
    pictures("CHASE: retinal vessels", (960, 999), 20, 3, vessel=(260, 6.5)),
    pictures("Glands, histology", (775, 522), 85, 3, gland=(90, 45)),
    pictures("Nuclei, whole-slide tiles", (4096, 4096), 40, 3, nucleus=(24, 13)),
    pictures("Chest X-ray", (2500, 2048), 250, 1, lung=(900, 450), heart=(700, 400)),
    pictures("Cracks, thin lines", (2048, 1536), 100, 3, crack=(60, 3)),
    pictures("Ultrasound, small", (256, 320), 500, 1, nerve=(60, 30)),
)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    path, rows = RESULTS / "plans.json", []
    known = {json.dumps(row["kind"]): row["nnunet"] for row in read_json(path)["rows"]} if path.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number, kind in enumerate((*KINDS, *measured_kinds(root)), start=1):
            rows.append(compare(kind, root, number, known))
            print(json.dumps({key: rows[-1][key] for key in ("name", "nnunet", "ours", "ratio_mm3")}), flush=True)
            write_json(path, {"memory_gib": MEMORY_GIB, "backbone": BACKBONE, "rows": rows})


def measured_kinds(root: Path) -> list[Kind]:
    """Measure the phantoms, and the datasets that are there."""
    write_phantoms(root / "phantoms")
    found: list[Kind] = []
    own = [
        (Workspace(raw_folder=root / "phantoms", preprocessed_folder=root / "measured", results_folder=root), name)
        for name in (VESSELS, LESIONS)
    ]
    try:
        shared = replace(workspace_from_environment(), preprocessed_folder=root / "measured")
    except DatasetError:
        shared = None
    for workspace, name in [*own, *((shared, number) for number in MEASURED if shared is not None)]:
        try:
            dataset = pipeline.open_dataset(workspace, name)
        except DatasetError as error:
            print(f"{name} is left out: {error}")
            continue
        measured = pipeline.extract(workspace, dataset, threads=1, clean=False, quiet=True)
        counted = Counter((case.spacing, case.shape_after_crop) for case in measured.cases.values())
        found.append(
            Kind(
                name=dataset.spec.name,
                cases=[(spacing, shape, count) for (spacing, shape), count in counted.items()],
                channels=len(dataset.spec.channels),
                classes={
                    size.name: (round(size.in_plane_mm[1], 3), round(size.width_mm[1], 3)) for size in measured.classes
                },
                planar=measured.planar,
            )
        )
    return found


def compare(kind: Kind, root: Path, number: int, known: dict[str, Any]) -> dict[str, Any]:
    """Plan with both programs."""
    name = f"Dataset{number:03d}_Kind"
    workspace = Workspace(
        raw_folder=root / "raw", preprocessed_folder=root / "preprocessed", results_folder=root / "results"
    )
    description = {
        "channel_names": {str(index): "MR" for index in range(kind.channels)},
        "labels": {"background": 0} | {label: value for value, label in enumerate(kind.classes, start=1)},
        "numTraining": sum(count for _, _, count in kind.cases),
        "file_ending": ".nii.gz",
    }
    for part in ("imagesTr", "labelsTr"):
        (workspace.raw / name / part).mkdir(parents=True, exist_ok=True)
    write_json(workspace.raw / name / "dataset.json", description)
    plan = our_plan(kind, name, workspace)
    default = "2d_adapter" if kind.planar else "3d_adapter"
    theirs = known.get(json.dumps(asdict(kind))) or nnunet_plan(kind, name, workspace, description)
    ours = described(plan, default, workspace)
    others = {}
    for other in OTHERS:
        if kind.planar and other.startswith("3d"):
            continue
        try:
            others[other] = described(pipeline.resolve(workspace, plan, other), other, workspace)
        except PlanningError as error:
            others[other] = {"error": str(error)}
    return {
        "name": kind.name,
        "kind": asdict(kind),
        "median_shape": list(plan.configuration(default).median_shape),
        "smallest_voxels": round(smallest_class(fingerprint_of(kind, name), plan.configuration(default).spacing)[1], 2),
        "nnunet": theirs,
        "ours": ours,
        "ratio_mm3": round(math.prod(ours["patch"]) / math.prod(theirs["patch"]), 2),  # of one spacing
        "others": others,
        "vit_b": pretrained(
            kind, default, plan, read_dataset_json(workspace.raw / name / "dataset.json"), theirs["patch"]
        ),
    }


def pretrained(kind: Kind, name: str, plan: Plan, spec: DatasetSpec, theirs: list[int]) -> dict[str, Any]:
    """Plan with the encoder of SAM's weights, as it is and as the planner may choose."""
    found: dict[str, Any] = {}
    method = planned_method(name, spec, backbone_named("vit_b"), pretrained=True)
    target = Target(
        memory_gib=MEMORY_GIB, backbone="vit_b", backbone_reason="", plans_name=plan.plans_name, reader=plan.reader
    )
    for way, form in (("kept", replace(method, sparing=None)), ("planned", method)):
        made = make_plan(fingerprint_of(kind, spec.name), spec, target, {name: form}).configuration(name)
        found[way] = {
            "patch": list(made.patch_size),
            "batch": made.batch_size,
            "encoder_scale": made.encoder_scale,
            "options": made.variant_options,
            "ratio_mm3": round(math.prod(made.patch_size) / math.prod(theirs), 2),
        }
    return found


def our_plan(kind: Kind, name: str, workspace: Workspace) -> Plan:
    spec = read_dataset_json(workspace.raw / name / "dataset.json")
    fingerprint = fingerprint_of(kind, name)
    write_json(workspace.preprocessed / name / FINGERPRINT_FILE, fingerprint)
    dataset = pipeline.RawDataset(folder=workspace.raw / name, spec=spec, cases=(), reader=reader_for(spec.file_ending))
    return pipeline.plan(
        workspace, dataset, fingerprint, pipeline.PlanOptions(memory_gib=MEMORY_GIB, backbone=BACKBONE)
    )


def fingerprint_of(kind: Kind, name: str) -> Fingerprint:
    """Write a fingerprint by hand."""
    each = [(spacing, shape) for spacing, shape, count in kind.cases for _ in range(count)]
    cases = {
        f"c{index:04d}": CaseFingerprint(
            spacing=tuple(spacing),
            shape=tuple(shape),
            shape_after_crop=tuple(shape),
            orientation="SPL",
            foreground_slices=1,
            intensity_ranges=((0.0, 1.0),) * kind.channels,
            labels_present=tuple(range(1, len(kind.classes) + 1)),
            sha256={},
        )
        for index, (spacing, shape) in enumerate(each)
    }
    sizes = tuple(
        ClassSize(
            name=label,
            values=(value,),
            cases=len(cases),
            in_plane_mm=(diameter,) * 3,
            width_mm=(width,) * 3,
            extent_mm=(diameter,) * 3,
        )
        for value, (label, (diameter, width)) in enumerate(kind.classes.items(), start=1)
    )
    return Fingerprint(
        dataset=name,
        planar=kind.planar,
        cases=cases,
        intensities=(STATISTICS,) * kind.channels,
        median_relative_size_after_crop=1.0,
        classes=sizes,
        ignore=None,
        format=FINGERPRINT_FORMAT,
    )


def described(plan: Plan, name: str, workspace: Workspace) -> dict[str, Any]:
    """What a configuration costs, and why it is as it is."""
    configuration, spec = plan.configuration(name), read_dataset_json(workspace.raw / plan.dataset / "dataset.json")
    tokens = [side // TOKEN_PIXELS for side in encoder_size(configuration.patch_size[1:], configuration.encoder_scale)]
    found = {
        "configuration": name,
        "patch": list(configuration.patch_size),
        "batch": configuration.batch_size,
        "encoder_scale": configuration.encoder_scale,
        "tokens": tokens,
        "gib": round(estimate_gib(configuration, spec), 2),
        "reasons": [plan.reasons[f"{name}: {what}"] for what in ("patch", "encoder grid")],
    }
    if configuration.variant == "sam_unet":
        network = NetworkSpec(
            schemes=("zscore",) * len(plan.channels),
            labels=spec.labels,
            spacing=configuration.spacing,
            patch_size=configuration.patch_size,
            encoder_scale=configuration.encoder_scale,
            topology=configuration.topology,
            pretrained=configuration.weights is not None,
        )
        found["giga_operations"] = round(
            sam_unet.operations(network, backbone_named(configuration.backbone), sam_unet.Config()) / 1e9
        )
    return found


def nnunet_plan(kind: Kind, name: str, workspace: Workspace, description: dict[str, Any]) -> dict[str, Any]:
    """Plan with nnU-Net's own planner; its search for a low-resolution configuration is left out."""
    for part in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{part}"] = str(getattr(workspace, part))
    import numpy as np
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    each = [(spacing, shape) for spacing, shape, count in kind.cases for _ in range(count)]
    thick = [999.0] if kind.planar else []  # what its readers of pictures say of the missing axis
    spacings = [[*thick, *spacing[1:]] if kind.planar else list(spacing) for spacing, _ in each]
    known = {
        "spacings": spacings,
        "shapes_after_crop": [list(shape) for _, shape in each],
        "median_relative_size_after_cropping": 1.0,
    }
    write_json(workspace.preprocessed / name / "dataset_fingerprint.json", known)
    with contextlib.redirect_stdout(io.StringIO()):
        planner = ExperimentPlanner(name, gpu_memory_target_in_gb=MEMORY_GIB)
        forward, _ = planner.determine_transpose()
        spacing = planner.determine_fullres_target_spacing()
        shapes = [compute_new_shape(shape, old, spacing) for old, (_, shape) in zip(spacings, each, strict=True)]
        median, spacing = np.median(shapes, 0)[forward], spacing[forward]
        voxels = float(np.prod(median)) * description["numTraining"]
        plane = slice(1, None) if kind.planar else slice(None)
        made = planner.get_plans_for_configuration(spacing[plane], median[plane], "x", voxels, {})
    patch = [1, *made["patch_size"]] if kind.planar else list(made["patch_size"])
    return {"patch": [int(size) for size in patch], "batch": int(made["batch_size"])}


if __name__ == "__main__":
    main()
