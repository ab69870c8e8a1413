"""What the integers in a label file mean, as nnU-Net's dataset.json states it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from samunet.errors import DatasetError

IGNORE_NAME = "ignore"  # nnU-Net's reserved key
BACKGROUND_NAME = "background"
SIDES = {"left": "left", "l": "left", "lh": "left", "right": "right", "r": "right", "rh": "right"}

Named = tuple[str, tuple[int, ...]]
"""Name of a class or region, and its label values."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Names and values of classes, or of regions that unite several label values.

    Classes get one softmax channel each (background first); regions one sigmoid channel each, background none.
    """

    values: tuple[tuple[str, tuple[int, ...]], ...]
    """(name, label values) in the order of dataset.json, background first, the ignore label left out."""
    ignore: int | None = None
    """Label value that marks voxels without annotation; one above all others."""
    regions_order: tuple[int, ...] = ()
    """For regions: the value written for each region in turn, later ones over earlier ones; empty for classes."""

    @property
    def has_regions(self) -> bool:
        return bool(self.regions_order)

    @property
    def all_values(self) -> tuple[int, ...]:
        """Sorted label values that may be predicted, background included."""
        return tuple(sorted({value for _, values in self.values for value in values}))

    @property
    def foreground(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """(name, label values) of every class or region except background."""
        return tuple((name, values) for name, values in self.values if values != (0,))

    @property
    def channels(self) -> tuple[Named, ...]:
        """(name, label values) of what each output channel but background's is for."""
        return self.foreground if self.has_regions else tuple(sorted(self.foreground, key=lambda named: named[1]))

    @property
    def outputs(self) -> int:
        """Number of network output channels."""
        return len(self.foreground) if self.has_regions else len(self.all_values)

    @property
    def expected_in_files(self) -> tuple[int, ...]:
        """Every value a label file may hold, the ignore label included."""
        return self.all_values + (() if self.ignore is None else (self.ignore,))

    def segmentation_dtype(self) -> type[np.unsignedinteger]:
        """Return the smallest unsigned type that holds every value (nnU-Net: uint8 below 255 classes)."""
        return np.uint8 if max(self.all_values) < 255 else np.uint16


def parse_labels(raw: Mapping[str, object], regions_order: object = None) -> Labels:
    """Read the `labels` and `regions_class_order` entries of a dataset.json.

    Raises:
        DatasetError: background is missing or not 0, values are not consecutive, the ignore label is not the highest,
            or regions come without a class order of the right length.
    """
    values: list[tuple[str, tuple[int, ...]]] = []
    ignore: int | None = None
    for name, value in raw.items():
        parts = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if not parts or not all(isinstance(part, int) and not isinstance(part, bool) and part >= 0 for part in parts):
            raise DatasetError(
                f"dataset.json: label '{name}' must be a whole number from 0 up, or a list of them; got {value!r}. "
                'The form is name: value, e.g. "liver": 1.'
            )
        if name == IGNORE_NAME:
            if len(parts) != 1:
                raise DatasetError(f"dataset.json: the ignore label must be one number; got {value!r}.")
            ignore = parts[0]
        else:
            values.append((name, parts))
    if dict(values).get(BACKGROUND_NAME) != (0,):
        raise DatasetError('dataset.json: labels must contain "background": 0; add it, and give every structure a value from 1 up.')
    values.sort(key=lambda item: item[1] != (0,))  # background first, the others keep their order
    known = sorted({part for _, parts in values for part in parts})
    if known != list(range(len(known))):
        raise DatasetError(f"dataset.json: label values must be consecutive from 0; got {known}. Renumber the labels and the label files.")
    if len(known) < 2:
        raise DatasetError("dataset.json: labels name nothing but background; add at least one structure.")
    if ignore is not None and ignore != known[-1] + 1:
        raise DatasetError(f"dataset.json: the ignore label must be {known[-1] + 1}, one above all others; got {ignore}.")
    return Labels(values=tuple(values), ignore=ignore, regions_order=_regions_order(values, regions_order))


def left_right_pairs(labels: Labels) -> tuple[tuple[Named, Named], ...]:
    """Return the (left, right) pairs among the foreground: names that differ only in a word for the side, as kidney_left and kidney_right."""
    found: dict[tuple[str, ...], dict[str, Named]] = {}
    for name, values in labels.foreground:
        words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W_A-Za-z\d]+", name)]
        sides = [SIDES[word] for word in words if word in SIDES]
        if len(sides) == 1:
            found.setdefault(tuple("" if word in SIDES else word for word in words), {})[sides[0]] = (name, values)
    return tuple((pair["left"], pair["right"]) for pair in found.values() if len(pair) == 2)


def _regions_order(values: list[tuple[str, tuple[int, ...]]], raw: object) -> tuple[int, ...]:
    if not any(len(parts) > 1 for _, parts in values):
        return ()
    expected = sum(parts != (0,) for _, parts in values)
    if not isinstance(raw, (list, tuple)) or len(raw) != expected or not all(isinstance(part, int) for part in raw):
        raise DatasetError(
            f"dataset.json: labels hold regions, so regions_class_order must list {expected} label values, one for each region in turn; got {raw!r}."
        )
    unknown = sorted(set(raw) - {part for _, parts in values for part in parts})
    if unknown:
        raise DatasetError(
            f"dataset.json: regions_class_order holds {unknown}, which no label has; it lists the values that are written for the regions."
        )
    return tuple(raw)
