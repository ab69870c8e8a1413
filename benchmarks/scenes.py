"""Time of one procedural scene on one core: a slice of 96 x 96 and a slab of 32 x 64 x 64.

OMP_NUM_THREADS=1 python benchmarks/scenes.py      # writes benchmarks/results/scenes.json
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from machine import processor_name

from samunet.core.codec import write_json
from samunet.phantom.scenes import make_scene

SCENES = 200
SHAPES = {"96 x 96": (1, 96, 96), "32 x 64 x 64": (32, 64, 64)}


def main() -> None:
    rows = []
    for name, shape in SHAPES.items():
        make_scene(0, 0, shape)
        times = []
        for index in range(SCENES):
            start = time.process_time()
            make_scene(1, index, shape)
            times.append(1e3 * (time.process_time() - start))
        rows.append(
            {"scene": name, "mean_ms": statistics.fmean(times), "p90_ms": statistics.quantiles(times, n=10)[-1]}
        )
        print(rows[-1], flush=True)
    target = Path(__file__).parent / "results" / "scenes.json"
    write_json(target, {"machine": {"cpu": processor_name()}, "scenes": SCENES, "rows": rows})


if __name__ == "__main__":
    main()
