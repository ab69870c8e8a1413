"""Whatever is done to a file, it is refused by name or read as an independent program reads it.

The slow tier makes 10,000 damaged files per format: `pytest -m slow tests/imageio/test_fuzz.py`.
"""

from __future__ import annotations

import logging

import fuzz
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FORMATS = fuzz.formats()


@pytest.fixture(autouse=True)
def quiet(caplog):
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # it logs every tag that it cannot read
    yield
    logging.getLogger("tifffile").setLevel(logging.NOTSET)


@pytest.mark.parametrize("name", FORMATS)
def test_sound_files_are_read_as_other_programs_read_them(name):
    format = FORMATS[name]
    assert fuzz.outcome(format, format.sound[0]) == "equal"


@pytest.mark.parametrize("name", FORMATS)
def test_a_few_damaged_files_are_refused_by_name_or_read_right(name):
    count = 8 if name == "DICOM" else 40
    assert fuzz.tally(FORMATS[name], count, seed=1).total() == count


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_many_damaged_files_are_refused_by_name_or_read_right(name):
    @settings(max_examples=10_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def check(draw):
        fuzz.outcome(FORMATS[name], FORMATS[name].damaged(draw))

    check()
