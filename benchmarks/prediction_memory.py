"""Measure the memory of predicting kinds of files: estimated from headers, allowed, and taken.

    python benchmarks/prediction_memory.py

Every kind is a process of its own: two cases, one after the other, with a network that costs next to nothing. Allowed
(--max_ram) is the estimate of one case and what the network works with, so that a case begins when the one before is
done. Taken is the growth of the process's peak memory (VmHWM), or of its own memory and that of the process in which
ITK reads, looked at every 10 ms (Pss), whichever is more. Where the scores are in a file, whose pages the system may
drop, they are left out. Writes benchmarks/results/prediction_memory.json; kinds that are there are not repeated.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import tifffile
from export import Anonymous, dataset_json
from machine import processor_name
from PIL import Image
from stand_in import our_predictor

from samunet import pipeline
from samunet.core.codec import write_json
from samunet.core.dataset import read_dataset_json
from samunet.core.memory import peak_mib, start_peak
from samunet.imageio import reader_for
from samunet.imageio.case import peek_case
from samunet.inference.budget import estimate
from samunet.inference.predictor import Predictor
from samunet.machine.hardware import keep_freed_memory

RESULTS = Path(__file__).parent / "results" / "prediction_memory.json"
SHAPE, PATCH, SPACING = (96, 256, 256), (32, 96, 96), (1.5, 1.0, 1.0)
MIB = 2**20
Write = Callable[[Path, str], None]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Files of one kind."""

    write: Write
    """Writes the image files of a case into a folder."""
    ending: str = ".nii.gz"
    channels: int = 1
    classes: int = 3
    within_mask: bool = False
    everything: bool = False
    """Probabilities, pictures and statistics are written too."""
    scores_in_file: bool = False
    resampled: bool = False
    planar: bool = False
    refused: bool = False


def voxels(kind: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return noise, without zeros."""
    values = np.random.default_rng(0).integers(1, 100, shape, dtype=np.uint8)
    return values.astype(kind)


def nifti(
    kind: str, *, slope: float = 1.0, ending: str = ".nii.gz", shape: tuple[int, ...] = SHAPE, files: int = 1
) -> Write:
    def write(folder: Path, case: str) -> None:
        image = nibabel.Nifti1Image(voxels(kind, shape).T, np.diag([*SPACING[::-1], 1.0]))
        image.header.set_slope_inter(slope, 0)
        for channel in range(files):
            nibabel.save(image, folder / f"{case}_{channel:04}{ending}")

    return write


def colors(folder: Path, case: str) -> None:
    image = voxels("uint8", (*SHAPE[::-1], 3)).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    nibabel.save(nibabel.Nifti1Image(image, np.diag([*SPACING[::-1], 1.0])), folder / f"{case}_0000.nii.gz")


def meta_image(folder: Path, case: str) -> None:
    image = sitk.GetImageFromArray(voxels("float64"))
    image.SetSpacing(SPACING[::-1])
    sitk.WriteImage(image, str(folder / f"{case}_0000.mha"), useCompression=True)


def dicom(folder: Path, case: str) -> None:
    (folder / case).mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    stack, series = voxels("int16"), f"1.2.826.0.1.3680043.2.1125.{1 + int(case[-1])}"
    for index, plane in enumerate(stack):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing((1.0, 1.0, 1.5))
        position = f"0\\0\\{1.5 * index}"
        tags = {
            "0008|0060": "CT",
            "0020|000e": series,
            "0020|000d": series + ".1",
            "0008|0018": f"{series}.2.{index + 1}",
        }
        tags |= {
            "0020|0032": position,
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(index + 1),
            "0018|0050": "1.5",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / case / f"{index:03}.dcm"))
        writer.Execute(image)


def tiff(folder: Path, case: str) -> None:
    tifffile.imwrite(folder / f"{case}_0000.tif", voxels("uint16"), compression="zlib", photometric="minisblack")
    write_json(folder / f"{case}.json", {"spacing": SPACING})


def png(folder: Path, case: str) -> None:
    Image.fromarray(voxels("uint8", (4000, 4000, 3))).save(folder / f"{case}_0000.png", compress_level=1)


SMALL = (64, 144, 144)
KINDS = {
    "int8": Kind(write=nifti("int8")),
    "int16, slope": Kind(write=nifti("int16", slope=0.5)),
    "float32, not compressed": Kind(write=nifti("float32", ending=".nii"), ending=".nii"),
    "float64": Kind(write=nifti("float64")),
    "float64, slope, resampled": Kind(write=nifti("float64", slope=0.5), resampled=True),
    "int16, nonzero mask": Kind(write=nifti("int16"), within_mask=True),
    "4D, four channels": Kind(write=nifti("int16", shape=(4, *SHAPE)), channels=4),
    "4D, 30 points of time, model of one channel": Kind(write=nifti("int16", shape=(30, *SHAPE)), refused=True),
    "four files": Kind(write=nifti("int16", files=4), channels=4),
    "RGB NIfTI": Kind(write=colors, channels=3),
    "MetaImage, float64, compressed": Kind(write=meta_image, ending=".mha"),
    "DICOM series": Kind(write=dicom),
    "TIFF stack, uint16": Kind(write=tiff, ending=".tif"),
    "PNG, 4000 x 4000, RGB": Kind(write=png, ending=".png", channels=3, planar=True),
    "40 classes": Kind(write=nifti("int16", shape=SMALL), classes=40),
    "40 classes, probabilities, pictures, statistics": Kind(
        write=nifti("int16", shape=SMALL), classes=40, everything=True
    ),
    "40 classes, all that, scores in a file": Kind(
        write=nifti("int16", shape=SMALL), classes=40, everything=True, scores_in_file=True
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind:
        print(json.dumps(measure(KINDS[arguments.kind])))
        return
    result: dict[str, Any] = {"machine": {"cpu": processor_name(), "cpus": os.cpu_count()}, "kinds": {}}
    result = json.loads(RESULTS.read_text()) if RESULTS.is_file() else result
    for name in KINDS:
        if name not in result["kinds"]:
            done = subprocess.run(
                [sys.executable, __file__, "--kind", name], stdout=subprocess.PIPE, text=True, check=True
            )
            result["kinds"][name] = json.loads(done.stdout.splitlines()[-1])
            write_json(RESULTS, result)
            print(name, result["kinds"][name], flush=True)


def predictor_of(kind: Kind, folder: Path) -> Predictor:
    names = {str(channel): f"image {channel}" for channel in range(kind.channels)}
    write_json(
        folder / "dataset.json", dataset_json(kind.classes) | {"channel_names": names, "file_ending": kind.ending}
    )
    reader = "Tiff3DIO" if kind.ending == ".tif" else reader_for(kind.ending).name
    spacing = (1.0, 1.0, 1.0) if kind.planar else (3.0, 1.6, 1.6) if kind.resampled else SPACING
    made = our_predictor(
        read_dataset_json(folder / "dataset.json"), spacing, (1, 256, 256) if kind.planar else PATCH, "zscore"
    )
    channel = replace(made.plan.channels[0], within_mask=kind.within_mask)
    configuration = replace(made.configuration, dimensions=2 if kind.planar else 3)
    plan = replace(made.plan, reader=reader, channels=(channel,) * kind.channels)
    return replace(made, plan=plan, configuration=configuration, options=replace(made.options, step_size=1.0))


def measure(kind: Kind) -> dict[str, Any]:
    """Predict two cases; returns MiB."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "in").mkdir()
        for case in ("case1", "case2"):
            kind.write(folder / "in", case)
        keep_freed_memory()
        predictor = predictor_of(kind, folder)
        cases = pipeline.cases_to_predict(folder / "in", predictor.dataset, folder / "out")
        working, limit = predictor.working_memory(), 100 * MIB
        estimated: dict[str, float] = {}
        if not kind.refused:
            size = peek_case(cases[0], predictor.dataset, reader_for(kind.ending, predictor.plan.reader))
            wanted = {"keep_image": kind.everything, "pictures": kind.everything, "probabilities": kind.everything}
            need = estimate(
                size, predictor.plan, predictor.configuration, score_channels=predictor.score_channels, **wanted
            )
            limit = working + (need.volumes if kind.scores_in_file else need.total)
            estimated = {"estimate": round((need.volumes if kind.scores_in_file else need.total) / MIB)}
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        everyone, own = Everyone(), Anonymous()
        before = start_peak()
        options = pipeline.FileOptions(max_ram=limit, save_probabilities=kind.everything, quiet=True)
        failures = pipeline.predict(
            predictor, cases, folder / "out", options, previews=kind.everything, statistics=kind.everything
        ).failures
        growth, together, anonymous = peak_mib() - before, everyone.stop(), own.stop()
        if bool(failures) != kind.refused:
            raise SystemExit(str(failures))
        stored = sum(path.stat().st_size for path in (folder / "in").rglob("*") if path.is_file()) / 2
        taken = anonymous if kind.scores_in_file else max(growth, together)
        return estimated | {
            "file": round(stored / MIB),
            "network": round(working / MIB),
            "allowed": round(limit / MIB),
            "taken": round(taken),
            "refused": failures[0].reason if failures else None,
        }


class Everyone(Anonymous):
    """Watches this process and those that it started, pages that they share counted once."""

    def _now(self) -> float:
        own = os.getpid()
        started = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        threads = Path(f"/proc/{own}/task").iterdir()
        started += [child for thread in threads for child in (thread / "children").read_text().split()]
        return sum(_pss(pid) for pid in {str(own), *started}) / 1024

    def _watch(self) -> None:
        while self.going:
            self.peak = max(self.peak, self._now())
            time.sleep(0.01)


def _pss(pid: str) -> int:
    """Return a process's share of memory in KiB; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
