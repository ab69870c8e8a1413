"""Compare the cases of a dataset with each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from samunet.checking.case import CheckedCase
from samunet.checking.findings import Finding

LEAST_CASES = 5  # fewer say nothing about what a channel usually looks like
CLEARLY_NEARER = 0.5  # channels count as swapped when that brings them this much nearer to the others' channels, of the distance as they stand
FAR = 3.0  # and when they stand more than this many spreads of the dataset away, and would be within it


def check_across(cases: Sequence[CheckedCase]) -> list[Finding]:
    """Find images that are there twice, cases of another dimension than most, and channels that seem to have changed places."""
    return [*_duplicates(cases), *_dimensions(cases), *_channel_order(cases)]


def _duplicates(cases: Sequence[CheckedCase]) -> list[Finding]:
    first: dict[str, tuple[str, str]] = {}
    findings = []
    for case in cases:
        for file, digest in case.sha256:
            if digest in first:
                other_case, other_file = first[digest]
                code = "duplicate-channel" if other_case == case.identifier else "duplicate-image"
                message = f"Every voxel equals that of {other_file} of case '{other_case}'."
                findings.append(Finding(case=case.identifier, file=file, code=code, message=message))
            else:
                first[digest] = (case.identifier, file)
    return findings


def _dimensions(cases: Sequence[CheckedCase]) -> list[Finding]:
    kinds = Counter(case.planar for case in cases if case.planar is not None)
    if len(kinds) < 2:
        return []
    usual = kinds.most_common(1)[0][0]
    own, other = ("2D", "3D") if not usual else ("3D", "2D")
    message = f"The images are {own}, those of most cases {other}."
    return [
        Finding(case=case.identifier, file="", code="mixed-dimensions", message=message)
        for case in cases
        if case.planar is not None and case.planar != usual
    ]


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
    quartiles /= np.maximum(np.abs(quartiles).mean(axis=(1, 2), keepdims=True), 1e-6)  # scanners differ in gain from case to case
    center = np.median(quartiles, axis=0)
    spread = np.median(np.abs(quartiles - center), axis=0)
    spread = np.maximum(spread, 1e-3 * np.abs(center) + 1e-6)
    findings = []
    for case, own in zip(comparable, quartiles, strict=True):
        distances = (np.abs(own[:, None] - center) / spread).mean(axis=2)  # own channel against the dataset's
        rows, columns = linear_sum_assignment(distances)
        standing, best = distances.trace() / len(own), distances[rows, columns].mean()
        if standing > FAR > best and best < CLEARLY_NEARER * standing:
            moved = ", ".join(f"{row:04d} looks like {column:04d}" for row, column in zip(rows, columns, strict=True) if row != column)
            message = f"By their intensities channel {moved} of the other cases ({standing:.1f} spreads away as they stand, {best:.1f} if swapped)."
            findings.append(Finding(case=case.identifier, file="", code="channel-order", message=message))
    return findings
