"""Which cases train and which validate, by nnU-Net's file, seed and rule."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samunet.core.codec import decode, read_json, write_json
from samunet.core.names import brief, check_case_name, is_name
from samunet.core.units import counted
from samunet.errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)

FOLDS = 5
SPLIT_SEED = 12345  # nnU-Net's
SPLITS_FILE = "splits_final.json"
PATIENTS = (
    r"^(sub-[^_]+)_",
    r"^([^_.-]*\d[^_.-]*)[_.-]",
    r"^(.*\d.*)[_.-][^_.-]+[_.-][^_.-]+$",
    r"^(.*\d.*)[_.-][^_.-]+$",
)
"""Expressions for the patient in names: BIDS, first word with a digit, all but the last two words, or one."""
MATCHING_SECONDS = 10.0  # for all names; some expressions take longer than anybody lives, as ^(a+)+$
MATCH = """
import json, re, sys
expression, names = json.load(sys.stdin)
matches = [re.search(expression, name) for name in names]
groups = [next((group for group in match.groups() if group is not None), None) if match else None for match in matches]
json.dump(groups, sys.stdout)
"""
LEAST_SHARED = 0.2  # share of cases that must belong to a group of two or more


@dataclass(frozen=True, kw_only=True)
class Split:
    """One fold."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def groups_from(given: object, identifiers: Sequence[str]) -> dict[str, str] | None:
    """Return every case's group, usually the patient, which stays together in every split; None without groups. Raises
    DatasetError where the expression is wrong, takes too long or does not match a case, or the table lacks one.

    Args:
        given: what dataset.json says under `groups`: a regular expression whose first group that matches is the name,
            found in the identifier; a table of identifier to name; or None.
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        lacking = [name for name in identifiers if name not in given]
        if lacking:
            raise DatasetError(
                f"dataset.json: groups lacks {counted(len(lacking), 'case')}, first '{lacking[0]}'; give every case "
                "its group."
            )
        unnamed = [name for name in identifiers if not is_name(given[name]) and type(given[name]) is not int]
        if unnamed:
            raise DatasetError(
                f"dataset.json: groups gives '{unnamed[0]}' the group {brief(given[unnamed[0]])}; expected a name."
            )
        return {name: str(given[name]) for name in identifiers}
    try:
        pattern = re.compile(given) if isinstance(given, str) else None
    except (re.error, OverflowError, RecursionError) as error:
        raise DatasetError(f"dataset.json: groups is no regular expression ({error}): {brief(given)}.") from None
    if pattern is None or not pattern.groups:
        raise DatasetError(
            r'dataset.json: groups must be an expression with a group, e.g. "^(patient\d+)_", or a table; '
            f"got {brief(given)}."
        )
    group_of = _matched(pattern.pattern, identifiers)
    unmatched = [name for name, group in group_of.items() if group is None]
    if unmatched:
        raise DatasetError(
            f"dataset.json: the expression {given!r} of groups does not match {counted(len(unmatched), 'case')}, first "
            f"'{unmatched[0]}'."
        )
    return {name: group for name, group in group_of.items() if group is not None}


def _matched(expression: str, names: Sequence[str]) -> dict[str, str | None]:
    """Return the first group that matches in each name; raises DatasetError where that takes too long.

    Another process does it, since nothing ends a search within this one.
    """
    command = [sys.executable, "-I", "-S", "-c", MATCH]
    try:
        done = subprocess.run(
            command,
            input=json.dumps([expression, names]),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=MATCHING_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise DatasetError(
            f"dataset.json: the expression {brief(expression)} of groups takes more than {MATCHING_SECONDS:g} s for "
            f"{len(names)} names; write it without repetitions within repetitions, or give a table of case to group."
        ) from None
    return dict(zip(names, json.loads(done.stdout), strict=True))


def likely_groups(identifiers: Sequence[str]) -> str | None:
    """Return the expression of `groups` for patients that names seem to hold, as in patient012_frame01, or None."""
    for expression in PATIENTS:
        patients = [match[1] for name in identifiers if (match := re.match(expression, name))]
        sizes = sorted(Counter(patients).values())
        if len(patients) < len(identifiers) or sum(size for size in sizes if size > 1) < LEAST_SHARED * len(
            identifiers
        ):
            continue
        if len(sizes) >= 5 or (
            len(sizes) >= 3 and sizes[len(sizes) // 2] <= 3
        ):  # a few large groups are sites or scanners
            return expression
    return None


def parted(splits: Sequence[Split], groups: Mapping[str, str]) -> tuple[int, int]:
    """Return how many validation cases of the worst fold have a case of their group in training, and of how many."""
    counts = []
    for split in splits:
        trained = {groups.get(name) for name in split.train}
        counts.append((sum(groups.get(name, name) in trained for name in split.val), len(split.val)))
    return max(counts, default=(0, 0))


def make_splits(identifiers: Sequence[str], groups: Mapping[str, str] | None = None) -> tuple[Split, ...]:
    """Split cases into five folds as nnU-Net does; fewer than five cases, or groups, give one fold each. Raises
    DatasetError where there is only one case or group, so nothing is left to validate on.

    Args:
        groups: case to group, see `groups_from`; None makes every case its own.
    """
    from sklearn.model_selection import KFold  # takes most of a second; most commands read splits, or none

    groups = groups or {name: name for name in identifiers}
    names = np.sort(list(set(groups.values())))
    if len(names) < 2:
        what = "cases" if len(identifiers) < 2 else "groups of cases"
        raise DatasetError(
            f"Cross-validation needs two {what} or more; the dataset has {len(names)}. Train with fold 'all'."
        )
    folds = KFold(n_splits=min(FOLDS, len(names)), shuffle=True, random_state=SPLIT_SEED)
    return tuple(
        Split(train=_members(names[train].tolist(), groups), val=_members(names[val].tolist(), groups))
        for train, val in folds.split(names)
    )


def _members(names: Sequence[str], groups: Mapping[str, str]) -> tuple[str, ...]:
    taken = set(names)
    return tuple(sorted(name for name, group in groups.items() if group in taken))


def load_or_make_splits(
    folder: Path, identifiers: Sequence[str], raw_folder: Path | None = None, groups: Mapping[str, str] | None = None
) -> tuple[Split, ...]:
    """Read a preprocessed folder's splits_final.json; where absent, copy the raw folder's or make it by nnU-Net's rule.

    The file is nnU-Net's, so a fold may hold further keys beside train and val.
    """
    path = folder / SPLITS_FILE
    if not path.is_file():
        given = None if raw_folder is None else raw_folder / SPLITS_FILE
        if given is not None and given.is_file():
            read_splits(given)
            write_json(path, read_json(given))
        else:
            write_json(path, make_splits(identifiers, groups))
    return read_splits(path)


def new_cases(folder: Path, identifiers: Sequence[str]) -> tuple[str, ...]:
    """Return the cases, sorted, that a preprocessed folder's splits file has in no fold; none without a file."""
    path = folder / SPLITS_FILE
    if not path.is_file():
        return ()
    return tuple(
        sorted(set(identifiers) - {name for split in read_splits(path) for name in (*split.train, *split.val)})
    )


def add_new_cases(folder: Path, identifiers: Sequence[str], groups: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Put the cases that a splits file does not know into its folds, and return them; what is in it stays where it is.

    A new case validates in one fold and trains in the others: in the fold that validates its group, for a new group in
    the one with the fewest validation cases. Where the file has one fold only, or trains on the group in every fold,
    the case trains everywhere.
    """
    added = new_cases(folder, identifiers)
    if not added:
        return ()
    folds = read_json(folder / SPLITS_FILE)
    group_of = groups or {name: name for name in identifiers}
    for name in added:
        mates = {other for other in identifiers if group_of[other] == group_of[name]}
        validating = next((fold for fold in folds if mates & {*fold["val"]}), None)
        if validating is None and len(folds) > 1 and not any(mates & {*fold["train"]} for fold in folds):
            validating = min(folds, key=lambda fold: len(fold["val"]))
        for fold in folds:
            fold["val" if fold is validating else "train"].append(name)
    write_json(folder / SPLITS_FILE, folds)
    return added


def read_splits(path: Path) -> tuple[Split, ...]:
    """Read a splits_final.json; raises ConfigError, or DatasetError where a name is none of a case."""
    raw = read_json(path)
    if isinstance(raw, list):
        raw = [
            {key: fold[key] for key in ("train", "val") if key in fold} if isinstance(fold, dict) else fold
            for fold in raw
        ]
    splits = decode(tuple[Split, ...], raw, str(path))
    for number, split in enumerate(splits):
        for name, count in Counter((*split.train, *split.val)).items():
            check_case_name(name, path)
            if count > 1:
                where = (
                    "in training and in validation" if name in split.train and name in split.val else f"{count} times"
                )
                raise ConfigError(
                    f"{path}: fold {number} has the case '{name}' {where}; leave it once. To train on all cases, give "
                    "fold 'all'."
                )
    return splits


def split_for_fold(
    folder: Path,
    identifiers: Sequence[str],
    fold: str,
    *,
    raw_folder: Path | None = None,
    groups: Mapping[str, str] | None = None,
) -> Split:
    """Return the cases of a fold: "all" trains and validates on everything.

    A fold number beyond the file's folds gives nnU-Net's random 80:20 split, seeded by the fold.

    Args:
        groups: see `make_splits`.

    Raises:
        ConfigError: the fold is neither "all" nor a number.
        DatasetError: the file names cases that are not preprocessed, a fold without cases, or one with a group in both
            halves.
    """
    if fold == "all":
        return Split(train=tuple(sorted(identifiers)), val=tuple(sorted(identifiers)))
    if re.fullmatch("[0-9]{1,6}", fold) is None:
        raise ConfigError(f"Fold must be a number from 0 up, or 'all'; got '{fold}'.")
    splits = load_or_make_splits(folder, identifiers, raw_folder, groups)
    if int(fold) >= len(splits):
        there = f"folds 0 to {len(splits) - 1}" if len(splits) > 1 else "fold 0"
        text = "%s has %s, so that for fold %s a random 80 %% of the cases train, and the others validate."
        logger.info(text, folder / SPLITS_FILE, there, fold)
        group_of = groups or {name: name for name in identifiers}
        names = np.sort(list(set(group_of.values())))
        train = np.random.RandomState(SPLIT_SEED + int(fold)).choice(len(names), int(len(names) * 0.8), replace=False)
        split = Split(
            train=_members(names[train].tolist(), group_of), val=_members(np.delete(names, train).tolist(), group_of)
        )
    else:
        split = splits[int(fold)]
    unknown = sorted((set(split.train) | set(split.val)) - set(identifiers))
    if unknown:
        raise DatasetError(
            f"{folder / SPLITS_FILE}: fold {fold} names {counted(len(unknown), 'case')} without preprocessed data, "
            f"first '{unknown[0]}'. Preprocess again, or correct the file."
        )
    both = sorted({groups[name] for name in split.train} & {groups[name] for name in split.val}) if groups else []
    if both:
        raise DatasetError(
            f"{folder / SPLITS_FILE}: fold {fold} has {counted(len(both), 'group')} in training and in validation, "
            "first "
            f"'{both[0]}'. Correct it, or remove it, and any in the raw folder, to have it made again with the groups "
            "of dataset.json."
        )
    if not split.train or not split.val:
        raise DatasetError(
            f"{folder / SPLITS_FILE}: fold {fold} has {len(split.train)} training and {len(split.val)} validation "
            "cases; it needs both."
        )
    return split
