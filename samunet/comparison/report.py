"""A trained model as a page; training cases as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from samunet.comparison.score_page import case_name, worst_first, write_report
from samunet.core.codec import atomic_path
from samunet.core.dataset import Case, read_dataset_json, training_cases
from samunet.core.labels import Labels
from samunet.core.lock import held
from samunet.core.plan import load_plan
from samunet.core.prompts import prompts_behind
from samunet.core.results import VALIDATION, finished_folds
from samunet.core.workspace import Workspace
from samunet.errors import ConfigError, DatasetError
from samunet.evaluation.colors import class_colors
from samunet.evaluation.picture import CasePicture, draw_case
from samunet.evaluation.summary import SUMMARY, CaseScore, Summary, read_summary, summarize
from samunet.evaluation.view import FOLDER, write_view
from samunet.imageio import ImageReader, reader_for
from samunet.imageio.case import read_case
from samunet.machine.progress import each
from samunet.training.curves import draw_records
from samunet.training.log import RECORDS, read_records

MOST_PICTURES, MOST_VIEWS = 8, 3
ALL_IS_TRAINING = (
    "Fold all trains on every case, so that these scores are of training cases; they say little about new ones."
)


def report_on_model(workspace: Workspace, dataset: str, model: Path, output: Path, *, threads: int) -> Summary:
    """Write one HTML page on a trained model: scores of its validation cases, pictures of the worst ones (of
    a few also view/<case>.html beside it), the learning curve of every fold, the plan; raises DatasetError where no
    fold was validated.

    Args:
        model: folder `<Trainer>__<plans>__<configuration>`.
        output: file to write.
    """
    raw = workspace.raw / dataset
    spec = read_dataset_json(raw / "dataset.json")
    folds = [model / f"fold_{fold}" for fold in finished_folds(model, f"{VALIDATION}/{SUMMARY}")]
    if not folds:
        raise DatasetError(
            f"{model} holds no validation scores (fold_*/validation/summary.json); train a fold, or validate it with "
            "--val."
        )
    of_fold = {fold: read_summary(fold / VALIDATION / SUMMARY) for fold in folds}
    scores = [  # the summary names files as they lay when it was written
        replace(case, prediction_file=str(fold / VALIDATION / case.name))
        for fold in folds
        for case in of_fold[fold].cases
    ]
    origins = dict.fromkeys(origin for fold in folds if (origin := prompts_behind(fold / VALIDATION)) is not None)
    tolerances = {of_one.tolerance for of_one in of_fold.values()}
    tolerance = tolerances.pop() if len(tolerances) == 1 else None
    summary = summarize(scores, "; ".join(origins) or None, tolerance=tolerance)
    plan = load_plan(model / "plans.json")
    configuration = model.name.split("__")[2]
    reader, cases = (
        reader_for(spec.file_ending, plan.reader),
        {case.identifier: case for case in training_cases(raw, spec)},
    )
    shown = [
        score
        for score in worst_first(scores)
        if case_name(score, spec.file_ending) in cases and Path(score.prediction_file).is_file()
    ]

    def draw(score: CaseScore) -> CasePicture:
        case = cases[case_name(score, spec.file_ending)]
        volume, label = read_case(case, spec, reader)
        prediction, _ = reader.read_label(Path(score.prediction_file))
        overlays = {"reference": label, "prediction": prediction}
        whole = case.identifier, volume.array[0], overlays, volume.geometry, spec.labels.names_of_values
        picture = draw_case(*whole)
        if score in shown[:MOST_VIEWS]:
            picture = replace(picture, view=f"{FOLDER}/{case.identifier}.html")
            write_view(output.parent / picture.view, *whole)
        return picture

    reasons = [
        f"{decision}: {reason}"
        for decision, reason in plan.reasons.items()
        if ": " not in decision or decision.startswith(configuration)
    ]
    numbers = ", ".join(fold.name.removeprefix("fold_") for fold in folds)
    write_report(
        output,
        title=f"{configuration} on {dataset}, {'fold' if len(folds) == 1 else 'folds'} {numbers}",
        summary=summary,
        labels=spec.labels,
        file_ending=spec.file_ending,
        pictures=each(draw, shown[:MOST_PICTURES], threads=threads, title="Drawing"),
        curves=_curves(folds, spec.labels),
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
    """Write a picture of every training case with its reference into a folder; returns the cases. Raises ConfigError
    where the images have no such channel.

    Args:
        channel: of the image, from 0.
    """
    raw = workspace.raw / dataset
    spec = read_dataset_json(raw / "dataset.json")
    cases = training_cases(raw, spec)
    if not 0 <= channel < len(spec.channels):
        raise ConfigError(
            f"{dataset} has the channels 0 to {len(spec.channels) - 1} ({', '.join(spec.channels)}); got {channel}."
        )
    reader: ImageReader = reader_for(spec.file_ending, spec.reader, cases[0].images[0])

    def draw(case: Case) -> None:
        volume, label = read_case(case, spec, reader)
        picture = draw_case(
            case.identifier, volume.array[channel], {"reference": label}, volume.geometry, spec.labels.names_of_values
        )
        with atomic_path(output / f"{case.identifier}.png") as path:
            path.write_bytes(picture.png)

    with held(output):
        each(draw, cases, threads=threads, title="Drawing")
    return tuple(case.identifier for case in cases)


def _curves(folds: Sequence[Path], labels: Labels) -> dict[str, bytes]:
    """Return the learning curve of each fold that has a log, as PNG."""
    curves = {}
    for fold in folds:
        title = fold.name.replace("fold_", "Fold ")
        png = draw_records(read_records(fold / RECORDS), class_colors(labels), title=title)
        if png is not None:
            curves[title] = png
    return curves
