"""Compare the cases of a dataset with each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from samunet.checking.case import CheckedCase
from samunet.checking.findings import Finding
from samunet.core.geometry import turn_between, unit_of
from samunet.core.units import counted

LEAST_CASES = 5  # fewer say nothing about what a channel usually looks like
# Channels count as swapped when that brings them this much nearer to the others' channels, of the distance as they
# stand.
CLEARLY_NEARER = 0.5
ODD = 3.0  # times more or less than the median case: spacing and size of a case that stands out
ODD_INTENSITIES = 10.0  # likewise of the width of the intensities; scanners differ in gain
FEW = 0.05  # share of cases up to which intensities stand out; more are another kind of image
SPREADS = 6.0  # and this many spreads of the dataset away, for datasets that vary
FAR_SPREADS = 3.0  # and when they stand more than this many spreads of the dataset away, and would be within it


def check_across(cases: Sequence[CheckedCase]) -> list[Finding]:
    """Find images that are there twice, cases that stand out, and channels that seem to have changed places."""
    swapped = _channel_order(cases)
    explained = {finding.case for finding in swapped}
    intensities = [finding for finding in _intensities(cases) if finding.case not in explained]
    return [*_duplicates(cases), *_dimensions(cases), *_orientations(cases), *_grids(cases), *intensities, *swapped]


def _duplicates(cases: Sequence[CheckedCase]) -> list[Finding]:
    first: dict[str, tuple[str, str]] = {}
    findings = []
    for case in cases:
        for file, digest in case.sha256:
            if digest in first:
                other_case, other_file = first[digest]
                code = "duplicate-channel" if other_case == case.identifier else "duplicate-image"
                message = f"Every voxel equals that of {other_file} of case '{other_case}'."
                findings.append(Finding(case.identifier, file, code, message))
            else:
                first[digest] = (case.identifier, file)
    return findings


def _dimensions(cases: Sequence[CheckedCase]) -> list[Finding]:
    kinds = Counter(case.planar for case in cases if case.planar is not None)
    if len(kinds) < 2:
        return []
    usual = kinds.most_common(1)[0][0]
    message = f"The images are {'3D' if usual else '2D'}, those of most cases {'2D' if usual else '3D'}."
    return [
        Finding(case.identifier, "", "mixed-dimensions", message)
        for case in cases
        if case.planar is not None and case.planar != usual
    ]


def _orientations(cases: Sequence[CheckedCase]) -> list[Finding]:
    placed = [
        (case, case.geometry.orientation[::-1])
        for case in cases
        if case.geometry and case.geometry.directed and not case.geometry.planar
    ]
    counts = Counter(orientation for _, orientation in placed).most_common()
    if not counts or 2 * counts[0][1] <= len(placed):
        return []  # a dataset of many kinds
    return [
        Finding(
            case.identifier,
            "",
            "odd-orientation",
            f"The file's axes x, y, z run toward {own}, those of {counts[0][1]} of {counted(len(placed), 'case')} "
            f"toward {counts[0][0]}.",
        )
        for case, own in placed
        if own != counts[0][0]
    ]


def _grids(cases: Sequence[CheckedCase]) -> list[Finding]:
    """Compare spacing and size with the median case, on the axes of the most usual orientation."""
    grids = [(case, case.geometry) for case in cases if case.geometry is not None]
    if len(grids) < LEAST_CASES or len({geometry.planar for _, geometry in grids}) > 1:
        return []
    usual = Counter(geometry.orientation for _, geometry in grids).most_common(1)[0][0]
    orders = [list(turn_between(geometry.orientation, usual)[0]) for _, geometry in grids]
    measured = all(geometry.measured for _, geometry in grids)  # else all are compared in pixels or voxels
    unsized = np.ones(3)
    spacings = np.array(
        [
            (np.array(geometry.spacing) if measured else unsized)[order]
            for (_, geometry), order in zip(grids, orders, strict=True)
        ]
    )
    sizes = spacings * [np.array(geometry.shape)[order] for (_, geometry), order in zip(grids, orders, strict=True)]
    if grids[0][1].planar:
        spacings, sizes = spacings[:, 1:], sizes[:, 1:]
    findings = []
    odd_spacings = _standing_out(spacings, ODD)
    for (case, _), spacing, size, odd_spacing, odd_size in zip(
        grids, spacings, sizes, odd_spacings, _standing_out(sizes, ODD), strict=True
    ):
        what, own, median = ("Spacing", spacing, spacings) if odd_spacing else ("Size", size, sizes)
        if odd_spacing or odd_size:
            unit = unit_of(measured, grids[0][1].planar)
            message = (
                f"{what} {_lengths(own)} {unit}, that of the median case is {_lengths(np.median(median, axis=0))} "
                f"{unit}."
            )
            findings.append(Finding(case.identifier, "", f"odd-{what.lower()}", message))
    return findings


def _intensities(cases: Sequence[CheckedCase]) -> list[Finding]:
    """Compare each channel's quartiles with the others': their place and spread; a case's first channel is named."""
    findings: dict[str, Finding] = {}
    for channel in range(max((len(case.quartiles) for case in cases), default=0)):
        having = [case for case in cases if len(case.quartiles) > channel]
        quartiles = np.array([case.quartiles[channel] for case in having])  # (cases, 3)
        if len(having) < LEAST_CASES:
            continue
        widths = np.maximum(quartiles[:, 2] - quartiles[:, 0], 1e-6 * np.abs(quartiles).max(axis=1) + 1e-12)
        middle, usual = np.median(quartiles[:, 1]), np.median(widths)
        distances = np.abs(quartiles[:, 1] - middle)
        moved = distances > max(ODD_INTENSITIES * float(usual), SPREADS * float(np.median(distances)))
        odd = moved | _standing_out(widths[:, None], ODD_INTENSITIES)
        if odd.sum() > max(1, FEW * len(having)):
            continue  # scanners or stains of several kinds
        for case, own, stands_out in zip(having, quartiles, odd, strict=True):
            if stands_out:
                low, center, high = np.median(quartiles, axis=0)
                where = f"Intensities of channel {channel}" if len(case.quartiles) > 1 else "Intensities"
                message = (
                    f"{where} have the quartiles {own[0]:.4g}, {own[1]:.4g}, {own[2]:.4g}; the median case {low:.4g}, "
                    f"{center:.4g}, {high:.4g}."
                )
                findings.setdefault(case.identifier, Finding(case.identifier, "", "odd-intensities", message))
    return list(findings.values())


def _standing_out(values: np.ndarray, factor: float) -> np.ndarray:
    """Tell which of (cases, n) positive values lie `factor` times and some spreads from the median case."""
    logs = np.log(values)
    middle = np.median(logs, axis=0)
    spread = np.median(np.abs(logs - middle), axis=0)
    return (np.abs(logs - middle) > np.maximum(np.log(factor), SPREADS * spread)).any(axis=1)


def _lengths(values: np.ndarray) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _channel_order(cases: Sequence[CheckedCase]) -> list[Finding]:
    """Match each case's channels to the dataset's by the quartiles of their intensities."""
    comparable = [case for case in cases if case.quartiles]
    usual = Counter(len(case.quartiles) for case in comparable).most_common(1)
    if not usual or usual[0][0] < 2:
        return []
    comparable = [case for case in comparable if len(case.quartiles) == usual[0][0]]
    if len(comparable) < LEAST_CASES:
        return []
    quartiles = np.array([case.quartiles for case in comparable])  # (cases, channels, 3)
    # Scanners differ in gain from case to case.
    quartiles /= np.maximum(np.abs(quartiles).mean(axis=(1, 2), keepdims=True), 1e-6)
    center = np.median(quartiles, axis=0)
    spread = np.median(np.abs(quartiles - center), axis=0)
    spread = np.maximum(spread, 1e-3 * np.abs(center) + 1e-6)
    findings = []
    for case, own in zip(comparable, quartiles, strict=True):
        distances = (np.abs(own[:, None] - center) / spread).mean(axis=2)  # own channel against the dataset's
        rows, columns = linear_sum_assignment(distances)
        standing, best = distances.trace() / len(own), distances[rows, columns].mean()
        if standing > FAR_SPREADS > best and best < CLEARLY_NEARER * standing:
            moved = ", ".join(
                f"{row:04d} looks like {column:04d}" for row, column in zip(rows, columns, strict=True) if row != column
            )
            message = (
                f"By their intensities channel {moved} of the other cases ({standing:.1f} spreads away as they stand, "
                f"{best:.1f} if swapped)."
            )
            findings.append(Finding(case.identifier, "", "channel-order", message))
    return findings


def join_label_values(cases: Sequence[CheckedCase], expected: Sequence[int]) -> list[Finding]:
    """Return the findings of all cases, those of labels with the same unexpected values as one, with one remedy.

    Args:
        expected: values that dataset.json names.
    """
    alike = Counter(case.unexpected for case in cases if case.unexpected)
    findings = [
        finding
        for case in cases
        for finding in case.findings
        if finding.code != "label-values" or alike[case.unexpected] <= 1
    ]
    for values, count in alike.items():
        if count > 1:
            having = tuple(case.identifier for case in cases if case.unexpected == values)
            message = (
                f"{counted(count, 'label file')}, the first of case '{having[0]}', hold the values {list(values[:5])}; "
                f"dataset.json names {list(expected)}."
            )
            if values == (255,) and len(expected) == 2:
                message += (
                    " 255 may stand for 1, as in pictures of masks: samunet_import with --map_labels 255=1 writes "
                    "copies with 1."
                )
            findings.append(Finding("", "labelsTr", "label-values", message, having))
    return findings
