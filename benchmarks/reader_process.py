"""Measure what it costs that ITK reads a case in a process of its own, beside the process that asks, in turns.

    python benchmarks/reader_process.py

Files of three sizes in each format that ITK reads, uncompressed where the format allows, so that reading is fast and
the overhead shows. Both sides check the header first and stack the channels afterwards. The overhead is the median of
the differences of pairs; the start of the process, once per reading thread and run, is told apart. Where other programs
run meanwhile, the clock measures how long they keep the two processes from meeting, and processor time is what counts.
Writes benchmarks/results/reader_process.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from machine import processor_name

from samunet.core.codec import write_json
from samunet.imageio import itk_pool, reader_for

RESULTS = Path(__file__).parent / "results" / "reader_process.json"
# Hippocampus, prostate, a part of an abdomen.
SHAPES = {"small": (36, 50, 36), "medium": (20, 320, 320), "large": (100, 512, 512)}
PAIRS = {"small": 41, "medium": 21, "large": 7}
READER = reader_for(".mha")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS)
    output = parser.parse_args().output
    starts = [milliseconds(lambda: itk_pool._Worker().end()) for _ in range(5)]
    rows = []
    with tempfile.TemporaryDirectory() as text:
        for size, shape in SHAPES.items():
            for ending in (".mha", ".nrrd", ".gipl", "DICOM"):
                rows.append(
                    {
                        "size": size,
                        "shape": shape,
                        "format": ending,
                        **compare(*write_case(Path(text), shape, ending), PAIRS[size]),
                    }
                )
                print(rows[-1], flush=True)
    machine = {"cpu": processor_name(), "cpus": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1)}
    write_json(output, {"machine": machine, "start_ms": round(statistics.median(starts), 1), "rows": rows})


def milliseconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - begin)


def write_case(folder: Path, shape: tuple[int, int, int], ending: str) -> tuple[Path, Path]:
    """Write an int16 image and a uint8 label; of DICOM the image only, and a label as .mha."""
    random = np.random.default_rng(0)
    image = sitk.GetImageFromArray(random.integers(-1000, 1000, shape).astype(np.int16))
    path = folder / f"image{ending}"
    if ending == "DICOM":
        path = folder / f"series_{shape[0]}"
        path.mkdir()
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        for index in range(shape[0]):
            plane = image[:, :, index]
            for key, value in {
                "0028|0030": "1\\1",
                "0020|000e": "1.2.3",
                "0008|0018": f"1.2.3.{index + 1}",
                "0020|0032": f"0\\0\\{index}",
                "0020|0037": "1\\0\\0\\0\\1\\0",
            }.items():
                plane.SetMetaData(key, value)
            writer.SetFileName(str(path / f"{index:04d}.dcm"))
            writer.Execute(plane)
    else:
        sitk.WriteImage(image, str(path))
    label = folder / f"label{'.mha' if ending == 'DICOM' else ending}"
    sitk.WriteImage(sitk.GetImageFromArray(random.integers(0, 3, shape).astype(np.uint8)), str(label))
    return path, label


def processor_ms() -> float:
    """Processor time of this process and of those that read for it."""
    tasks = [task for worker in itk_pool._POOL.workers for task in Path(f"/proc/{worker.process.pid}/task").iterdir()]
    return 1000 * time.process_time() + sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6


def compare(image: Path, label: Path, pairs: int) -> dict[str, float]:
    """Read the case in turns on both sides; returns medians in ms, of the clock and of the processor."""
    differences: dict[str, list[float]] = {"clock": [], "processor": []}
    here: dict[str, list[float]] = {"clock": [], "processor": []}
    for index in range(pairs + 2):
        found: dict[tuple[str, bool], float] = {}
        for itk_pool.SEPARATE in (True, False) if index % 2 else (False, True):
            used = processor_ms()
            found["clock", itk_pool.SEPARATE] = milliseconds(
                lambda: (READER.read_image([image]), READER.read_label(label))
            )
            found["processor", itk_pool.SEPARATE] = processor_ms() - used
        if index >= 2:  # the first two start the process and fill caches
            for kind in here:
                here[kind].append(found[kind, False])
                differences[kind].append(found[kind, True] - found[kind, False])
    medians = {f"here_{kind}_ms": round(statistics.median(times), 2) for kind, times in here.items()}
    return medians | {f"overhead_{kind}_ms": round(statistics.median(times), 2) for kind, times in differences.items()}


if __name__ == "__main__":
    main()
