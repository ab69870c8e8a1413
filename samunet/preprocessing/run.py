"""Preprocess a whole dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samunet.core.codec import write_json
from samunet.core.dataset import Case, DatasetSpec
from samunet.core.plan import Configuration, Plan
from samunet.imageio import ImageReader
from samunet.imageio.case import read_case
from samunet.preprocessing.forward import preprocess
from samunet.progress import each
from samunet.storage import save_case


def preprocess_dataset(
    folder: Path,
    spec: DatasetSpec,
    cases: Sequence[Case],
    plan: Plan,
    configuration: Configuration,
    reader: ImageReader,
    *,
    threads: int,
    quiet: bool = False,
) -> None:
    """Write every training case, and dataset.json, to a folder of preprocessed cases; what lies there is replaced."""
    if folder.is_dir():
        for old in (*folder.glob("*.b2nd"), *folder.glob("*.json"), *folder.glob("*_locations.npz")):
            old.unlink()

    def run(case: Case) -> None:
        volume, label = read_case(case, spec, reader)
        save_case(folder, case.identifier, preprocess(volume, label, plan, configuration), spec.labels, configuration.patch_size)

    each(run, cases, threads=threads, title=f"Preprocessing {folder.name}", quiet=quiet)
    write_json(folder / "dataset.json", spec.raw)  # last, so a folder that has it is whole
