"""A trained model as a page; training cases as pictures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from samunet.comparison.score_page import write_report
from samunet.core.codec import atomic_path
from samunet.core.dataset import Case, read_dataset_json, training_cases
from samunet.core.lock import held
from samunet.core.plan import load_plan
from samunet.core.prompts import prompts_behind
from samunet.core.results import VALIDATION, finished_folds
from samunet.core.values import known_mean
from samunet.core.workspace import Workspace
from samunet.errors import ConfigError, DatasetError
from samunet.evaluation.picture import CasePicture, draw_case
from samunet.evaluation.score import names_from_labels
from samunet.evaluation.summary import SUMMARY, CaseScore, Summary, read_summary, summarize
from samunet.imageio import ImageReader, reader_for
from samunet.imageio.case import read_case
from samunet.machine.progress import each

MOST_PICTURES = 8
ALL_IS_TRAINING = (
    "Fold all trains on every case, so that these scores are of training cases; they say little about new ones."
)


def report_on_model(workspace: Workspace, dataset: str, model: Path, output: Path, *, threads: int) -> Summary:
    """Write one HTML page on a trained model: scores of its validation cases, pictures of the worst ones, the learning
    curve, the plan.

    Args:
        model: folder `<Trainer>__<plans>__<configuration>`.
        output: file to write.

    Raises:
        DatasetError: no fold was validated.
    """
    raw = workspace.raw / dataset
    spec = read_dataset_json(raw / "dataset.json")
    folds = [model / f"fold_{fold}" for fold in finished_folds(model, f"{VALIDATION}/{SUMMARY}")]
    if not folds:
        raise DatasetError(
            f"{model} holds no validation scores (fold_*/validation/summary.json); train a fold, or validate it with "
            "--val."
        )
    scores = [  # the summary names files as they lay when it was written
        replace(case, prediction_file=str(fold / VALIDATION / case.name))
        for fold in folds
        for case in read_summary(fold / VALIDATION / SUMMARY).cases
    ]
    origins = dict.fromkeys(origin for fold in folds if (origin := prompts_behind(fold / VALIDATION)) is not None)
    summary = summarize(scores, "; ".join(origins) or None)
    plan = load_plan(model / "plans.json")
    configuration = model.name.split("__")[2]
    reader, cases = (
        reader_for(spec.file_ending, plan.reader),
        {case.identifier: case for case in training_cases(raw, spec)},
    )
    shown = [
        score
        for score in scores
        if _identifier(score, spec.file_ending) in cases and Path(score.prediction_file).is_file()
    ]

    def dice(score: CaseScore) -> float:
        mean = known_mean(metrics.dice for metrics in score.metrics.values())
        return 1.0 if math.isnan(mean) else mean  # nothing to find and nothing found

    worst = sorted(shown, key=dice)[:MOST_PICTURES]
    names = names_from_labels(spec.labels)

    def draw(score: CaseScore) -> CasePicture:
        case = cases[_identifier(score, spec.file_ending)]
        volume, label = read_case(case, spec, reader)
        prediction, _ = reader.read_label(Path(score.prediction_file))
        return draw_case(
            case.identifier,
            volume.array[0],
            {"reference": label, "prediction": prediction},
            volume.geometry.spacing,
            names,
        )

    reasons = [
        f"{decision}: {reason}"
        for decision, reason in plan.reasons.items()
        if ": " not in decision or decision.startswith(configuration)
    ]
    curve = folds[0] / "progress.png"
    numbers = ", ".join(fold.name.removeprefix("fold_") for fold in folds)
    write_report(
        output,
        title=f"{configuration} on {dataset}, {'fold' if len(folds) == 1 else 'folds'} {numbers}",
        summary=summary,
        class_names=names,
        pictures=each(draw, worst, threads=threads, title="Drawing"),
        curve=curve if curve.is_file() else None,
        sections=(
            {"Prompts": [f"These scores are of predictions with prompts; {summary.prompts}."]}
            if summary.prompts
            else {}
        )
        | ({"Cases": [ALL_IS_TRAINING]} if folds[0].name == "fold_all" else {})
        | {"Plan": reasons},
    )
    return summary


def draw_training_cases(
    workspace: Workspace, dataset: str, output: Path, *, channel: int, threads: int
) -> tuple[str, ...]:
    """Write a picture of every training case with its reference into a folder; returns the cases.

    Args:
        channel: of the image, from 0.

    Raises:
        ConfigError: the images have no such channel.
    """
    raw = workspace.raw / dataset
    spec = read_dataset_json(raw / "dataset.json")
    cases, names = training_cases(raw, spec), names_from_labels(spec.labels)
    if not 0 <= channel < len(spec.channels):
        raise ConfigError(
            f"{dataset} has the channels 0 to {len(spec.channels) - 1} ({', '.join(spec.channels)}); got {channel}."
        )
    reader: ImageReader = reader_for(spec.file_ending, spec.reader, cases[0].images[0])

    def draw(case: Case) -> None:
        volume, label = read_case(case, spec, reader)
        picture = draw_case(
            case.identifier, volume.array[channel], {"reference": label}, volume.geometry.spacing, names
        )
        with atomic_path(output / f"{case.identifier}.png") as path:
            path.write_bytes(picture.png)

    with held(output):
        each(draw, cases, threads=threads, title="Drawing")
    return tuple(case.identifier for case in cases)


def _identifier(score: CaseScore, file_ending: str) -> str:
    return score.name.removesuffix(file_ending)
