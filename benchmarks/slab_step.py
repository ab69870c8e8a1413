"""One MA-SAM training step per slab: seconds and peak memory, eager and with activation checkpointing.

    python benchmarks/slab_step.py                    # 5 slices of 256 x 256, vit_tiny and vit_b
    python benchmarks/slab_step.py --side 512 --device cuda

Each measurement is a process of its own: one step to warm up, then the fastest of the repeats. Writes
benchmarks/results/slab_step_<device>.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from machine import processor_name

from samunet.core.batch import Batch
from samunet.core.codec import write_json
from samunet.core.geometry import Shape
from samunet.core.labels import parse_labels
from samunet.core.memory import peak_mib, start_peak
from samunet.core.plan import Topology
from samunet.machine.hardware import autocast, choose_precision
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.variants import ma_sam

RESULTS = Path(__file__).parent / "results"
CLASSES = 12
WIDTHS = (32, 64, 128, 256, 320, 320)
TOPOLOGY = Topology(
    strides=((1, 1, 1), *((1, 2, 2),) * 5), kernels=((1, 3, 3), (1, 3, 3), *((3, 3, 3),) * 4), widths=WIDTHS
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["vit_tiny", "vit_b"])
    parser.add_argument("--side", type=int, default=256, help="pixels")
    parser.add_argument("--depth", type=int, default=5, help="slices")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--one", nargs=2, metavar=("BACKBONE", "CHECKPOINTING"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        shape = (arguments.depth, arguments.side, arguments.side)
        config = ma_sam.Config(checkpointing=arguments.one[1] == "yes")
        print(
            json.dumps(
                measure(ma_sam, config, arguments.one[0], shape, torch.device(arguments.device), arguments.repeats)
            )
        )
        return
    rows = []
    for name in arguments.backbones:
        sides = {}
        for checkpointing in ("no", "yes"):
            command = [sys.executable, __file__, *sys.argv[1:], "--one", name, checkpointing]
            sides[checkpointing] = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
        eager, saved = sides["no"], sides["yes"]
        rows.append(
            {
                "backbone": name,
                "eager": eager,
                "checkpointing": saved,
                "ratio": {
                    "seconds": round(saved["seconds"] / eager["seconds"], 2),
                    "peak_mib": round(saved["peak_mib"] / eager["peak_mib"], 2),
                },
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    machine = {
        "device": arguments.device,
        "name": processor_name(arguments.device),
        "cpu_threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    RESULTS.mkdir(exist_ok=True)
    result = {
        "machine": machine,
        "slab": [arguments.depth, arguments.side, arguments.side],
        "classes": CLASSES,
        "steps": rows,
    }
    write_json(RESULTS / f"slab_step_{arguments.device}.json", result)


def measure(
    variant: Any, config: Any, backbone: str, shape: Shape, device: torch.device, repeats: int
) -> dict[str, float]:
    """Seconds per step, growth of the peak memory over the built model in MiB, and how many weights train."""
    torch.manual_seed(0)
    spec = NetworkSpec(
        schemes=("ct",),
        labels=parse_labels({"background": 0} | {f"class {value}": value for value in range(1, CLASSES + 1)}),
        spacing=(3.0, 1.0, 1.0),
        patch_size=shape,
        encoder_scale=1.0,
        topology=TOPOLOGY,
        pretrained=True,
    )
    network = variant.build(build_sam(backbone_named(backbone), shape[1:]), spec, config).to(device)
    trained = [parameter for group in network.parameter_groups() for parameter in group.parameters]
    optimizer = torch.optim.AdamW(trained, fused=True)
    batch = Batch(
        image=torch.randn(1, 1, *shape, device=device),
        label=torch.randint(0, CLASSES + 1, (1, *shape), device=device).short(),
    )
    precision = choose_precision("auto", device)
    before = torch.cuda.memory_allocated() / 2**20 if device.type == "cuda" else start_peak()
    seconds = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            loss = torch.stack(list(network.loss(batch).values())).sum()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else peak_mib()
    return {
        "seconds": round(min(seconds[1:]), 3),
        "peak_mib": round(peak - before),
        "trained": sum(parameter.numel() for parameter in trained),
    }


if __name__ == "__main__":
    main()
