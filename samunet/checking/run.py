"""Check a raw dataset: one pass over all files, all findings at once."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from samunet.checking.across import check_across, join_label_values
from samunet.checking.case import CheckedCase, check_case
from samunet.checking.files import list_cases
from samunet.checking.findings import ERROR, Finding
from samunet.core.dataset import Case, DatasetSpec, read_dataset_json
from samunet.core.memory import Room
from samunet.core.units import counted
from samunet.errors import MOST_FAULTS, DatasetError, SamunetError
from samunet.imageio import ImageReader, reader_for
from samunet.imageio.case import peek_case
from samunet.machine.progress import each
from samunet.planning.splits import SPLITS_FILE, groups_from, likely_groups, make_splits, parted, read_splits

TOO_LARGE = "too-large"
# Bytes per voxel beside image and label: the label's values, sorted; each channel as it is hashed.
SORTED_BYTES, HASHED_BYTES = (16, 4)


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """Everything that was found in one dataset."""

    dataset: str
    cases: tuple[Case, ...]
    """Cases that could be listed, sorted by identifier."""
    findings: tuple[Finding, ...]
    """Findings on the dataset first, then case by case."""
    spec: DatasetSpec | None
    """The content of dataset.json; None where it cannot be read."""
    reader: ImageReader | None

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == ERROR)

    def of_case(self, identifier: str) -> tuple[Finding, ...]:
        """Return the findings of a case, those of several cases included; of "" those of no single case."""
        return tuple(finding for finding in self.findings if finding.case == identifier or identifier in finding.cases)

    def lines(self) -> list[str]:
        """Return one line a finding, of several cases too, and one for each case without any."""
        own = [_line(finding) for finding in self.of_case("")]
        listed = {case.identifier for case in self.cases} | {finding.case for finding in self.findings}
        for name in sorted(listed - {""}):
            found = self.of_case(name)
            own += [_line(finding) for finding in found if finding.case == name] if found else [f"ok       {name}"]
        return own

    @property
    def warnings(self) -> int:
        return len(self.findings) - len(self.errors)

    @property
    def clean(self) -> int:
        """Number of cases without a finding."""
        faulty = {name for finding in self.findings for name in (finding.case, *finding.cases)}
        return sum(case.identifier not in faulty for case in self.cases)

    def summary(self) -> str:
        counts = f"{counted(len(self.errors), 'error')}, {counted(self.warnings, 'warning')}"
        return f"{self.dataset}: {counted(len(self.cases), 'case')}, {self.clean} of them without findings; {counts}."

    def as_json(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "cases": len(self.cases),
            "findings": [finding.as_json() for finding in self.findings],
        }

    def refuse_errors(self) -> None:
        """Raise DatasetError with the first errors, one line each, if there are any."""
        if self.errors:
            shown = [
                f"{self.dataset} has {counted(len(self.errors), 'error')}:",
                *map(_line, self.errors[:MOST_FAULTS]),
            ]
            if (more := len(self.errors) - MOST_FAULTS) > 0:
                shown.append(f"... and {more} more (samunet_check_dataset lists all)")
            raise DatasetError("\n".join(shown))


def check_dataset(folder: Path, *, threads: int, quiet: bool = False) -> CheckReport:
    """Check every file of a dataset's training cases.

    Args:
        folder: DatasetXXX_Name in the raw folder.
        threads: cases read at a time.
    """
    try:
        spec = read_dataset_json(folder / "dataset.json")
    except SamunetError as error:
        finding = Finding("", "dataset.json", "dataset-json", str(error))
        return CheckReport(dataset=folder.name, cases=(), findings=(finding,), spec=None, reader=None)
    cases, findings = list_cases(folder, spec)
    findings += _split_faults(folder, spec, cases)
    reader = None
    if cases:
        try:
            reader = _choose_reader(spec, cases)
        except SamunetError as error:
            findings.append(Finding("", "dataset.json", "dataset-json", str(error)))
    if reader is not None:
        check = partial(_checked, spec=spec, reader=reader, folder=folder, room=Room())
        opened = each(check, cases, threads=threads, title="Checking cases", quiet=quiet)
        findings += [*join_label_values(opened, spec.labels.expected_in_files), *check_across(opened)]
    findings.sort(key=lambda finding: finding.case)
    return CheckReport(dataset=folder.name, cases=tuple(cases), findings=tuple(findings), spec=spec, reader=reader)


def _split_faults(folder: Path, spec: DatasetSpec, cases: Sequence[Case]) -> list[Finding]:
    """Find what is wrong with `groups` of dataset.json and with a splits file of the dataset's own."""
    faults, names = [], [case.identifier for case in cases]
    if "groups" not in spec.raw and (expression := likely_groups(names)):
        faults.append(_patients(folder, names, expression))
    try:
        groups_from(spec.raw.get("groups"), names)
    except SamunetError as error:
        faults.append(Finding("", "dataset.json", "dataset-json", str(error)))
    if (folder / SPLITS_FILE).is_file():
        try:
            named = {name for split in read_splits(folder / SPLITS_FILE) for name in (*split.train, *split.val)}
            if unknown := sorted(named - set(names)):
                faults.append(
                    Finding(
                        "",
                        SPLITS_FILE,
                        "splits",
                        f"It names {counted(len(unknown), 'case')} that are not there: {unknown[:3]}.",
                    )
                )
        except SamunetError as error:
            faults.append(Finding("", SPLITS_FILE, "splits", str(error)))
    return faults


def _patients(folder: Path, names: Sequence[str], expression: str) -> Finding:
    """Say what leaks where several cases are of one patient."""
    groups = groups_from(expression, names) or {}
    try:
        splits = read_splits(folder / SPLITS_FILE) if (folder / SPLITS_FILE).is_file() else make_splits(names)
        leaking, validating = parted(splits, groups)
    except SamunetError:  # a finding of its own, or too few cases to split
        leaking, validating = 0, 0
    example = next(group for group in groups.values() if sum(group == other for other in groups.values()) > 1)
    members = [name for name, group in groups.items() if group == example][:2]
    message = (
        f"The names look like several cases of one patient, as {members[0]} and {members[1]} of {example}: "
        f"{len(set(groups.values()))} patients in {counted(len(names), 'case')}. In a fold as nnU-Net splits, "
        f"{leaking} of {validating} validation cases have another of their patient in training, "
        f'which makes scores too good. If so, write into dataset.json: "groups": {json.dumps(expression)}'
    )
    return Finding("", "dataset.json", "patients", message)


def _choose_reader(spec: DatasetSpec, cases: Sequence[Case]) -> ImageReader:
    """Choose by the first image that some reader opens; where none opens, by the ending."""
    for case in cases:
        try:
            return reader_for(spec.file_ending, spec.reader, case.images[0])
        except Exception:  # whatever a damaged file makes a library raise is named when the case is checked
            continue
    return reader_for(spec.file_ending, spec.reader)


def _checked(case: Case, spec: DatasetSpec, reader: ImageReader, folder: Path, room: Room) -> CheckedCase:
    """Check a case; whatever a damaged file makes a library raise is a finding too, and the other cases go on."""
    try:
        with room.of(_bytes(case, spec, reader), case.identifier):
            return check_case(case, spec, reader, folder)
    except Exception as error:
        code, message = "unreadable", f"The case cannot be read: {type(error).__name__}: {error}."
        if isinstance(error, DatasetError) and error.code == TOO_LARGE:
            code, message = TOO_LARGE, str(error)
        return CheckedCase(identifier=case.identifier, findings=(Finding(case.identifier, "", code, message),))


def _bytes(case: Case, spec: DatasetSpec, reader: ImageReader) -> int:
    """Return what checking a case takes at most; 0 where headers do not tell, which the check finds."""
    try:
        size = peek_case(case, spec, reader)
    except DatasetError:
        return 0
    return size.reading + (SORTED_BYTES + HASHED_BYTES * len(spec.channels)) * math.prod(size.geometry.shape)


def _line(finding: Finding) -> str:
    where = " ".join(part for part in (finding.case, finding.file) if part)
    return f"{finding.severity:<8} {where}  {finding.code}: {finding.message}"


def worst_cases(report: CheckReport, count: int) -> list[Case]:
    """Return the cases with most errors, then most findings, that have any."""
    weight = {case.identifier: _weight(report.of_case(case.identifier)) for case in report.cases}
    bad = [case for case in report.cases if weight[case.identifier] > (0, 0)]
    return sorted(bad, key=lambda case: weight[case.identifier], reverse=True)[:count]


def _weight(findings: Sequence[Finding]) -> tuple[int, int]:
    return sum(finding.severity == ERROR for finding in findings), len(findings)
