import pytest

from samunet.core.units import counted, readable


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 bytes"),
        (352, "352 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (25_690_112, "24.5 MiB"),
        (300 * 2**20, "300 MiB"),
        (1023.6 * 2**20, "1024 MiB"),
        (1.5 * 2**30, "1.5 GiB"),
        (3 * 2**40, "3 TiB"),
        (5000 * 2**40, "5000 TiB"),
    ],
)
def test_a_size_has_three_digits_whatever_it_is(amount, text):
    assert readable(amount) == text


def test_one_thing_is_singular():
    assert [counted(number, "case") for number in (0, 1, 2)] == ["0 cases", "1 case", "2 cases"]
