"""Time one CPU training step of the default model with and without two settings of the process.

    python benchmarks/cpu_settings.py small     # a patch of the Hippocampus plan: many short operations
    python benchmarks/cpu_settings.py large     # a patch of thick slices: few long ones
    python benchmarks/cpu_settings.py precision # both patches in bf16 and fp32

Freed memory is kept (samunet.machine.hardware.keep_freed_memory), which the commands do; waiting OpenMP threads spin
more briefly (GOMP_SPINCOUNT), which they do not: timed alone on the machine and beside one busy process of the same
priority. Nothing else should run meanwhile. The number format is chosen by the processor's flags
(samunet.machine.hardware.choose_precision); its steps are taken in turns on one thread and counted in processor time,
so that other programs take nothing from them. Writes its part of benchmarks/results/cpu_settings.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samunet.core.codec import read_json, write_json

if TYPE_CHECKING:
    import torch

PatchOf = tuple[tuple[int, int, int], tuple[float, float, float], float, int]
RESULT = Path(__file__).parent / "results" / "cpu_settings.json"
PATCHES = {  # voxels, spacing in mm, encoder pixels per voxel, steps that are timed
    "small": ((40, 56, 40), (1.0, 1.0, 1.0), 2.0, 10),
    "large": ((24, 192, 192), (3.0, 0.625, 0.625), 1.0, 2),
}
LIMIT_S = 120.0  # a step that takes longer is reported as this


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patch", choices=[*PATCHES, "precision"])
    parser.add_argument("--step", choices=["keep", "return"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(_seconds_a_step(PATCHES[arguments.patch], keep=arguments.step == "keep"))
        return
    if arguments.patch == "precision":
        _write("precision", _compare_precisions())
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
    _write(arguments.patch, result)


def _write(part: str, result: dict[str, Any]) -> None:
    write_json(RESULT, {**(read_json(RESULT) if RESULT.is_file() else {}), part: result})
    print(json.dumps(result, indent=2))


def _compare_precisions() -> dict[str, Any]:
    """Return the shortest step of each number format, for each patch."""
    import torch

    from samunet.machine.hardware import PRECISION_NAMES, choose_precision, device_name, keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    found: dict[str, Any] = {
        "cpu": device_name(cpu),
        "torch": torch.__version__,
        "auto": PRECISION_NAMES[choose_precision("auto", cpu)],
    }
    for name, patch_of in PATCHES.items():
        step, repeats = _step_of(patch_of), patch_of[3]
        best = dict.fromkeys((torch.bfloat16, None), float("inf"))
        for _ in range(repeats + 1):  # the first of each also sets things up
            for precision in best:
                began = time.process_time()
                step(precision)
                best[precision] = min(best[precision], time.process_time() - began)
        found[name] = {
            f"seconds in {PRECISION_NAMES[precision]}": round(seconds, 3) for precision, seconds in best.items()
        }
        found[name]["bf16 / fp32"] = round(best[torch.bfloat16] / best[None], 2)
    return found


def _run(patch: str, step: str, environment: dict[str, str]) -> float:
    clean = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, __file__, patch, "--step", step]
    try:
        done = subprocess.run(
            command, env={**clean, **environment}, capture_output=True, text=True, check=True, timeout=4 * LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return LIMIT_S
    return round(min(LIMIT_S, float(done.stdout.split()[-1])), 3)


def _seconds_a_step(patch_of: PatchOf, *, keep: bool) -> float:
    import torch

    from samunet.machine.hardware import choose_precision, keep_freed_memory

    if keep:
        keep_freed_memory()
    step, repeats, precision = _step_of(patch_of), patch_of[3], choose_precision("auto", torch.device("cpu"))
    step(precision)
    began = time.perf_counter()
    for _ in range(repeats):
        step(precision)
    return (time.perf_counter() - began) / repeats


def _step_of(patch_of: PatchOf) -> Callable[[torch.dtype | None], None]:
    """Return a training step of a network for such patches; it takes the number format."""
    import torch

    from samunet.core.batch import Batch
    from samunet.core.labels import parse_labels
    from samunet.machine.hardware import autocast
    from samunet.models.spec import NetworkSpec
    from samunet.planning.topology import topology_for
    from samunet.sam.backbones import backbone_named, encoder_size
    from samunet.sam.build import build_sam
    from samunet.variants import sam_unet

    wanted, spacing, scale, _ = patch_of
    topology, patch = topology_for(wanted, spacing, base_width=24, max_width=320)
    labels = parse_labels({"background": 0, "a": 1, "b": 2})
    spec = NetworkSpec(
        schemes=("zscore",),
        labels=labels,
        spacing=spacing,
        patch_size=patch,
        encoder_scale=scale,
        topology=topology,
        pretrained=False,
    )
    network = sam_unet.build(
        build_sam(backbone_named("vit_tiny"), encoder_size(patch[1:], scale), window=0), spec, sam_unet.Config()
    )
    batch = Batch(image=torch.randn(2, 1, *patch), label=torch.randint(0, 3, (2, *patch)))

    def step(precision: torch.dtype | None) -> None:
        with autocast(torch.device("cpu"), precision):
            loss = torch.stack(list(network.loss(batch).values())).sum()
        loss.backward()

    return step


if __name__ == "__main__":
    main()
