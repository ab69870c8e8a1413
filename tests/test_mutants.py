"""The list of mutants does not rot: each old text still stands where it says, and its tests are there."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, fault_of


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: one.name)
def test_a_mutants_line_stands_in_its_file_once_and_its_tests_are_there(one):
    assert fault_of(one) is None


def test_mutants_are_sixty_or_more_and_none_is_listed_twice():
    assert len(MUTANTS) >= 60
    assert len({one.name for one in MUTANTS}) == len({(one.file, one.old, one.new) for one in MUTANTS}) == len(MUTANTS)
    assert all(one.old != one.new and one.why.endswith(".") for one in MUTANTS)
