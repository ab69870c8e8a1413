"""Write the tables of documentation/results/learning.md and README.md from benchmarks/results/learning_*.json.

    python benchmarks/tables.py

Numbers in documentation come from here and are not typed; a test compares.
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
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


def with_table(readme: str, results: dict[str, dict]) -> str:
    """Return the README with the table between its two marks replaced."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    results = load()
    (ROOT / "documentation" / "results" / "learning.md").write_text(page(results))
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(), results))


if __name__ == "__main__":
    main()
