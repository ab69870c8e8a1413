"""The page on few labels: what each method reaches, and what was expected of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from plan_page import table_row

from samunet.fewshot.methods import mean_dice

RESULT = Path(__file__).parent / "results" / "fewshot.json"
CHOICE = RESULT.with_name("first_cases.json")
DRAWS = 2000  # of cases, for the intervals
BASELINES = ("registration", "nearest")


def fewshot_page() -> str:
    """Return documentation/results/fewshot.md."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    rows = [row for row in found["rows"] if "auto" in row]
    sides = " and ".join(map(str, sorted({row["side"] for row in rows})))
    lines = [
        "# Few labels: what proposals reach",
        "",
        "Dice of each method of `samunet_fewshot` on cases that it never saw, with the seed that comes with samunet,",
        "by the number of references ([how](../tutorials/few-labels.md)). Registration alone and the nearest",
        "reference's label are the ones to beat. References and cases were drawn at random once and are few, so the",
        "intervals (95 %, cases drawn again) are wide: read the order of size, not the second digit. `expected` is the",
        f"mean Dice on the references themselves, each labeled by the others. Images were registered at {sides} voxels",
        "a side. *Trained* is the default network (`3d_adapter`, of planes `2d_adapter`, with `vit_tiny`), planned on",
        "all cases of the dataset (035 at 3 x 1.25 x 1.25 mm) and trained from nothing on the same references alone,",
        "for the minutes given. Made by `benchmarks/fewshot.py` on one core of an",
        f"{found['processor']}; this page is written by `benchmarks/tables.py`.",
        "",
        table_row("dataset", "class", "references", "cases", "method", "Dice", "95 %", "expected"),
        table_row(*["---"] * 8),
    ]
    for row in rows:
        lines += _rows_of(row)
    lines += ["", "## Which method is best, and which one `auto` takes", ""]
    lines += [
        "With one reference nothing can be left out, and `auto` goes by the structure: registration where it is in",
        "one piece, per_sam_f where it is in several. That rule was chosen after the rows of nuclei with one reference",
        "were seen, which therefore do not judge it.",
        "",
    ]
    lines += [table_row("dataset", "references", "best", "its Dice", "auto", "its Dice", "trained")]
    lines.append(table_row(*["---"] * 7))
    for row in rows:
        means = {method: np.nanmean(_dice(row, method)) for method in row["expected"]}
        best = max(means, key=lambda method: means[method])
        auto = row["auto"]
        numbers = [f"{means[method]:.2f}" for method in (best, auto)]
        scores = [list(dice.values()) for dice in row["trained"]["dice"].values()] if "trained" in row else None
        trained = f"{np.nanmean(scores):.2f}" if scores else ""
        lines.append(table_row(row["dataset"], row["references"], best, numbers[0], auto, numbers[1], trained))
    better = [row for row in rows if any(_beats(row, method) for method in row["expected"] if method not in BASELINES)]
    named = ", ".join(f"{row['dataset']} with {row['references']}" for row in better) or "none of them"
    lines += ["", f"A method with a model is better on average than registration alone on: {named}.", ""]
    if CHOICE.is_file():
        lines += choice_section(json.loads(CHOICE.read_text(encoding="utf-8")))
    return "\n".join(lines)


def choice_section(found: dict[str, Any]) -> list[str]:
    """Tell whether the cases that are named first are better references than others."""
    lines = [
        "## Which cases to label first",
        "",
        "Cases that `samunet_choose_cases` names out of a pool, and as many drawn at random, again and again: mean",
        "foreground Dice that each set reaches as references of registration (`side` voxels a side) on the same other",
        "cases. Made by `benchmarks/first_cases.py`.",
        "",
        table_row(
            *("dataset", "side", "pool", "cases", "chosen", "Dice"),
            *("of draws: mean", "lowest, quartiles, highest", "beaten"),
        ),
        table_row(*["---"] * 9),
    ]
    for row in found["rows"]:
        spread = ", ".join(f"{value:.3f}" for value in np.percentile(row["draws"], (0, 25, 50, 75, 100)))
        beaten = sum(draw < row["chosen"] for draw in row["draws"])
        cells = (row["dataset"], row["side"], row["pool"], row["targets"], row["count"], f"{row['chosen']:.3f}")
        mean = f"{np.mean(row['draws']):.3f}"
        lines.append(table_row(*cells, mean, spread, f"{beaten} of {len(row['draws'])}"))
    return [*lines, ""]


def _rows_of(row: dict[str, Any]) -> list[str]:
    lines = []
    for name in next(iter(row["expected"].values())):
        by_method = {method: (_dice(row, method, name), scores[name]) for method, scores in row["expected"].items()}
        if trained := row.get("trained"):
            minutes = f"trained, {trained['training']['minutes']:g} min"
            by_method[minutes] = [scores[name] for scores in trained["dice"].values()], []
        for method, (values, expected) in by_method.items():
            dice = np.array(values, float)
            random = np.random.default_rng(0)
            means = [np.nanmean(random.choice(dice, len(dice))) for _ in range(DRAWS)]
            low, high = np.percentile(means, (2.5, 97.5))
            hoped = "" if math.isnan(mean := mean_dice(expected)) else f"{mean:.2f}"
            cells = (row["dataset"], name, row["references"], len(dice), method)
            lines.append(table_row(*cells, f"{np.nanmean(dice):.2f}", f"{low:.2f} to {high:.2f}", hoped))
    return lines


def _dice(row: dict[str, Any], method: str, name: str | None = None) -> list[float]:
    """All cases' Dice of a method, of all classes or of one."""
    scores = (case[method]["dice"] for case in row["cases"].values())
    return [dice for of_case in scores for part, dice in of_case.items() if name in (None, part)]


def _beats(row: dict[str, Any], method: str) -> bool:
    return bool(np.nanmean(_dice(row, method)) > np.nanmean(_dice(row, "registration")))
