"""Predict many files: reading ahead, the device, and writing overlap, within a budget of memory."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from samunet.core.dataset import Case
from samunet.core.geometry import Geometry
from samunet.core.history import SpatialHistory
from samunet.core.lock import held
from samunet.core.names import LONGEST_FILE_NAME, check_case_name, in_utf8
from samunet.core.parts import is_full
from samunet.core.preprocessed import PreprocessedCase
from samunet.core.prompts import PROMPTS, PromptFile, merge_prompts, read_prompts, write_prompts
from samunet.core.units import readable
from samunet.core.volume import Volume
from samunet.errors import PredictionError, SamunetError
from samunet.imageio import ImageReader, output_ending, reader_of_image, writer_for
from samunet.imageio.case import CaseSize, peek_case, read_image
from samunet.inference.budget import Budget, Need, describe, estimate
from samunet.inference.extras import UNCERTAINTY, Extras, per_mille
from samunet.inference.options import FileOptions
from samunet.inference.predictor import Predictor, Scores
from samunet.inference.probabilities import forecast, write_probabilities
from samunet.inference.prompted_predictor import PromptedPredictor, refuse_unfitting_prompts
from samunet.inference.unlike import refuse_absurd_spacing
from samunet.machine.hardware import give_back_freed_memory
from samunet.machine.progress import bar, pool_of, readable_seconds
from samunet.preprocessing.backward import probability_planes, resize_to_input_grid, segmentation_from_logits

logger = logging.getLogger(__name__)

FAILURES = (SamunetError, OSError, MemoryError)  # of one case, which leave the others alone
TABLES, TABLES_WAIT_S = "tables", 60.0  # what commands that predict parts of the cases each read and write in turn

Read = tuple[PreprocessedCase, Volume | None]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A case that could not be predicted."""

    identifier: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the cases that were to be predicted."""

    failures: tuple[Failure, ...]
    """Those that could not be; the segmentations of all others are written."""
    remarks: dict[str, tuple[str, ...]]
    """What of each case that was read is unlike the training cases; see `Predictor.remarks`."""


def predict_cases(
    predictor: Predictor,
    cases: Sequence[Case],
    folder: Path,
    options: FileOptions | None = None,
    extras: Extras | None = None,
) -> Outcome:
    """Write `<case><ending>` for every case; a failing case is named and the others go on. Raises ConfigError where the
    predictor takes prompts and there are none, or the other way round.

    Args:
        extras: gets every case that is written.
    """
    options = options or FileOptions()
    refuse_unfitting_prompts(predictor, options.prompts)
    work = _Work(predictor=predictor, folder=folder, options=options, extras=extras)
    if options.prompts is not None:  # first, so that no prediction is without its label
        with held(folder, name=TABLES, wait=TABLES_WAIT_S):
            identifiers = [case.identifier for case in cases]
            write_prompts(folder / PROMPTS, prompts_of_all(folder, options.prompts, identifiers))
    outcome = work.run(cases)
    if extras is not None:
        with held(folder, name=TABLES, wait=TABLES_WAIT_S):
            extras.finish()
    return outcome


def prompts_of_all(folder: Path, prompts: PromptFile, predicted: Sequence[str]) -> PromptFile:
    """Return what a folder's prompts are after cases are predicted with new ones; its other cases keep theirs."""
    if not (folder / PROMPTS).is_file():
        return prompts
    before = read_prompts(folder / PROMPTS)
    kept = {case: given for case, given in before.cases.items() if case not in predicted}
    if not kept:
        return prompts
    return merge_prompts([prompts, replace(before, cases=kept)])


@dataclass(kw_only=True)
class _Work:
    """The cases between reading and writing; only `_read` and `_write` run in other threads."""

    predictor: Predictor
    folder: Path
    options: FileOptions
    extras: Extras | None
    remarks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    budget: Budget = field(init=False)
    ahead: deque[tuple[Case, Future[Read]]] = field(default_factory=deque)
    behind: deque[tuple[Case, Future[None]]] = field(default_factory=deque)
    failures: list[Failure] = field(default_factory=list)
    voxels: dict[str, int] = field(default_factory=dict)
    """Voxels of each case that can be predicted."""
    total: int = 0
    """Cases to predict, of which `ended` are over since `began`, in seconds of a clock."""
    ended: int = 0
    began: float = 0.0

    def __post_init__(self) -> None:
        self.budget = Budget(limit=self.options.max_ram if self.options.max_ram is not None else self.options.available)

    def run(self, cases: Sequence[Case]) -> Outcome:
        needs = {case.identifier: need for case in cases if (need := self._need(case)) is not None}
        waiting = deque(case for case in cases if case.identifier in needs)
        at_a_time = max(1, self.options.readers) + max(1, self.options.writers) + 1
        if line := describe(list(needs.values()), self.budget, at_a_time):
            logger.info("%s", line)
        if (
            self.options.save_probabilities
            and self.voxels
            and (line := forecast(list(self.voxels.values()), self.predictor.dataset.labels.outputs))
        ):
            logger.info("%s", line)
        self.total, self.began = len(waiting), time.monotonic()
        with pool_of(self.options.readers) as reading, pool_of(self.options.writers) as writing:
            for _ in range(self.total):
                self._read_ahead(waiting, needs, reading)
                self._predict(needs, writing)  # a call of its own, so that nothing here keeps the case in memory
                while len(self.behind) > max(1, self.options.writers):
                    self._settle()
            while self.behind:
                self._settle()
        return Outcome(failures=tuple(self.failures), remarks=self.remarks)

    def _predict(self, needs: dict[str, Need], pool: ThreadPoolExecutor) -> None:
        """Run the networks over the case that was read first, and hand it to the writers."""
        case, future = self.ahead.popleft()
        try:
            preprocessed, volume = future.result()
            in_file = not self.budget.scores_fit(needs[case.identifier])
            scores = self._scores_of(case, preprocessed, self.folder if in_file else None)
        except FAILURES as error:
            self.ended += 1
            self._fail(case, error)
            self.budget.end(case.identifier)
        else:
            self.behind.append((case, pool.submit(self._write, case, preprocessed.history, volume, scores)))

    def _scores_of(self, case: Case, preprocessed: PreprocessedCase, folder: Path | None) -> Scores:
        prompts = self.options.prompts
        if isinstance(self.predictor, PromptedPredictor) and prompts is not None:
            shown = prompts.of(case.identifier, self.predictor.dataset.labels)
            return self.predictor.scores(preprocessed, folder, prompts=shown)
        return self.predictor.scores(preprocessed, folder)

    def _read_ahead(self, waiting: deque[Case], needs: dict[str, Need], pool: ThreadPoolExecutor) -> None:
        """Begin with as many cases as threads and memory allow, one at least."""
        while waiting and len(self.ahead) <= max(1, self.options.readers):
            case = waiting[0]
            while self.behind and not (self.ahead or self.budget.fits(needs[case.identifier])):
                self._settle()  # nothing else can be done
            if not self.budget.fits(needs[case.identifier]):
                return
            self.budget.begin(case.identifier, needs[case.identifier])
            self.ahead.append((waiting.popleft(), pool.submit(self._read, case)))

    def _need(self, case: Case) -> Need | None:
        """Estimate from the headers; where they cannot be read, or memory is too small, the case fails: None."""
        try:
            for path in case.images:
                if in_utf8(path.name) != path.name:  # libraries end the process on such names
                    check_case_name(path.name, in_utf8(str(path.parent)), LONGEST_FILE_NAME)
            size = peek_case(case, self.predictor.dataset, self._reader(case))
            refuse_absurd_spacing(size.geometry, self.predictor.plan)
            need = self._estimate(size)
            self._refuse(need)
        except FAILURES as error:
            self._fail(case, error)
            return None
        self.voxels[case.identifier] = math.prod(size.geometry.shape)
        return need

    def _refuse(self, need: Need) -> None:
        limit, free = self.options.max_ram, self.options.free
        if limit is not None and need.volumes > limit:
            raise PredictionError(
                f"its volumes need about {readable(need.volumes)}, allowed are {readable(limit)} beside the network; "
                "raise --max_ram"
            )
        if limit is None and free is not None and need.volumes > free:
            raise PredictionError(
                f"its volumes need about {readable(need.volumes)} of memory, {readable(free)} are free; free some, "
                "or try with --max_ram"
            )

    def _estimate(self, size: CaseSize) -> Need:
        return estimate(
            size,
            self.predictor.plan,
            self.predictor.configuration,
            score_channels=self.predictor.score_channels,
            keep_image=self._looks is not None,
            pictures=self._looks is not None and (self._looks.previews or self._looks.views),
            probabilities=self.options.save_probabilities,
            uncertainty=self.predictor.options.uncertainty,
            extra_slices=self.predictor.extra_slices,
            map_planes=self.predictor.map_planes,
        )

    def _reader(self, case: Case) -> ImageReader:
        return reader_of_image(case.images[0], self.predictor.plan.reader, self.options.series)

    def _write_segmentation(self, segmentation: np.ndarray, geometry: Geometry, folder: Path, case: Case) -> None:
        """Write `<case><ending>`, in the format of the input unless another is asked for."""
        ending = self.options.ending or output_ending(case.images[0], self.predictor.dataset.file_ending)
        writer = writer_for(ending, self.predictor.plan.reader, planar=geometry.planar)
        writer.write_segmentation(segmentation, geometry, folder / f"{case.identifier}{ending}")

    @property
    def _looks(self) -> Extras | None:
        return self.extras if self.extras is not None and self.extras.wanted else None

    def _read(self, case: Case) -> Read:
        volume = read_image(case, self.predictor.dataset, self._reader(case))
        self.remarks[case.identifier] = self.predictor.remarks(volume)
        for remark in self.remarks[case.identifier]:
            logger.warning("Case '%s' is unlike the training cases: %s.", case.identifier, remark)
        return self.predictor.preprocess(volume), volume if self._looks else None

    def _write(self, case: Case, history: SpatialHistory, volume: Volume | None, scores: Scores) -> None:
        spec = self.predictor.dataset
        if self.options.save_probabilities:
            planes, count = probability_planes(scores.logits, history, spec.labels), len(scores.logits)
            shown = bar(planes, title=f"Probabilities of {case.identifier}", total=count, quiet=self.options.quiet)
            write_probabilities(self.folder / f"{case.identifier}.npz", shown, count)
        segmentation = segmentation_from_logits(scores.logits, history, spec.labels)
        if scores.disagreement is not None:
            uncertainty = resize_to_input_grid(scores.disagreement, history)
            self._write_segmentation(per_mille(uncertainty), history.geometry, self.folder / UNCERTAINTY, case)
            if self.extras is not None:
                self.extras.add_uncertainty(case.identifier, uncertainty, segmentation)
        if self._looks and volume is not None:
            self._looks.add(case.identifier, volume, segmentation)
        self._write_segmentation(segmentation, history.geometry, self.folder, case)

    def _settle(self) -> None:
        """Wait for the case that was first given to the writers."""
        case, future = self.behind.popleft()
        self.ended += 1
        try:
            future.result()
        except FAILURES as error:
            self._fail(case, error)
        else:
            left = (time.monotonic() - self.began) / self.ended * (self.total - self.ended)
            more = f", about {readable_seconds(left)} left" if left else ""
            logger.info("%s is written, %d of %d%s", case.identifier, self.ended, self.total, more)
        del future  # and with it what the case held
        if self.budget.end(case.identifier):
            give_back_freed_memory()

    def _fail(self, case: Case, error: Exception) -> None:
        if is_full(error):  # which no other case escapes
            raise error
        reason = str(error) or "out of memory"  # a MemoryError says nothing
        logger.error("Case '%s' failed: %s", case.identifier, reason)
        self.failures.append(Failure(identifier=case.identifier, reason=reason))
