"""Average the probabilities of several models and turn them into segmentations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from samunet.core.codec import atomic_path
from samunet.core.dataset import files_with_ending, read_dataset_json
from samunet.core.lock import held
from samunet.core.names import check_case_name
from samunet.core.parts import is_part
from samunet.core.prompts import carry_prompts, prompts_behind, refuse_mixed
from samunet.errors import MOST_NAMES, ConfigError, DatasetError
from samunet.imageio import reader_of_segmentations
from samunet.inference.probabilities import open_probabilities, write_probabilities
from samunet.machine.progress import each
from samunet.preprocessing.backward import label_values


def ensemble(
    folders: Sequence[Path], target: Path, *, threads: int, save_probabilities: bool = False, quiet: bool = False
) -> tuple[str, ...]:
    """Write the segmentation of the mean probabilities of several prediction folders; returns the cases.

    Args:
        folders: of `samunet_predict --save_probabilities`, with the same cases; dataset.json and grids are those of
            the first.
        save_probabilities: also write `<case>.npz` with the means.

    Raises:
        ConfigError: there are fewer than two folders, or the output is one of them.
        DatasetError: folders differ in their cases or labels, or a file is absent or damaged.
    """
    if len(folders) < 2:
        raise ConfigError(f"An ensemble takes two folders or more; got {len(folders)}.")
    if target.resolve() in {folder.resolve() for folder in folders}:
        raise ConfigError(f"{target} is input and output; give another output folder.")
    refuse_mixed({str(folder): prompts_behind(folder) for folder in folders})
    spec = read_dataset_json(folders[0] / "dataset.json")
    for folder in folders[1:]:
        if read_dataset_json(folder / "dataset.json").labels != spec.labels:
            raise DatasetError(
                f"{folder} and {folders[0]} were predicted with other labels; an ensemble needs one set."
            )
    cases, files = _shared_cases(folders), files_with_ending(folders[0], spec.file_ending)
    reader = reader_of_segmentations(folders[0], spec)

    def run(case: str) -> None:
        name = f"{case}{spec.file_ending}"
        _, geometry = reader.read_label(files.get(name, folders[0] / name))
        planes = mean_planes([folder / f"{case}.npz" for folder in folders], (spec.labels.outputs, *geometry.shape))
        if save_probabilities:
            write_probabilities(target / f"{case}.npz", planes, spec.labels.outputs)
            planes = mean_planes([target / f"{case}.npz"], (spec.labels.outputs, *geometry.shape))
        reader.write_segmentation(label_values(planes, spec.labels, above=0.5), geometry, target / name)

    with held(target):
        each(run, cases, threads=threads, title="Ensembling", quiet=quiet)
        with atomic_path(target / "dataset.json") as path:
            path.write_bytes((folders[0] / "dataset.json").read_bytes())
        carry_prompts(folders, target)
    return cases


def mean_planes(paths: Sequence[Path], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield the mean of several files' probabilities, (D, H, W) float32, one class after the other; raises DatasetError
    where a file is absent or damaged, or has another shape.

    Args:
        shape: (K, D, H, W) that every file must have.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(open_probabilities(path)) for path in paths]
        for file in files:
            if file.shape != shape:
                raise DatasetError(
                    f"{file.path} has shape {file.shape}, expected {shape} for the labels and the grid of the "
                    "segmentation beside it."
                )
        for planes in zip(*(file.planes() for file in files), strict=True):
            total = planes[0].copy()
            for plane in planes[1:]:
                total += plane
            total /= len(planes)
            yield total


def _shared_cases(folders: Sequence[Path]) -> tuple[str, ...]:
    first, *others = ({path.stem for path in folder.glob("*.npz") if not is_part(path)} for folder in folders)
    if not first:
        raise DatasetError(f"{folders[0]} holds no probabilities (<case>.npz); predict with --save_probabilities.")
    for folder, cases in zip(folders[1:], others, strict=True):
        if differing := sorted(first ^ cases):
            raise DatasetError(
                f"{folder} and {folders[0]} hold other cases, first {', '.join(differing[:MOST_NAMES])}; "
                "predict the same cases with both."
            )
    for case in first:
        check_case_name(case, folders[0])
    return tuple(sorted(first))
