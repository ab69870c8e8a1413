"""Time one CPU training step of the default model with and without two settings of the process.

    python benchmarks/cpu_settings.py small     # a patch of the Hippocampus plan: many short operations
    python benchmarks/cpu_settings.py large     # a patch of thick slices: few long ones

Freed memory is kept (samunet.hardware.keep_freed_memory), which the commands do; waiting OpenMP threads spin more briefly
(GOMP_SPINCOUNT), which they do not: timed alone on the machine and beside one busy process of the same priority. Writes
its part of benchmarks/results/cpu_settings.json. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from samunet.core.codec import read_json, write_json

RESULT = Path(__file__).parent / "results" / "cpu_settings.json"
PATCHES = {  # voxels, spacing in mm, encoder pixels a voxel, steps that are timed
    "small": ((40, 56, 40), (1.0, 1.0, 1.0), 2.0, 10),
    "large": ((24, 192, 192), (3.0, 0.625, 0.625), 1.0, 2),
}
LIMIT_S = 120.0  # a step that takes longer is reported as this


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patch", choices=PATCHES)
    parser.add_argument("--step", choices=["keep", "return"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(_seconds_a_step(PATCHES[arguments.patch], keep=arguments.step == "keep"))
        return
    run = partial(_run, arguments.patch)
    returned, kept = run("return", {}), run("keep", {})
    spinning, brief = run("keep", {}), run("keep", {"GOMP_SPINCOUNT": "100000"})
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        spinning_beside, brief_beside = run("keep", {}), run("keep", {"GOMP_SPINCOUNT": "100000"})
    finally:
        burner.kill()
    result = {
        "patch": PATCHES[arguments.patch][0],
        "seconds_a_step": {
            "memory returned": returned,
            "memory kept": kept,
            "alone, default spinning": spinning,
            "alone, brief spinning": brief,
            "beside a busy process, default spinning": spinning_beside,
            "beside a busy process, brief spinning": brief_beside,
        },
        "ratio": {
            "memory returned / kept": round(returned / kept, 2),
            "alone: default / brief spinning": round(spinning / brief, 2),
            "beside a busy process: default / brief spinning": round(spinning_beside / brief_beside, 2),
        },
        "limit_s": LIMIT_S,
    }
    write_json(RESULT, {**(read_json(RESULT) if RESULT.is_file() else {}), arguments.patch: result})
    print(json.dumps(result, indent=2))


def _run(patch: str, step: str, environment: dict[str, str]) -> float:
    clean = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, __file__, patch, "--step", step]
    try:
        done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True, timeout=4 * LIMIT_S)
    except subprocess.TimeoutExpired:
        return LIMIT_S
    return round(min(LIMIT_S, float(done.stdout.split()[-1])), 3)


def _seconds_a_step(patch_of: tuple[tuple[int, int, int], tuple[float, float, float], float, int], *, keep: bool) -> float:
    import torch

    from samunet.core.batch import Batch
    from samunet.core.labels import parse_labels
    from samunet.hardware import autocast, choose_precision, keep_freed_memory
    from samunet.models.spec import NetworkSpec
    from samunet.planning.topology import topology_for
    from samunet.sam.backbones import backbone_named, encoder_size
    from samunet.sam.build import build_sam
    from samunet.variants import sam_unet

    if keep:
        keep_freed_memory()
    wanted, spacing, scale, repeats = patch_of
    topology, patch = topology_for(wanted, spacing, base_width=24, max_width=320)
    labels = parse_labels({"background": 0, "a": 1, "b": 2})
    spec = NetworkSpec(
        schemes=("zscore",), labels=labels, spacing=spacing, patch_size=patch, encoder_scale=scale, topology=topology, pretrained=False
    )
    network = sam_unet.build(build_sam(backbone_named("vit_tiny"), encoder_size(patch[1:], scale), window=0), spec, sam_unet.Config())
    batch = Batch(image=torch.randn(2, 1, *patch), label=torch.randint(0, 3, (2, *patch)))
    device = torch.device("cpu")
    precision = choose_precision("auto", device)

    def step() -> None:
        with autocast(device, precision):
            loss = torch.stack(list(network.loss(batch).values())).sum()
        loss.backward()

    step()
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - began) / repeats


if __name__ == "__main__":
    main()
