"""The planner's estimate of a training step's memory against the measured peak.

    python benchmarks/memory_model.py          # CPU; nnUNet_raw holds the datasets of CONFIGURATIONS

Every configuration is planned for its memory target with the embedded backbone, or with vit_b from a file of random
weights in the official layout, and one step in each precision is measured in a process of its own. Writes
benchmarks/results/memory_model_<device>.json. Timings mean nothing here, so other work may run beside it.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from machine import processor_name
from safetensors.torch import save_file

from samunet import pipeline
from samunet.core.codec import file_sha256, write_json
from samunet.core.workspace import workspace_from_environment
from samunet.machine.hardware import choose_precision
from samunet.pipeline.estimating import TRAINED_IN, estimate_gib
from samunet.pipeline.measuring import measure_step
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam

RESULTS = Path(__file__).parent / "results"
CONFIGURATIONS = (
    (4, "3d_adapter", 2.0),
    (4, "3d_ma_sam", 2.0),
    (35, "3d_adapter", 2.0),
    (35, "3d_adapter", 4.0),
    (35, "2d_samed", 2.0),
    (45, "2d_adapter", 2.0),
    (4, "3d_masksam", 2.0),
    (4, "3d_masksam", 6.0),
    (35, "3d_masksam", 2.0),
    (4, "3d_adapter_prompted", 2.0),
    (4, "2d_h_sam", 2.0),
    (4, "2d_db_sam", 2.0),
    (4, "2d_autosam", 2.0),
)
PRETRAINED = (  # with vit_b; on the prostate the plan computes the activations of its blocks twice
    (4, "3d_adapter", 4.0),
    (45, "2d_adapter", 8.0),
    (35, "3d_adapter", 8.0),
    (4, "3d_ma_sam", 8.0),
    (35, "2d_samed", 8.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device, rows = torch.device(arguments.device), []
    with tempfile.TemporaryDirectory() as folder:
        workspace = replace(workspace_from_environment(), preprocessed_folder=Path(folder))
        weights = random_weights(Path(folder))
        cases = [(*case, "vit_tiny") for case in CONFIGURATIONS] + [(*case, "vit_b") for case in PRETRAINED]
        for number, name, memory, backbone in cases:
            dataset = pipeline.open_dataset(workspace, number)
            fingerprint = pipeline.extract(workspace, dataset, threads=1, clean=False, quiet=True)
            given = weights if backbone == "vit_b" else {}
            options = pipeline.PlanOptions(memory_gib=memory, backbone=backbone, **given)
            plan = pipeline.resolve(workspace, pipeline.plan(workspace, dataset, fingerprint, options), name)
            configuration = plan.configuration(name)
            for precision, wanted in TRAINED_IN.items():
                estimate = estimate_gib(configuration, dataset.spec, precision)
                measured = measure_step(plan, name, dataset.spec.labels, device, precision=wanted)
                rows.append(
                    {
                        "dataset": dataset.spec.name,
                        "configuration": name,
                        "backbone": backbone,
                        "options": configuration.variant_options,
                        "target_gib": memory,
                        "precision": precision,
                        "patch": configuration.patch_size,
                        "batch": configuration.batch_size,
                        "encoder_scale": configuration.encoder_scale,
                        "estimated_gib": round(estimate, 3),
                        "measured_gib": round(measured.gib, 3),
                        "estimate_over_measured": round(estimate / measured.gib, 2),
                    }
                )
                print(rows[-1], flush=True)
    mixed = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[choose_precision("auto", device)]
    machine = {"device": device.type, "name": processor_name(device.type), "torch": torch.__version__, "mixed": mixed}
    write_json(RESULTS / f"memory_model_{device.type}.json", {"machine": machine, "steps": rows})


def random_weights(folder: Path) -> dict[str, str]:
    """Write vit_b's tensors at 1024 pixels with random values; returns the options of a plan that starts from them."""
    path = folder / "random_vit_b.safetensors"
    save_file(build_sam(backbone_named("vit_b"), (1024, 1024)).state_dict(), path)
    return {"weights": str(path), "sha256": file_sha256(path)}


if __name__ == "__main__":
    main()
