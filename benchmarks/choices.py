"""Measure two settings: fp32 products through oneDNN (--fast_fp32), and the compression of preprocessed cases.

    python benchmarks/choices.py --dataset 35      # the dataset is planned for 3d_adapter

Products: a training step of the default model in fp32, in turns with and without the switch; best of each. Compression:
normalized images, LZ4HC at the level in use and at nnU-Net's, in turns; seconds to write and to read, and size. Writes
benchmarks/results/choices.json. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np
import torch
from machine import processor_name

from samunet import pipeline
from samunet.core.batch import Batch
from samunet.core.codec import write_json
from samunet.core.names import DEFAULT_PLANS_NAME
from samunet.core.workspace import workspace_from_environment
from samunet.machine.hardware import keep_freed_memory, use_fast_fp32_products
from samunet.variants.network import build_network

RESULTS = Path(__file__).parent / "results"
OURS, NNUNETS = 1, 5  # levels
CASES, REPEATS = 6, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="35")
    arguments = parser.parse_args()
    keep_freed_memory()
    workspace = workspace_from_environment()
    dataset = pipeline.open_dataset(workspace, arguments.dataset)
    result = {
        "machine": {"cpu": processor_name(), "cpus": os.cpu_count(), "torch": torch.__version__},
        "dataset": dataset.spec.name,
        "fast_fp32": products(workspace, dataset),
        "compression": compression(dataset),
    }
    write_json(RESULTS / "choices.json", result)
    print(json.dumps(result, indent=2))


def products(workspace: object, dataset: pipeline.RawDataset) -> dict[str, float]:
    """Time steps of the plan's 3d_adapter on noise."""
    plan = pipeline.open_plan(workspace, dataset.spec.name, DEFAULT_PLANS_NAME)
    configuration = plan.configuration("3d_adapter")
    network = build_network(plan, configuration, dataset.spec.labels).train()
    shape = (configuration.batch_size, *configuration.patch_size)
    batch = Batch(
        image=torch.randn(shape[0], len(plan.channels), *shape[1:]), label=torch.randint(0, 2, shape).to(torch.int16)
    )

    def step(fast: bool) -> None:
        use_fast_fp32_products(fast)
        sum(network.loss(batch).values()).backward()
        network.zero_grad(set_to_none=True)

    usual, fast = best_seconds(lambda: step(False), lambda: step(True))
    use_fast_fp32_products(False)
    return {"seconds": round(usual, 3), "fast_seconds": round(fast, 3), "faster": round(usual / fast, 2)}


def compression(dataset: pipeline.RawDataset) -> dict[str, float]:
    """Compare both levels on whole images."""
    arrays = []
    for case in dataset.cases[:CASES]:
        array = dataset.reader.read_image(case.images).array
        arrays.append((array - array.mean()) / array.std())
    with tempfile.TemporaryDirectory() as text:
        paths = {
            level: [Path(text) / f"{level}_{index}.b2nd" for index in range(len(arrays))] for level in (OURS, NNUNETS)
        }

        def write(level: int) -> None:
            cparams = {"codec": blosc2.Codec.LZ4HC, "clevel": level, "nthreads": 1}
            for array, path in zip(arrays, paths[level], strict=True):
                blosc2.asarray(array, urlpath=str(path), mode="w", cparams=cparams)

        def read(level: int) -> None:
            for path in paths[level]:
                np.asarray(blosc2.open(str(path), mode="r", dparams={"nthreads": 1})[:])

        writing, reading = (best_seconds(lambda do=do: do(OURS), lambda do=do: do(NNUNETS)) for do in (write, read))
        sizes = [sum(path.stat().st_size for path in paths[level]) for level in (OURS, NNUNETS)]
    return {
        "write_faster": round(writing[1] / writing[0], 2),
        "read_faster": round(reading[1] / reading[0], 2),
        "size_ratio": round(sizes[0] / sizes[1], 3),
    }


def best_seconds(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Return the best of both, taken in turns after one run to warm up."""
    best = [float("inf"), float("inf")]
    for repeat in range(REPEATS + 1):
        for index, run in enumerate((first, second)):
            began = time.perf_counter()
            run()
            if repeat:
                best[index] = min(best[index], time.perf_counter() - began)
    return best[0], best[1]


if __name__ == "__main__":
    main()
