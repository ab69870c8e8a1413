"""One training step of every published method on a slab: seconds, peak memory and how many weights train.

    python benchmarks/variant_step.py  # vit_b, 5 slices of 512 x 512, random weights taken as pretrained
    python benchmarks/variant_step.py --device cuda

Each measurement is a process of its own: one step to warm up, then the fastest of the repeats. Writes
benchmarks/results/variant_step_<device>.json; methods that were not asked for keep their rows there, if they were
measured alike.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import torch
from machine import processor_name
from slab_step import CLASSES, RESULTS, measure

from samunet.core.codec import read_json, write_json
from samunet.variants.method import load_variant

# What is measured under a name, where that is not a method with its defaults.
OTHERWISE = {
    "ma_sam, hq": ("ma_sam", {"hq": True}),
    "med_sa_prompted": ("med_sa_prompted", {"prompts": "iterative"}),  # the most that a step may be
}
VARIANTS = (
    *("sam_unet", "ma_sam", "ma_sam, hq", "samed", "med_sa", "masksam", "h_sam", "db_sam", "autosam"),
    *("sam_unet_prompted", "ma_sam_prompted", "med_sa_prompted", "db_sam_prompted"),
    "hq_sam_prompted",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("--backbone", default="vit_b")
    parser.add_argument("--shape", nargs=3, type=int, default=[5, 512, 512], metavar=("D", "H", "W"))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device, (depth, height, width) = torch.device(arguments.device), arguments.shape
    if arguments.one:
        name, options = OTHERWISE.get(arguments.one, (arguments.one, {}))
        variant = load_variant(name)
        config = variant.read(options, name)
        print(
            json.dumps(measure(variant, config, arguments.backbone, (depth, height, width), device, arguments.repeats))
        )
        return
    rows = {}
    for name in arguments.variants:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
        rows[name] = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        )
        print(name, rows[name], flush=True)
    machine = {
        "device": device.type,
        "name": processor_name(device.type),
        "cpu_threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    settings = {"machine": machine, "backbone": arguments.backbone, "slab": arguments.shape, "classes": CLASSES}
    path = RESULTS / f"variant_step_{device.type}.json"
    before = read_json(path) if path.is_file() else {}
    kept = before["steps"] if before.items() >= settings.items() else {}
    write_json(path, settings | {"steps": kept | rows})


if __name__ == "__main__":
    main()
