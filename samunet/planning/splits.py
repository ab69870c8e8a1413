"""Which cases train and which validate, by nnU-Net's file, seed and rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import KFold

from samunet.core.codec import decode, read_json, write_json
from samunet.errors import ConfigError, DatasetError

FOLDS = 5
SEED = 12345  # nnU-Net's
FILE_NAME = "splits_final.json"


@dataclass(frozen=True, kw_only=True)
class Split:
    """One fold."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def make_splits(identifiers: Sequence[str]) -> tuple[Split, ...]:
    """Split cases into five folds as nnU-Net does; fewer than five cases give one fold a case.

    Raises:
        DatasetError: there is only one case, so nothing is left to validate on.
    """
    names = np.sort(list(identifiers))
    if len(names) < 2:
        raise DatasetError(f"Cross-validation needs two cases or more; the dataset has {len(names)}. Train with fold 'all'.")
    folds = KFold(n_splits=min(FOLDS, len(names)), shuffle=True, random_state=SEED)
    return tuple(Split(train=tuple(map(str, names[train])), val=tuple(map(str, names[val]))) for train, val in folds.split(names))


def load_or_make_splits(folder: Path, identifiers: Sequence[str], raw_folder: Path | None = None) -> tuple[Split, ...]:
    """Read splits_final.json of a preprocessed dataset folder; when it is absent, copy the raw folder's or make it by nnU-Net's rule.

    The file is nnU-Net's, so a fold may hold further keys beside train and val.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        given = None if raw_folder is None else raw_folder / FILE_NAME
        write_json(path, read_json(given) if given is not None and given.is_file() else make_splits(identifiers))
    raw = read_json(path)
    if isinstance(raw, list):
        raw = [{key: fold[key] for key in ("train", "val") if key in fold} if isinstance(fold, dict) else fold for fold in raw]
    return decode(tuple[Split, ...], raw, path.name)


def split_for_fold(folder: Path, identifiers: Sequence[str], fold: str, *, raw_folder: Path | None = None) -> Split:
    """Return the cases of a fold: "all" trains and validates on everything.

    A fold number beyond the file's folds gives nnU-Net's random 80:20 split, seeded by the fold.

    Raises:
        ConfigError: the fold is neither "all" nor a number.
        DatasetError: the file names cases that are not preprocessed, or a fold without cases.
    """
    if fold == "all":
        return Split(train=tuple(sorted(identifiers)), val=tuple(sorted(identifiers)))
    if not fold.isdigit():
        raise ConfigError(f"Fold must be a number from 0 up, or 'all'; got '{fold}'.")
    splits = load_or_make_splits(folder, identifiers, raw_folder)
    if int(fold) >= len(splits):
        names = np.sort(list(identifiers))
        train = np.random.RandomState(SEED + int(fold)).choice(len(names), int(len(names) * 0.8), replace=False)
        chosen = {str(names[i]) for i in train}
        split = Split(train=tuple(sorted(chosen)), val=tuple(sorted({str(name) for name in names} - chosen)))
    else:
        split = splits[int(fold)]
    unknown = sorted((set(split.train) | set(split.val)) - set(identifiers))
    if unknown:
        raise DatasetError(
            f"{folder / FILE_NAME}: fold {fold} names {len(unknown)} cases that are not preprocessed, first '{unknown[0]}'. "
            "Preprocess again, or correct the file."
        )
    if not split.train or not split.val:
        raise DatasetError(f"{folder / FILE_NAME}: fold {fold} has {len(split.train)} training and {len(split.val)} validation cases; it needs both.")
    return split
