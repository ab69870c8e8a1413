"""Write documentation/results/ and the table of README.md from benchmarks/results/.

    python benchmarks/tables.py

Numbers in documentation come from here and are not typed; a test compares.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
STUDY = RESULTS / "study_sam_unet_ranking.json"
BEGIN, END = "<!-- learning: written by benchmarks/tables.py -->", "<!-- end of learning -->"
TITLES = {
    "hippocampus": "Hippocampus MR (Medical Segmentation Decathlon), 3D",
    "prostate": "Prostate T2 MR (NCI-ISBI 2013), thick slices, 3D",
    "nuclei": "Nuclei (Data Science Bowl 2018), RGB, 2D",
}


def load() -> dict[str, dict]:
    """Return the results by name, in the order of TITLES."""
    return {name: json.loads(path.read_text()) for name in TITLES if (path := RESULTS / f"learning_{name}.json").is_file()}


def table(results: dict[str, dict]) -> str:
    """One row a dataset."""
    rows = ["| dataset | training | Dice of the validation fold | union of classes |", "|---|---|---|---|"]
    for name, result in results.items():
        classes = ", ".join(f"{label} {dice:.3f}" for label, dice in result["dice"].items())
        rows.append(
            f"| {TITLES[name]} | {result['training_minutes']:.0f} min, {result['steps']} steps | "
            f"**{result['mean_foreground_dice']:.3f}** ({classes}; {result['validation_cases']} cases) | {result['union_dice']:.3f} |"
        )
    return "\n".join(rows)


def page(results: dict[str, dict]) -> str:
    """The results page: table, commands and learning curves."""
    sections = [
        "# What a short training on a CPU learns",
        "Default model, no pretrained weights, one seed, nnU-Net's fold 0; whole validation cases through `samunet_predict` and",
        "`samunet_evaluate_folder`. Training minutes count every epoch with its validation. Made by `benchmarks/learning.py`; this page is",
        "written by `benchmarks/tables.py`. It shows that the pipeline learns. It is no comparison with nnU-Net.\n",
        table(results),
    ]
    for name, result in results.items():
        machine = result["machine"]
        commands = "\n".join(result["commands"])
        sections += [
            f"\n## {TITLES[name]}\n",
            f"{machine['cpu']}, {machine['cpu_threads']} threads, torch {machine['torch']}; seconds of each command: "
            + ", ".join(f"{command} {seconds:.0f}" for command, seconds in result["seconds"].items())
            + f"\n\n```console\n{commands}\n```\n",
            f"![Learning curve of {name}](../../benchmarks/results/learning_{name}.png)",
        ]
    return "\n".join(sections) + "\n"


def study_page(study: dict) -> str:
    """The page of a study of sam_unet: every row against the default, case by case."""
    machine = study["machine"]
    sections = [
        "# Which parts of sam_unet help",
        "Every row is the default model with one thing changed, trained for equal minutes from the same seed on the same split, without",
        "pretrained weights. Whole validation cases, no test-time flips. The interval is that of the mean difference from the default over",
        "cases (95 %, paired t); it says nothing about other seeds. Made by `benchmarks/study.py`; this page is written by `benchmarks/tables.py`.",
        f"{machine['cpu']}, {machine['jobs']} trainings side by side with {machine['threads_a_job']} thread each.",
    ]
    groups: dict[tuple[int, float], list[dict]] = {}
    for result in study["rows"]:
        groups.setdefault((result["row"]["dataset"], result["row"]["minutes"]), []).append(result)
    for (dataset, minutes), rows in groups.items():
        default = next(result for result in rows if result["row"]["name"] == "default")
        sections.append(f"\n## Dataset{dataset:03d}, {minutes:g} minutes\n")
        sections.append("| row | minutes | steps | Dice | minus default | CPU seconds |\n|---|---|---|---|---|---|")
        for result in sorted(rows, key=lambda result: -result["dice"]):
            figures = f"{result['minutes']:.1f} | {result['steps']} | {result['dice']:.4f}"
            sections.append(f"| {result['row']['name']} | {figures} | {_difference(result, default)} | {result['cpu_seconds']:.0f} |")
    return "\n".join(sections) + "\n"


def _difference(result: dict, default: dict) -> str:
    """Mean and 95 % interval of the paired difference over cases."""
    if result is default:
        return "-"
    pairs = np.array([(result["dice_by_case"][case], dice) for case, dice in default["dice_by_case"].items()])
    difference = pairs[:, 0] - pairs[:, 1]
    reach = stats.sem(difference) * stats.t.ppf(0.975, len(difference) - 1)
    return f"{difference.mean():+.4f} ({difference.mean() - reach:+.4f} to {difference.mean() + reach:+.4f})"


def with_table(readme: str, results: dict[str, dict]) -> str:
    """Return the README with the table between its two marks replaced."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    results = load()
    (ROOT / "documentation" / "results" / "learning.md").write_text(page(results))
    if STUDY.is_file():
        (ROOT / "documentation" / "results" / "sam_unet.md").write_text(study_page(json.loads(STUDY.read_text())))
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(), results))


if __name__ == "__main__":
    main()
