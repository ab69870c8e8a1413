"""The card of a trained model: what it takes, what it gives, how well, and how it was made, in Markdown.

It is made from the model's plan, dataset.json, settings and scores, and never read as data. Names in it may come from
strangers, so that nothing that a terminal or a viewer of Markdown would act on is taken over.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from samunet import __version__
from samunet.core.codec import read_json
from samunet.core.dataset import DatasetSpec, read_dataset_json
from samunet.core.names import UNSEEN
from samunet.core.plan import Plan, load_plan
from samunet.core.plugins import variant_names
from samunet.core.results import VALIDATION, finished_folds
from samunet.core.units import counted
from samunet.errors import ConfigError
from samunet.evaluation.summary import SUMMARY, Summary, read_summary, summarize
from samunet.variants.method import load_variant

CARD = "model_card.md"  # in the folder of an installed model
LONGEST = 400  # characters of a value
SCORES = f"{VALIDATION}/{SUMMARY}"  # within a fold
ACTIVE = re.compile(r"([\\`*\[\]<>|#~])")  # what Markdown, and HTML within it, act on


def model_card(
    folder: Path, *, folds: Sequence[str] | None = None, license_text: str | None = None, version: str = __version__
) -> str:
    """Return the card of a model.

    Args:
        folder: `<results>/<dataset>/<Trainer>__<plans>__<configuration>`.
        folds: that it is about; None for all that are finished or have scores.
        license_text: terms of use; None where nobody was asked.
        version: of samunet that packed it.

    Raises:
        SamunetError: the plan, dataset.json or a score cannot be read.
    """
    plan, spec = load_plan(folder / "plans.json"), read_dataset_json(folder / "dataset.json")
    scored = [fold for fold in folds or finished_folds(folder) if (folder / f"fold_{fold}" / SCORES).is_file()]
    scores = {fold: read_summary(folder / f"fold_{fold}" / SCORES) for fold in scored}
    rows = {**_facts(plan, spec, folder, folds or finished_folds(folder)), "samunet": version}
    if license_text is not None:
        rows["license"] = license_text
    name = folder.name.rsplit("__", 1)[-1]
    return "\n".join(
        [
            f"# {clean(folder.parent.name)}, {clean(name)}",
            "",
            "A segmentation model of samunet. Not a medical device.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {clean(value)} |" for key, value in rows.items()),
            "",
            "## Labels and their scores",
            "",
            *_score_table(spec, scores),
            "",
            "Segment images with it: `samunet_predict_from_modelfolder -m FOLDER -i IMAGES -o PREDICTIONS`",
            "",
        ]
    )


def clean(text: str) -> str:
    """Return text of one line without what a terminal or Markdown would act on, shortened where it is long."""
    line = " ".join("".join(" " if unicodedata.category(one) in UNSEEN else one for one in text).split())
    return ACTIVE.sub(r"\\\1", line if len(line) <= LONGEST else f"{line[:LONGEST]}...")


def _facts(plan: Plan, spec: DatasetSpec, folder: Path, folds: Sequence[str]) -> dict[str, str]:
    name = folder.name.rsplit("__", 1)[-1]
    configuration = plan.configuration(name)
    method = configuration.variant
    source = load_variant(method).source if method in variant_names() else "a method of another package"
    weights = "no pretrained weights"
    if configuration.weights is not None:
        weights = f"weights {Path(configuration.weights).name}, SHA-256 {configuration.weights_sha256}"
    of_folds = {fold: _config(folder / f"fold_{fold}/config.json") for fold in folds}
    training = _training(of_folds) or f"some of {counted(spec.num_training, 'case')}"
    settings = _length(of_folds[folds[0]]) if folds else ""
    return {
        "images": ", ".join(f"{index:04d} {channel}" for index, channel in enumerate(spec.channels)),
        "files": f"{spec.file_ending}, read by {plan.reader}",
        "grid": plan.grid_text(name),
        "method": f"{method}. {source}",
        "encoder": f"{configuration.backbone}, {weights}",
        "training set": f"{training}{settings}",
        "folds": ", ".join(folds) or "none finished",
        "plan": f"{plan.plans_name}, batch {configuration.batch_size}, for {plan.memory_gib:g} GiB",
    }


def _config(path: Path) -> dict[str, Any]:
    """Return what a fold was trained with, as far as its file tells."""
    with suppress(ConfigError):
        raw = read_json(path)
        return raw if isinstance(raw, dict) else {}
    return {}


def _training(of_folds: Mapping[str, Mapping[str, Any]]) -> str:
    """Return on how many cases each fold was trained and validated; nothing where one does not tell."""
    texts: dict[str, list[str]] = {}
    for fold, config in of_folds.items():
        trained, validated = (config.get(f"{part}_cases") for part in ("training", "validation"))
        if type(trained) is not int or type(validated) is not int:
            return ""
        texts.setdefault(f"trained on {counted(trained, 'case')}, validated on {validated}", []).append(fold)
    if len(texts) == 1:
        return next(iter(texts))
    return "; ".join(f"fold{'s' if folds[1:] else ''} {', '.join(folds)} {text}" for text, folds in texts.items())


def _length(config: Mapping[str, Any]) -> str:
    """Return how long a fold trained; nothing where its settings do not tell."""
    if isinstance(minutes := config.get("minutes"), float) and minutes > 0:
        return f", {minutes:g} minutes"  # which decide the steps of an epoch
    epochs, steps = config.get("epochs"), config.get("iterations")
    if isinstance(epochs, int) and isinstance(steps, int):
        return f", {counted(epochs, 'epoch')} of {counted(steps, 'step')}"
    return ""


def _score_table(spec: DatasetSpec, scores: dict[str, Summary]) -> list[str]:
    """Return Dice of every class or region by fold, and over all folds' cases where there are several."""
    columns = {f"fold {fold}, {counted(len(one.cases), 'case')}": one for fold, one in scores.items()}
    if len(scores) > 1:
        cases = [case for one in scores.values() for case in one.cases]
        columns[f"all {len(cases)}"] = summarize(cases)
    header = ["value", "name", *columns]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for name, values in spec.labels.foreground:
        dice = [_share(one.mean[values].dice if values in one.mean else None) for one in columns.values()]
        lines.append(f"| {', '.join(map(str, values))} | {' | '.join([clean(name), *dice])} |")
    if columns:
        means = [_share(one.foreground_mean.dice) for one in columns.values()]
        lines.append(f"| | {' | '.join(['mean', *means])} |")
    told = "Mean Dice of validation cases, 0 to 1" if columns else "It has no scores of validation cases"
    prompted = " Predicted with prompts." if any(one.prompts for one in scores.values()) else ""
    known = " Fold all trains on every case: these are scores of training cases." if "all" in scores else ""
    return [*lines, "", f"{told}.{prompted}{known}"]


def _share(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"
