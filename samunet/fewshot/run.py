"""From folders of images and references to files: proposals for all images, or the names of cases to label."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from samunet.core.codec import atomic_path, write_json
from samunet.core.dataset import PROPOSALS, Case, DatasetSpec
from samunet.core.geometry import Geometry
from samunet.core.lock import held
from samunet.core.names import journal_of
from samunet.core.parts import is_full
from samunet.core.units import counted
from samunet.errors import ConfigError, DatasetError, did_you_mean, in_words
from samunet.evaluation.picture import draw_case
from samunet.fewshot.choose import medoids, refuse_count, summary_of
from samunet.fewshot.examples import (
    Example,
    References,
    along,
    read_example,
    read_references,
    slice_axis,
    spec_of_values,
)
from samunet.fewshot.guided import FORMS
from samunet.fewshot.methods import AUTO, METHODS, REGISTRATION, FewShot, Proposal, Scores, best_of, mean_dice
from samunet.fewshot.models import PlaneModel
from samunet.fewshot.registration import Registration
from samunet.imageio import output_ending, reader_of_image, writer_for
from samunet.importing.dataset import FoundCase, one_ending, refuse_repeated, refuse_taken, write_dataset
from samunet.machine.progress import bar
from samunet.pipeline.inputs import cases_to_predict

logger = logging.getLogger(__name__)

REPORT, PREVIEW = "fewshot.json", "preview"
AGAIN = " To propose one again, move its journal away, which lies in the folder .annotating beside the proposals."


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be proposed, and how."""

    images: tuple[Path, ...]
    references: Path
    output: Path
    method: str = AUTO
    form: str = FORMS[0]
    registration: Registration = Registration()
    workers: int = 1
    """Pairs registered at a time."""
    preview: bool = False
    dataset: str | None = None
    """Name of a raw dataset to write too."""
    raw: Path | None = None
    """Folder for it."""
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of it."""

    method: str
    expected: Scores
    confidence: dict[str, dict[str, float]] = field(default_factory=dict)
    """By case and class."""
    failures: dict[str, str] = field(default_factory=dict)
    """Reasons by case."""
    corrected: tuple[str, ...] = ()
    """Cases whose proposals of an earlier run are being corrected, and which were left alone."""
    dataset: Path | None = None
    least_sure: tuple[Case, Path] | None = None
    """The case whose proposal is the least sure, and the proposal's file; None where there is none."""


def propose_labels(asked: Asked, model: PlaneModel) -> Done:
    """Label images by references, and write the segmentations, fewshot.json and what else is asked for.

    Raises:
        ConfigError: there is no such method or form, or the references show too little of a structure.
        DatasetError: references or images are absent or contradict themselves. An image that cannot be labeled is told
            in `Done.failures`.
        InUseError: another command writes there.
    """
    for name, known in ((asked.method, (AUTO, *METHODS)), (asked.form, FORMS)):
        if name not in known:
            raise ConfigError(f"There is no '{name}'.{did_you_mean(name, known)}")
    if asked.dataset is not None and asked.raw is not None:
        refuse_taken(asked.raw / asked.dataset)
    references = read_references(asked.references)
    few = FewShot(
        references=references, model=model, form=asked.form, registration=asked.registration, workers=asked.workers
    )
    cases = _images(asked, references)
    if asked.dataset is not None:  # said before the work, not after it
        found = _found(asked, references, cases)
        one_ending(found)
        refuse_repeated(asked.dataset, found)
    methods = _methods(asked, few)
    with held(asked.output):
        expected = few.leave_one_out(methods, quiet=asked.quiet)
        untried = few.untried if few.untried in expected else REGISTRATION
        method = best_of(expected, untried) if asked.method == AUTO else asked.method
        logger.info("%s", told(expected, references, method))
        labels = {case.identifier: _label_of(asked, case, references.spec) for case in cases}
        corrected = tuple(name for name, label in labels.items() if journal_of(label).is_file())
        if corrected:
            logger.warning("Left alone, as somebody corrects them: %s.%s", ", ".join(corrected), AGAIN)
        done = Done(method=method, expected=expected, corrected=corrected)
        _write_all(asked, few, [case for case in cases if case.identifier not in corrected], done)
    sure = {name: min(parts.values()) for name, parts in done.confidence.items() if parts}
    if sure:
        least = min((case for case in cases if case.identifier in sure), key=lambda case: sure[case.identifier])
        done = replace(done, least_sure=(least, labels[least.identifier]))
    failures = done.failures
    if asked.dataset is not None and asked.raw is not None:
        target = _write_dataset(
            asked,
            references,
            [case for case in cases if labels[case.identifier].is_file() and case.identifier not in failures],
        )
        return replace(done, dataset=target)
    return done


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which cases are worth labeling."""

    cases: tuple[Case, ...]
    """The most typical first; see `medoids`."""
    failures: dict[str, str] = field(default_factory=dict)
    """Reasons by case; these were left out."""


def choose_cases(images: Sequence[Path], count: int, model: PlaneModel, *, quiet: bool = False) -> Chosen:
    """Choose the cases that are worth labeling.

    Raises:
        ConfigError: there are fewer cases than that.
        DatasetError: images are absent, two have one name, or none can be read.
    """
    spec = spec_of_values((), {0, 1}, "images", "")
    cases = cases_to_predict(list(images), spec, Path(os.devnull))
    refuse_count(count, len(cases))
    vectors: dict[str, np.ndarray] = {}
    failures: dict[str, str] = {}
    grid: Geometry | None = None
    for case in bar(cases, title="Looking at cases", quiet=quiet):
        try:
            volume = reader_of_image(case.images[0], None).read_image(case.images)
            grid = grid or volume.geometry
            volume = along(Example(identifier=case.identifier, volume=volume), grid).volume
            vectors[case.identifier] = summary_of(model, volume, slice_axis(volume.geometry))
        except Exception as error:  # whatever is wrong with this one, the others go on
            failures[case.identifier] = _failed(case, error)
    if not vectors:
        raise DatasetError(f"None of {counted(len(cases), 'image')} can be looked at; give others.")
    seen = [case for case in cases if case.identifier in vectors]
    return Chosen(cases=tuple(seen[index] for index in medoids(list(vectors.values()), count)), failures=failures)


def _failed(case: Case, error: Exception) -> str:
    """Return in words why a case failed, and say it; raises a full disk's error, which no other case escapes."""
    if is_full(error):
        raise error
    reason = in_words(error)
    logger.warning("Case '%s' failed: %s", case.identifier, reason)
    return reason


def told(expected: Scores, references: References, method: str) -> str:
    """Say what Dice to expect of each method."""
    if len(references.examples) < 2:
        return f"One reference tells nothing of how good labels will be; taking {method}. Give two or more to know."
    lines = [f"Dice to expect, by leaving out each of {counted(len(references.examples), 'reference')} in turn:"]
    for name, parts in expected.items():
        means = {references.classes[value]: mean_dice(dice) for value, dice in parts.items()}
        said = [f"{part} {'not known' if math.isnan(mean) else f'{mean:.3f}'}" for part, mean in means.items()]
        lines.append(f"  {name:12s} {', '.join(said)}{'  <- taken' if name == method else ''}")
    return "\n".join(lines)


def _methods(asked: Asked, few: FewShot) -> tuple[str, ...]:
    """Return the methods to try; those that structures are too small for are left out, unless one was asked for."""
    if asked.method != AUTO:
        few.check(asked.method)
        return (asked.method,)
    fit = []
    for method in METHODS:
        try:
            few.check(method)
            fit.append(method)
        except ConfigError as error:
            logger.warning("%s is left out: %s", method, error)
    return tuple(fit)


def _images(asked: Asked, references: References) -> list[Case]:
    if any(case.label and case.label.parent.resolve() == asked.output.resolve() for case in references.cases):
        raise DatasetError(f"{asked.output} holds the references' labels; give another output folder for proposals.")
    labeled = {case.identifier for case in references.cases}
    cases = cases_to_predict(list(asked.images), references.spec, asked.output)
    rest = [case for case in cases if case.identifier not in labeled]
    if not rest:
        raise DatasetError(f"No image is without a label ({len(cases)} given); give others than the references.")
    return rest


def _write_all(asked: Asked, few: FewShot, cases: Sequence[Case], done: Done) -> None:
    """Write the proposals, and after each what is known by then."""
    report = asked.output / REPORT
    write_json(report, _report(few.references, done))
    for case in bar(cases, title="Proposing labels", quiet=asked.quiet):
        try:
            image = read_example(case, few.references.spec)
            proposal = few.propose(done.method, image)
            _write(asked, few.references, case, image, proposal)
        except Exception as error:  # whatever is wrong with this one, the others go on
            done.failures[case.identifier] = _failed(case, error)
        else:
            named = {few.references.classes[value]: round(sure, 4) for value, sure in proposal.confidence.items()}
            done.confidence[case.identifier] = named
        finally:
            few.forget(case.identifier)
        write_json(report, _report(few.references, done))


def _write(asked: Asked, references: References, case: Case, image: Example, proposal: Proposal) -> None:
    geometry = image.volume.geometry
    segmentation = proposal.label.astype(references.spec.labels.segmentation_dtype())
    if asked.preview:
        drawn = draw_case(
            case.identifier, image.volume.array[0], {"Proposal": segmentation}, geometry, references.classes
        )
        with atomic_path(asked.output / PREVIEW / f"{case.identifier}.png") as temporary:
            temporary.write_bytes(drawn.png)
    path = _label_of(asked, case, references.spec)
    ending = output_ending(case.images[0], references.spec.file_ending)
    writer_for(ending, references.spec.reader, planar=geometry.planar).write_segmentation(segmentation, geometry, path)


def _label_of(asked: Asked, case: Case, spec: DatasetSpec) -> Path:
    return asked.output / f"{case.identifier}{output_ending(case.images[0], spec.file_ending)}"


def _report(references: References, done: Done) -> dict[str, Any]:
    return {
        "method": done.method,
        "references": [case.identifier for case in references.cases],
        "expected_dice": {
            method: {
                references.classes[value]: [None if math.isnan(one) else one for one in dice]
                for value, dice in parts.items()
            }
            for method, parts in done.expected.items()
        },
        "confidence": done.confidence,
        "failures": done.failures,
        "corrected": list(done.corrected),
    }


def _found(asked: Asked, references: References, cases: Sequence[Case]) -> list[FoundCase]:
    return [
        FoundCase(
            identifier=case.identifier,
            images=case.images,
            label=case.label or _label_of(asked, case, references.spec),
        )
        for case in (*references.cases, *cases)
    ]


def _write_dataset(asked: Asked, references: References, cases: Sequence[Case]) -> Path:
    """Write references and proposals as a raw dataset, whose dataset.json names the proposals."""
    spec = references.spec
    keys = ("regions_class_order", "overwrite_image_reader_writer")
    kept: dict[str, object] = {key: spec.raw[key] for key in keys if key in spec.raw}
    return write_dataset(
        asked.raw or Path(),
        asked.dataset or "",
        _found(asked, references, cases),
        channels=spec.channels,
        labels=spec.raw["labels"],
        more={**kept, PROPOSALS: [case.identifier for case in cases]},
        threads=1,
        quiet=asked.quiet,
    )
