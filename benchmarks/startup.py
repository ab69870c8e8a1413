"""Measure how long `--help` of every command takes, and `import samunet`.

    python benchmarks/startup.py [--runs 7]

Each run is a process of its own, every command once in a round. Where other programs run meanwhile, the clock also
measures them, and processor time is what counts. Writes benchmarks/results/startup.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import processor_name

from samunet.cli.words import words
from samunet.core.codec import write_json

RESULTS = Path(__file__).parent / "results" / "startup.json"
IMPORT = """
import json, time
clock, used = time.perf_counter(), time.process_time()
import samunet
print(json.dumps([time.process_time() - used, time.perf_counter() - clock]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    commands = {"samunet": [], **{f"samunet_{word}": [word] for word in words()}}
    loads, measured = [], {name: [] for name in (*commands, "import samunet")}
    for _ in range(options.runs):
        loads.append(os.getloadavg()[0])
        for name, word in commands.items():
            measured[name].append(seconds_of([sys.executable, "-m", "samunet", *word, "--help"]))
        measured["import samunet"].append(json.loads(subprocess.check_output([sys.executable, "-c", IMPORT])))
    medians = {
        name: {"cpu_s": round(statistics.median(cpu), 4), "wall_s": round(statistics.median(wall), 4)}
        for name, rounds in measured.items()
        for cpu, wall in [zip(*rounds, strict=True)]
    }
    machine = {"cpu": processor_name(), "cpus": len(os.sched_getaffinity(0)), "load": round(statistics.mean(loads), 1)}
    imported = medians.pop("import samunet")
    write_json(options.output, {"machine": machine, "runs": options.runs, "import": imported, "help": medians})


def seconds_of(words: list[str]) -> tuple[float, float]:
    """Run a command; returns its processor time and its time of day in seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


if __name__ == "__main__":
    main()
