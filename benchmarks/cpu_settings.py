"""Time one CPU training step of the default model with and without the settings that the commands make.

    python benchmarks/cpu_settings.py

Two settings: freed memory is kept (samunet.hardware.keep_freed_memory), and waiting OpenMP threads spin briefly
(GOMP_SPINCOUNT in samunet.cli.common), the latter alone on the machine and beside one busy process of the lowest
priority. Writes benchmarks/results/cpu_settings.json. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from samunet.core.codec import write_json

RESULT = Path(__file__).parent / "results" / "cpu_settings.json"
LIMIT_S = 120.0  # a step that takes longer is reported as this


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", choices=["keep", "return"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(_seconds_a_step(keep=arguments.step == "keep"))
        return
    returned, kept = _run("return", {}), _run("keep", {})
    spinning, brief = _run("keep", {}), _run("keep", {"GOMP_SPINCOUNT": "100000"})
    burner = subprocess.Popen(["nice", "-n", "19", sys.executable, "-c", "while True: pass"])
    try:
        spinning_beside, brief_beside = _run("keep", {}), _run("keep", {"GOMP_SPINCOUNT": "100000"})
    finally:
        burner.kill()
    result = {
        "patch": [24, 192, 192],
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
    write_json(RESULT, result)
    print(json.dumps(result, indent=2))


def _run(step: str, environment: dict[str, str]) -> float:
    clean = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, __file__, "--step", step]
    try:
        done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True, timeout=4 * LIMIT_S)
    except subprocess.TimeoutExpired:
        return LIMIT_S
    return round(min(LIMIT_S, float(done.stdout.split()[-1])), 3)


def _seconds_a_step(*, keep: bool) -> float:
    import torch

    from samunet.core.batch import Batch
    from samunet.core.labels import parse_labels
    from samunet.hardware import autocast, choose_precision, keep_freed_memory
    from samunet.models.inputs import encoder_size
    from samunet.models.segmenter import NetworkSpec
    from samunet.planning.topology import topology_for
    from samunet.sam.build import backbone_named, build_sam
    from samunet.variants import sam_unet

    if keep:
        keep_freed_memory()
    spacing, scale = (3.0, 0.625, 0.625), 1.0
    topology, patch = topology_for((24, 192, 192), spacing, base_width=24, max_width=320)
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
    for _ in range(2):
        step()
    return (time.perf_counter() - began) / 2


if __name__ == "__main__":
    main()
