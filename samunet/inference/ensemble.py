"""Average the probabilities of several models and turn them into segmentations."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from samunet.core.codec import atomic_path
from samunet.core.dataset import read_dataset_json
from samunet.core.labels import Labels
from samunet.errors import ConfigError, DatasetError
from samunet.imageio import ImageReader, reader_for
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
        _write(case, mean, folders[0] / f"{case}{spec.file_ending}", target, spec.labels, reader, spec.file_ending)
        if save_probabilities:
            with atomic_path(target / f"{case}.npz") as path, open(path, "wb") as file:
                np.savez_compressed(file, probabilities=mean)

    each(run, cases, threads=threads, title="Ensembling", quiet=quiet)
    with atomic_path(target / "dataset.json") as path:
        path.write_bytes((folders[0] / "dataset.json").read_bytes())
    return cases


def mean_probabilities(paths: Sequence[Path]) -> np.ndarray:
    """Return the mean of (K, D, H, W) probabilities, float32; one file at a time is in memory beside the sum.

    Raises:
        DatasetError: a file is absent or damaged, or two differ in shape.
    """
    total: np.ndarray | None = None
    for path in paths:
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                probabilities = stored["probabilities"].astype(np.float32, copy=False)
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{path} cannot be read ({error}); predict the case again with --save_probabilities.") from None
        if total is None:
            total = probabilities.copy()
        elif total.shape != probabilities.shape:
            raise DatasetError(f"{path} has shape {probabilities.shape}, {paths[0]} has {total.shape}; they are of other images or labels.")
        else:
            total += probabilities
    if total is None:
        raise ConfigError("There are no probabilities to average.")
    return total / len(paths)


def segmentation_of(probabilities: np.ndarray, labels: Labels) -> np.ndarray:
    """Turn (K, D, H, W) probabilities into (D, H, W) label values: the likeliest class, or regions above one half in their order."""
    if not labels.has_regions:
        return np.array(labels.all_values, labels.segmentation_dtype())[probabilities.argmax(0)]
    segmentation = np.zeros(probabilities.shape[1:], labels.segmentation_dtype())
    for channel, value in zip(probabilities, labels.regions_order, strict=True):
        segmentation[channel > 0.5] = value
    return segmentation


def _shared_cases(folders: Sequence[Path]) -> tuple[str, ...]:
    first, *others = ({path.stem for path in folder.glob("*.npz")} for folder in folders)
    if not first:
        raise DatasetError(f"{folders[0]} holds no probabilities (<case>.npz); predict with --save_probabilities.")
    for folder, cases in zip(folders[1:], others, strict=True):
        if differing := sorted(first ^ cases):
            raise DatasetError(f"{folder} and {folders[0]} hold other cases, first {', '.join(differing[:SHOWN])}; predict the same cases with both.")
    return tuple(sorted(first))


def _write(case: str, mean: np.ndarray, like: Path, target: Path, labels: Labels, reader: ImageReader, ending: str) -> None:
    _, geometry = reader.read_label(like)
    if mean.shape[0] != labels.outputs or mean.shape[1:] != geometry.shape:
        raise DatasetError(f"The probabilities of '{case}' have shape {mean.shape}, expected {(labels.outputs, *geometry.shape)} as {like} has.")
    reader.write_segmentation(segmentation_of(mean, labels), geometry, target / f"{case}{ending}")
