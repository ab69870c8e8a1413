"""Every error samunet raises on purpose.

SamunetError
├── ConfigError       a plan, option, environment variable or configuration name is wrong
├── DatasetError      a dataset, case or label is missing or inconsistent
│   └── ImageFileError    one image file cannot be read or written
├── ShapeError        an array has the wrong shape
├── PlanningError     no plan fits the data and the memory
├── PredictionError   a case does not fit the memory
├── InUseError        another command writes there
└── CheckpointError   weights are absent, damaged or do not fit
    └── WeightsAbsentError   weights that a plan names are not on this machine (exit code 4)

Each message is one or two sentences: the thing, what was expected, what came, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable

MOST_FAULTS = 20  # that one message lists
MOST_NAMES = 5  # of cases or files in one sentence, enough to see the pattern


class SamunetError(Exception):
    """Base of all deliberate errors; the command line prints the message and exits with `exit_code`."""

    exit_code = 2


class ConfigError(SamunetError):
    """A plan, option, environment variable or configuration name is wrong."""


class DatasetError(SamunetError):
    """A dataset, case or label is missing or inconsistent.

    Args:
        message: what the user reads.
        code: kind of fault, a key of samunet.checking.findings.KINDS.
    """

    def __init__(self, message: str, code: str = "unreadable") -> None:
        super().__init__(message)
        self.code = code


class ImageFileError(DatasetError):
    """One image file cannot be read or written."""


class ShapeError(SamunetError):
    """An array has the wrong shape."""


class PlanningError(SamunetError):
    """No plan fits the data and the memory."""


class PredictionError(SamunetError):
    """A case cannot be predicted on this machine."""


class InUseError(SamunetError):
    """Another command writes where this one would."""


class CheckpointError(SamunetError):
    """Weights are damaged or do not fit."""


class WeightsAbsentError(CheckpointError):
    """Weights that a plan names are not on this machine."""

    exit_code = 4


def in_words(error: BaseException) -> str:
    """Return an error as a sentence; one that nobody raised on purpose, with its type, which tells where to look."""
    if isinstance(error, SamunetError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return " Did you mean 'x'? Known: a, b, x." for an unknown name; no suggestion when nothing is near."""
    import difflib  # here, as errors are rare

    names = sorted(candidates)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    suggestion = f" Did you mean '{near[0]}'?" if near else ""
    return f"{suggestion} Known: {', '.join(names) or 'none'}."
