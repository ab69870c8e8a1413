"""Sizes and numbers of things as people read them."""

from __future__ import annotations

BYTE_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def readable(amount: float) -> str:
    """Write a number of bytes with three digits in a unit that fits: "352 bytes", "24.5 MiB", "1.5 GiB"."""
    exponent = max(0, min(len(BYTE_UNITS) - 1, (int(abs(amount)).bit_length() - 1) // 10))
    value = amount / 1024**exponent
    return f"{value:{'.0f' if abs(value) >= 100 or not exponent else '.3g'}} {BYTE_UNITS[exponent]}"


def counted(number: int, thing: str) -> str:
    """Write a number of things: "1 case", "3 cases"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
