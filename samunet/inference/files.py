"""Predict many files: reading ahead, the device, and writing overlap."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samunet.core.codec import atomic_path
from samunet.core.dataset import Case
from samunet.core.preprocessed import PreprocessedCase
from samunet.core.volume import Volume
from samunet.errors import SamunetError
from samunet.imageio import reader_for
from samunet.imageio.case import read_image
from samunet.inference.extras import Extras
from samunet.inference.predictor import Predictor
from samunet.progress import bar

logger = logging.getLogger(__name__)

FAILURES = (SamunetError, OSError, MemoryError)  # of one case, which leave the others alone


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A case that could not be predicted."""

    identifier: str
    reason: str


def predict_cases(
    predictor: Predictor,
    cases: Sequence[Case],
    folder: Path,
    *,
    save_probabilities: bool = False,
    readers: int = 1,
    writers: int = 1,
    quiet: bool = False,
    extras: Extras | None = None,
) -> tuple[Failure, ...]:
    """Write `<case><ending>` (and `<case>.npz`) for every case; a failing case is named and the others go on.

    Args:
        readers: threads that read and preprocess ahead; as many cases are held in memory.
        writers: threads that resample back and write; likewise.
        extras: gets every case that is written.

    Returns:
        The cases that failed, in order.
    """
    spec = predictor.dataset
    reader = reader_for(spec.file_ending, predictor.plan.reader)
    failures: list[Failure] = []
    looks = extras if extras is not None and extras.wanted else None

    def read(case: Case) -> tuple[PreprocessedCase, Volume | None]:
        volume = read_image(case, spec, reader)
        return predictor.preprocess(volume), volume if looks else None

    def write(case: Case, preprocessed: PreprocessedCase, volume: Volume | None, logits: object) -> None:
        if save_probabilities:
            with atomic_path(folder / f"{case.identifier}.npz") as path, open(path, "wb") as file:
                np.savez_compressed(file, probabilities=predictor.probabilities(logits, preprocessed))
        segmentation = predictor.segmentation(logits, preprocessed)
        reader.write_segmentation(segmentation, preprocessed.history.geometry, folder / f"{case.identifier}{spec.file_ending}")
        if looks and volume is not None:
            looks.add(case.identifier, volume, segmentation)

    def fail(case: Case, error: Exception) -> None:
        reason = str(error) or "out of memory"  # a MemoryError says nothing
        logger.error("Case '%s' failed: %s", case.identifier, reason)
        failures.append(Failure(identifier=case.identifier, reason=reason))

    def settle(case: Case, future: Future[None]) -> None:
        try:
            future.result()
        except FAILURES as error:
            fail(case, error)

    with ThreadPoolExecutor(max(1, readers)) as reading, ThreadPoolExecutor(max(1, writers)) as writing:
        ahead: list[tuple[Case, Future[tuple[PreprocessedCase, Volume | None]]]] = []
        behind: list[tuple[Case, Future[None]]] = []
        remaining = iter(cases)
        for _ in bar(range(len(cases)), title="Predicting", quiet=quiet):
            while len(ahead) < max(1, readers) + 1 and (case := next(remaining, None)) is not None:
                ahead.append((case, reading.submit(read, case)))
            case, future = ahead.pop(0)
            try:
                preprocessed, volume = future.result()
                logits = predictor.logits(preprocessed)
            except FAILURES as error:
                fail(case, error)
                continue
            behind.append((case, writing.submit(write, case, preprocessed, volume, logits)))
            while len(behind) > max(1, writers):
                settle(*behind.pop(0))
        for item in behind:
            settle(*item)
    if extras is not None:
        extras.finish()
    return tuple(failures)
