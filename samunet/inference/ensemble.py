"""Average the probabilities of several models and turn them into segmentations."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from samunet.core.codec import atomic_path
from samunet.core.dataset import read_dataset_json
from samunet.errors import ConfigError, DatasetError
from samunet.imageio import reader_for
from samunet.preprocessing.backward import label_values
from samunet.progress import each

SHOWN = 5


def ensemble(folders: Sequence[Path], target: Path, *, threads: int, save_probabilities: bool = False, quiet: bool = False) -> tuple[str, ...]:
    """Write the segmentation of the mean probabilities of several prediction folders; returns the cases.

    Args:
        folders: of `samunet_predict --save_probabilities`, with the same cases; dataset.json and grids are those of the first.
        save_probabilities: also write `<case>.npz` with the means.

    Raises:
        ConfigError: there are fewer than two folders, or the output is one of them.
        DatasetError: folders differ in their cases or labels, or a file is absent or damaged.
    """
    if len(folders) < 2:
        raise ConfigError(f"An ensemble takes two folders or more; got {len(folders)}.")
    if target.resolve() in {folder.resolve() for folder in folders}:
        raise ConfigError(f"{target} is input and output; give another output folder.")
    spec = read_dataset_json(folders[0] / "dataset.json")
    for folder in folders[1:]:
        if read_dataset_json(folder / "dataset.json").labels != spec.labels:
            raise DatasetError(f"{folder} and {folders[0]} were predicted with other labels; an ensemble needs one set.")
    cases = _shared_cases(folders)
    reader = reader_for(spec.file_ending, spec.reader)

    def run(case: str) -> None:
        mean = mean_probabilities([folder / f"{case}.npz" for folder in folders])
        name = f"{case}{spec.file_ending}"
        _, geometry = reader.read_label(folders[0] / name)
        expected = (spec.labels.outputs, *geometry.shape)
        if mean.shape != expected:
            raise DatasetError(f"The probabilities of '{case}' have shape {mean.shape}, expected {expected} for the grid of {folders[0] / name}.")
        reader.write_segmentation(label_values(mean, spec.labels, above=0.5), geometry, target / name)
        if save_probabilities:
            with atomic_path(target / f"{case}.npz") as path, open(path, "wb") as file:
                np.savez_compressed(file, probabilities=mean)

    each(run, cases, threads=threads, title="Ensembling", quiet=quiet)
    with atomic_path(target / "dataset.json") as path:
        path.write_bytes((folders[0] / "dataset.json").read_bytes())
    return cases


def mean_probabilities(paths: Sequence[Path]) -> np.ndarray:
    """Return the mean of the (K, D, H, W) probabilities of one or more files, float32; one file at a time is in memory beside the sum.

    Raises:
        DatasetError: a file is absent or damaged, or two differ in shape.
    """
    total = _probabilities(paths[0])
    for path in paths[1:]:
        probabilities = _probabilities(path)
        if total.shape != probabilities.shape:
            raise DatasetError(f"{path} has shape {probabilities.shape}, {paths[0]} has {total.shape}; they are of other images or labels.")
        total += probabilities
    total /= len(paths)
    return total


def _probabilities(path: Path) -> np.ndarray:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return stored["probabilities"].astype(np.float32, copy=False)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path} cannot be read ({error}); predict the case again with --save_probabilities.") from None


def _shared_cases(folders: Sequence[Path]) -> tuple[str, ...]:
    first, *others = ({path.stem for path in folder.glob("*.npz")} for folder in folders)
    if not first:
        raise DatasetError(f"{folders[0]} holds no probabilities (<case>.npz); predict with --save_probabilities.")
    for folder, cases in zip(folders[1:], others, strict=True):
        if differing := sorted(first ^ cases):
            raise DatasetError(f"{folder} and {folders[0]} hold other cases, first {', '.join(differing[:SHOWN])}; predict the same cases with both.")
    return tuple(sorted(first))
