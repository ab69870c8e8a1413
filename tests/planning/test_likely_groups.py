"""Patients in the names of cases."""

from __future__ import annotations

import pytest

from samunet.planning.splits import Split, groups_from, likely_groups, make_splits, parted


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        ([f"patient{p:03d}_frame{f:02d}" for p in range(35) for f in (1, 8)], 35),
        ([f"{p:03d}_{heart}" for p in range(10) for heart in ("HC", "2HC")], 10),
        ([f"sub-{p:02d}_ses-{s}_T1w" for p in range(6) for s in "12"], 6),
        ([f"scan_{p:03d}_{s}" for p in range(6) for s in range(3)], 6),
        ([f"p{p:02d}_slice{s:03d}" for p in range(8) for s in range(40)], 8),
        ([f"hippocampus_{i:03d}" for i in range(50)], None),
        ([f"BraTS20_Training_{i:03d}" for i in range(50)], None),
        ([f"site{s}_{i:03d}" for s in range(3) for i in range(40)], None),
        ([f"s{i:04d}_ct" for i in range(30)], None),
        ([f"{i:016x}" for i in range(30)], None),
        (["a_1"], None),
    ],
)
def test_patients_are_seen_and_numbers_of_cases_are_not(names, patients):
    expression = likely_groups(names)
    assert (None if expression is None else len(set(groups_from(expression, names).values()))) == patients


def test_what_leaks_is_counted_and_nothing_leaks_with_the_groups():
    names = [f"patient{p:03d}_frame{f:02d}" for p in range(35) for f in (1, 8)]
    groups = groups_from(likely_groups(names), names)
    leaking, validating = parted(make_splits(names), groups)
    assert validating == 14 and leaking >= 10
    assert parted(make_splits(names, groups), groups) == (0, 14)
    assert parted([Split(train=("a",), val=("b", "c"))], {"a": "x", "b": "x", "c": "y"}) == (1, 2)
