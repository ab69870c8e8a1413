"""The page on few labels: what each method reaches, and what was expected of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from plan_page import table_row

RESULT = Path(__file__).parent / "results" / "fewshot.json"
DRAWS = 2000  # of cases, for the intervals
BASELINES = ("registration", "nearest")


def fewshot_page() -> str:
    """Return documentation/results/fewshot.md."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    rows = [row for row in found["rows"] if row["cases"]]
    lines = [
        "# Few labels: what proposals reach",
        "",
        "Dice of each method of `samunet_fewshot` on cases that it never saw, with the seed that comes with samunet,",
        "by the number of references ([how](../tutorials/few-labels.md)). Registration alone and the nearest",
        "reference's label are the ones to beat. References and cases were drawn at random once and are few, so the",
        "intervals (95 %, cases drawn again) are wide: read the order of size, not the second digit. `expected` is the",
        "mean Dice on the references themselves, each labeled by the others. Images were registered at 32 to 64 voxels",
        "a side. Made by `benchmarks/fewshot.py` on one core of an",
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
    lines += [table_row("dataset", "references", "best", "its Dice", "auto", "its Dice"), table_row(*["---"] * 6)]
    for row in rows:
        means = {method: np.nanmean(_dice(row, method)) for method in row["expected"]}
        best = max(means, key=lambda method: means[method])
        auto = row["auto"]
        numbers = [f"{means[method]:.2f}" for method in (best, auto)]
        lines.append(table_row(row["dataset"], row["references"], best, numbers[0], auto, numbers[1]))
    better = [row for row in rows if any(_beats(row, method) for method in row["expected"] if method not in BASELINES)]
    named = ", ".join(f"{row['dataset']} with {row['references']}" for row in better) or "none of them"
    lines += ["", f"A method with a model is better on average than registration alone on: {named}.", ""]
    return "\n".join(lines)


def _rows_of(row: dict[str, Any]) -> list[str]:
    lines = []
    for name in next(iter(row["expected"].values())):
        for method, expected in row["expected"].items():
            dice = np.array([case[method]["dice"][name] for case in row["cases"].values()], float)
            random = np.random.default_rng(0)
            means = [np.nanmean(random.choice(dice, len(dice))) for _ in range(DRAWS)]
            low, high = np.percentile(means, (2.5, 97.5))
            hoped = f"{np.mean(expected[name]):.2f}" if expected[name] else ""
            cells = (row["dataset"], name, row["references"], len(dice), method)
            lines.append(table_row(*cells, f"{np.nanmean(dice):.2f}", f"{low:.2f} to {high:.2f}", hoped))
    return lines


def _dice(row: dict[str, Any], method: str) -> list[float]:
    return [dice for case in row["cases"].values() for dice in case[method]["dice"].values()]


def _beats(row: dict[str, Any], method: str) -> bool:
    return bool(np.nanmean(_dice(row, method)) > np.nanmean(_dice(row, "registration")))
