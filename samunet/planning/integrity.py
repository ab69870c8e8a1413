"""Check a raw dataset and list everything that is wrong with it at once."""

from __future__ import annotations

from collections.abc import Sequence

from samunet.core.dataset import Case, DatasetSpec
from samunet.errors import DatasetError
from samunet.imageio import ImageReader
from samunet.imageio.case import read_case
from samunet.progress import each

SHOWN = 20


def verify_dataset(spec: DatasetSpec, cases: Sequence[Case], reader: ImageReader, *, threads: int, quiet: bool = False) -> None:
    """Read every case and check channels, grids, finite intensities and label values.

    Raises:
        DatasetError: lists up to 20 problems, one line each.
    """
    problems = []
    if "numTraining" not in spec.raw:
        problems.append(f"dataset.json: key 'numTraining' is missing; it should be {len(cases)}.")
    elif spec.num_training != len(cases):
        problems.append(f"dataset.json: numTraining is {spec.num_training}, but {len(cases)} training cases were found.")

    def problem_of(case: Case) -> str | None:
        try:
            read_case(case, spec, reader)
        except DatasetError as error:
            return str(error)
        return None

    found = each(problem_of, cases, threads=threads, title="Checking cases", quiet=quiet)
    problems += [problem for problem in found if problem]
    if problems:
        more = f"\n... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DatasetError(f"{spec.name} has {len(problems)} problem(s):\n" + "\n".join(problems[:SHOWN]) + more)
