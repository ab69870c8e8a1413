"""What carries a promptable network pretrained on scenes: prompts as maps or tokens, SAM's encoder, extra tasks.

    nnUNet_raw=... python benchmarks/seed_study.py --work FOLDER [--minutes 10] [--names ROW ROW]

Each row is pretrained for equal processor time of one thread, with one seed, and then judged on scenes that it did not
see and on real slices as `benchmarks/seed_prompts.py` does. A row that is done in --work is not done again. Writes
benchmarks/results/seed_study.json, where rows of equal minutes that were not asked for stay. It is no benchmark of
speed; other work may go on beside.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch
from machine import processor_name
from seed_prompts import Network, judged, measure, table_of

from samunet.checkpoints.file import load_checkpoint
from samunet.checkpoints.seeds import load_seed
from samunet.core.codec import read_json, write_json
from samunet.core.results import FINAL
from samunet.pipeline.pretraining import SEED_WEIGHTS

RESULT = Path(__file__).parent / "results" / "seed_study.json"
ROWS: dict[str, list[str]] = {
    "maps": [],
    "maps, no extra tasks": ["--no-auxiliary"],
    "maps, ViT of 4 blocks": ["--backbone", "vit_nano"],
    "tokens, ViT of 4 blocks": ["--backbone", "vit_nano", "--no-maps", "--tokens"],
    "both, ViT of 4 blocks": ["--backbone", "vit_nano", "--tokens"],
    "maps, ViT of 12 blocks": ["--backbone", "vit_tiny"],
}
SIDES = (64, 128, 256)


def pretrained(folder: Path, flags: list[str], minutes: float) -> None:
    command = [sys.executable, "-m", "samunet.cli.pretrain", "-o", str(folder), "--c", "-device", "cpu"]
    command += ["--workers", "0", "--minutes", str(minutes), "--epochs", "10", *flags]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--names", nargs="+", choices=ROWS, default=list(ROWS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"machine": {"cpu": processor_name()}, "minutes": arguments.minutes, "seed": 0}
    before = read_json(RESULT) if RESULT.is_file() else {}
    alike = before["rows"] if before.get("minutes") == arguments.minutes else []
    rows = {row["row"]: row for row in alike}
    for name in arguments.names:
        flags = ROWS[name]
        folder = arguments.work / name.replace(", ", "_").replace(" ", "_")
        if not (folder / SEED_WEIGHTS).exists():
            pretrained(folder, flags, arguments.minutes)
        state = load_checkpoint(folder / "fold_all" / FINAL, with_optimizer=False).state
        network = Network(load_seed(folder / SEED_WEIGHTS), SIDES, trained=True)
        table = table_of((task, name, measure(task, network)) for task in judged([4, 35, 45], arguments.cases))
        rows[name] = {"row": name, "steps": state.step, "scenes": state.history["mean_fg_dice"][-1], "real": table}
        print(rows[name], flush=True)
        write_json(RESULT, settings | {"rows": [rows[name] for name in ROWS if name in rows]})


if __name__ == "__main__":
    main()
