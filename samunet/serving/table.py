"""The table of what each case took: a CSV file that people may add columns and rows to."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from samunet.core.codec import write_csv
from samunet.core.lock import held
from samunet.errors import DatasetError
from samunet.interaction.session import Session

CASE = "case"
IDLE_S = 60.0  # longer between two steps counts as a pause of so long
COUNTED = {
    "clicks": ("point",),
    "boxes": ("box",),
    "scribbles and lassos": ("scribble", "lasso"),
    "strokes": ("paint", "erase"),
    "planes carried on": ("propagate", "interpolate"),
    "undone": ("undo",),
}


def read_table(path: Path) -> list[list[str]]:
    """Return the lines of a table, its columns' names first; nothing where there is no file.

    Raises:
        DatasetError: it is none in UTF-8 with commas, no column is named "case", or a line is longer than the first.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _no_table(path, str(error)) from None
    if lines and CASE not in lines[0]:
        raise _no_table(path, f"its first line has no column '{CASE}'")
    if lines and max(map(len, lines)) > len(lines[0]):
        raise _no_table(path, f"a line has more than the {len(lines[0])} cells of the first")
    return lines


def _no_table(path: Path, reason: str) -> DatasetError:
    return DatasetError(
        f"{path} is no table of what cases took ({reason}); rename it, or save it as CSV in UTF-8 with commas."
    )


def put_row(path: Path, row: Mapping[str, object]) -> None:
    """Put the row of a case into a table, in place of its last one; other rows and columns stay, in their order.

    Args:
        row: cells by column, "case" among them.

    Raises:
        DatasetError: see `read_table`.
        InUseError: another command is writing it for seconds.
    """
    with held(path.absolute().parent, name=path.name):
        head, *lines = read_table(path) or [list(row)]
        head = [*head, *(name for name in row if name not in head)]
        at = head.index(CASE)
        lines = [[*line, *[""] * (len(head) - len(line))] for line in lines]
        mine = next((line for line in reversed(lines) if line[at] == row[CASE]), None)
        if mine is None:
            lines.append(mine := [""] * len(head))
        for name, cell in row.items():
            mine[head.index(name)] = str(cell)
        write_csv(path, head, lines)


def effort(session: Session) -> dict[str, float]:
    """Count what an annotation took, and how near to its beginning it ended."""
    times = np.array([at for _, at in session.steps])
    operations = [op for op, _ in session.steps]
    row: dict[str, float] = {name: sum(operations.count(op) for op in ops) for name, ops in COUNTED.items()}
    row["seconds"] = round(float(np.minimum(np.diff(times), IDLE_S).sum())) if len(times) else 0
    start, end = session.start, session.labels()
    pairs = [(start == thing.value, end == thing.value) for thing in session.state.objects]
    dices = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs if a.any() or b.any()]
    row["Dice of the beginning and the end"] = round(float(np.mean(dices)), 4) if dices else 1.0
    return row
