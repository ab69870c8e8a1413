"""What values in our files may be, said once, beside their types: `Annotated[int, Within(1, 100)]`.

`samunet.core.codec.decode` compares what it reads with these; dataclasses that are also made from options call
`check_ranges`. The bounds are wide: far beyond what planning gives, and well within what arithmetic and memory
addresses hold.
"""

from __future__ import annotations

import math
import re
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from samunet.errors import ConfigError


class Rule(Protocol):
    """What a value must be besides its type."""

    @property
    def expected(self) -> str:
        """What follows "must be" and "expected" in messages."""

    def fits(self, value: Any) -> bool:
        """Tell whether a value of the right type is allowed."""


@dataclass(frozen=True)
class Within:
    """A number from `low` to `high`, both included unless `above` leaves out the first or `below` the second."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    @property
    def expected(self) -> str:
        if math.isinf(self.high):
            return f"above {self.low:.15g}" if self.above else f"{self.low:.15g} or more"
        if self.above or self.below:
            return f"in {'(['[not self.above]}{self.low:.15g}, {self.high:.15g}{')]'[not self.below]}"
        return f"from {self.low:.15g} to {self.high:.15g}"

    def fits(self, value: Any) -> bool:
        return bool(
            math.isfinite(value)
            and (value > self.low or (value == self.low and not self.above))
            and (value < self.high or (value == self.high and not self.below))
        )


@dataclass(frozen=True, init=False)
class OneOf:
    """One of some words."""

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)

    @property
    def expected(self) -> str:
        return f"one of {', '.join(self.words)}"

    def fits(self, value: Any) -> bool:
        return value in self.words


@dataclass(frozen=True)
class Form:
    """Text that a regular expression describes as a whole."""

    pattern: str
    expected: str

    def fits(self, value: Any) -> bool:
        return re.fullmatch(self.pattern, value) is not None


MOST = 2**31 - 1
Count = Annotated[int, Within(0, MOST)]
Positive = Annotated[int, Within(1, MOST)]
LabelValue = Annotated[int, Within(0, 65535)]
Axis = Annotated[int, Within(0, 2)]
Millimetres = Annotated[float, Within(1e-9, 1e9)]
Spacing = tuple[Millimetres, Millimetres, Millimetres]
"""(D, H, W) in mm."""
Voxels = tuple[Positive, Positive, Positive]
"""(D, H, W)."""
Real = Annotated[float, Within(-3e38, 3e38)]
"""What float32 holds."""
Share = Annotated[float, Within(0, 1)]
Orientation = Annotated[
    str, Form("(?=.*[LR])(?=.*[AP])(?=.*[IS])[LRAPIS]{3}", "three letters, one each of L or R, A or P, I or S")
]
Sha256 = Annotated[str, Form("[0-9a-f]{64}", "64 hexadecimal digits")]


def check_ranges(value: Any, what: str) -> None:
    """Compare the fields of a dataclass with their rules, those within tuples excepted; raises ConfigError where one
    does not fit.

    Args:
        what: the fields are, e.g. "Training setting".
    """
    for name, hint in typing.get_type_hints(type(value), include_extras=True).items():
        for rule in getattr(hint, "__metadata__", ()):
            if not rule.fits(getattr(value, name)):
                raise ConfigError(f"{what} {name} must be {rule.expected}; got {getattr(value, name)!r}.")
