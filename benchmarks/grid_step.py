"""Time steps of sam_unet with encoder grids of every pitch, beside the planner's estimate of their work.

    python benchmarks/grid_step.py                # CPU, one thread

Each row is a patch and an encoder; its steps are those of the convolutional path alone and of token pitches up to 16.
Estimated and measured are both multiples of the step with the coarsest pitch, as the planner's rule reads them. Seconds
are CPU time of one thread with two samples in bf16, the fastest of the repeats after one step to warm up, so that other
work beside it changes little. Writes benchmarks/results/grid_step_cpu.json.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from machine import processor_name

from samunet.core.batch import Batch
from samunet.core.codec import write_json
from samunet.core.geometry import Shape, Triple
from samunet.core.labels import parse_labels
from samunet.machine.hardware import autocast, keep_freed_memory
from samunet.models.spec import NetworkSpec
from samunet.planning.planners.default import MAX_WIDTH, SMALLEST_BATCH
from samunet.planning.topology import topology_for
from samunet.sam.backbones import TOKEN_PIXELS, backbone_named
from samunet.sam.build import build_sam
from samunet.variants import sam_unet
from samunet.variants.sam_unet.rules import WIDEST_TOKEN

RESULTS = Path(__file__).parent / "results"
LABELS = parse_labels({"background": 0, "organ": 1, "lesion": 2})
ROWS: tuple[tuple[Shape, Triple, int, str], ...] = (  # patch, spacing in mm, base width, encoder
    ((1, 128, 128), (1.0, 1.0, 1.0), 24, "vit_tiny"),
    ((12, 96, 96), (3.0, 1.0, 1.0), 24, "vit_tiny"),
    ((24, 80, 80), (3.0, 2.5, 2.5), 24, "vit_tiny"),
    ((48, 64, 64), (1.0, 1.0, 1.0), 24, "vit_tiny"),
    ((1, 128, 128), (1.0, 1.0, 1.0), 24, "vit_b"),
    ((64, 64, 64), (1.0, 1.0, 1.0), 32, "vit_tiny"),
    ((1, 256, 256), (1.0, 1.0, 1.0), 24, "vit_tiny"),
    ((6, 96, 96), (3.0, 1.0, 1.0), 24, "vit_b"),
)
FINEST = 4  # voxels: finer tokens take minutes here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    machine = {
        "device": "cpu",
        "name": processor_name("cpu"),
        "threads": 1,
        "torch": torch.__version__,
        "precision": "bf16",
    }
    rows = []
    for patch, spacing, base_width, encoder in ROWS:
        dimensions = 2 if patch[0] == 1 else 3
        topology, padded = topology_for(patch, spacing, base_width=base_width, max_width=MAX_WIDTH[dimensions])
        backbone = backbone_named(encoder)
        spec = NetworkSpec(
            schemes=("zscore",),
            labels=LABELS,
            spacing=spacing,
            patch_size=padded,
            encoder_scale=1.0,
            topology=topology,
            pretrained=backbone.pretrained,
        )
        alone = step_seconds(spec, encoder, sam_unet.Config(sam_path=False), arguments.repeats)
        choices = sam_unet.preferred(topology, padded, FINEST / WIDEST_TOKEN)
        specs = [replace(spec, encoder_scale=choice.scale) for choice in choices]
        seconds = [step_seconds(fine, encoder, sam_unet.Config(), arguments.repeats) for fine in specs]
        estimates = [sam_unet.operations(fine, backbone, sam_unet.Config()) for fine in specs]
        steps = []
        for choice, taken, estimate in zip(choices, seconds, estimates, strict=True):
            estimated, measured = estimate / estimates[-1], taken / seconds[-1]
            steps.append(
                {
                    "pitch": round(TOKEN_PIXELS / choice.scale),
                    "seconds": round(taken, 3),
                    "giga_operations": round(estimate / 1e9, 1),
                    "estimated": round(estimated, 2),
                    "measured": round(measured, 2),
                    "estimated_over_measured": round(estimated / measured, 2),
                }
            )
        row = {
            "patch": padded,
            "spacing": spacing,
            "base_width": base_width,
            "encoder": encoder,
            "pretrained": backbone.pretrained,
        }
        rows.append(row | {"seconds_without": round(alone, 3), "steps": steps})
        print(rows[-1], flush=True)
        write_json(RESULTS / "grid_step_cpu.json", {"machine": machine, "rows": rows})


def step_seconds(spec: NetworkSpec, encoder: str, config: sam_unet.Config, repeats: int) -> float:
    """CPU seconds of a training step; random weights stand for pretrained ones."""
    torch.manual_seed(0)
    height, width = (round(side * spec.encoder_scale) for side in spec.patch_size[1:])
    network = sam_unet.build(build_sam(backbone_named(encoder), (height, width)), spec, config).train()
    trained = [parameter for group in network.parameter_groups() for parameter in group.parameters]
    optimizer = torch.optim.AdamW(trained, fused=True)
    shape = (SMALLEST_BATCH, *spec.patch_size)
    batch = Batch(
        image=torch.randn(shape[0], 1, *spec.patch_size), label=torch.randint(0, LABELS.outputs, shape).to(torch.int16)
    )
    seconds = []
    for _ in range(1 + repeats):
        began = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch.device("cpu"), torch.bfloat16):
            loss = torch.stack(list(network.loss(batch).values())).sum()
        loss.backward()
        optimizer.step()
        seconds.append(time.process_time() - began)
    return min(seconds[1:])


if __name__ == "__main__":
    main()
