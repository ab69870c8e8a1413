"""The page of results with clicks and boxes on images that a network never saw, from benchmarks/seed_prompts.py."""

from __future__ import annotations

from typing import Any

COLUMNS = ("middle 1", "middle 3", "middle 5", "anywhere 1", "anywhere 3", "anywhere 5", "box")
HEAD = """# Clicks and boxes on images that were never seen

This page shows what a network pretrained on procedural scenes alone ([how](../how-to/pretrain.md)) makes of prompts on
real images, beside what needs no learning. It is a first row of a study, not the end of one: {minutes:g} processor
minutes, {steps} steps of 8 scenes of 96 x 96 pixels, one seed, maps only, no SAM path.

Dice, mean over structures, of whole slices: of {cases} cases each the slice that shows most of a structure; of 2D
images up to five nuclei. Slices are brought to so many pixels along the longer side. The first click is in the middle
of the structure or anywhere in it, each further one in the middle of the largest error; a box is tight. Region growing
has the tolerance that is best on average after five clicks on each dataset, chosen on the same slices, which helps it;
the random walker takes the image's frame as outside.
"""
READING = """
## What this shows, and what not

- Scale decides the first click: the network knows objects up to a quarter of 96 pixels in radius, so that an organ that
  fills its image is found with one click only where the slice is small.
- After three and five clicks the network is about where the random walker is, ahead on nuclei and behind on the
  hippocampus. With a box it is no better than an ellipse. It is therefore not shipped, and no default starts from it.
- Wider ranges of size, longer pretraining, slabs and SAM's path have not been measured.
"""


def prompt_page(result: dict[str, Any]) -> str:
    """Return the page for the file of one run."""
    text = HEAD.format(**result["network"], cases=result["cases"])
    for dataset in dict.fromkeys(row["dataset"] for row in result["rows"]):
        rows = _rows(result["rows"], dataset)
        text += f"\n## {dataset}\n\n| method | n | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}\n"
        for method, (count, values) in rows.items():
            cells = [f"{values[column]:.3f}" if column in values else "" for column in COLUMNS]
            text += f"| {method} | {count} | {' | '.join(cells)} |\n"
    return text + READING


def _rows(rows: list[dict[str, Any]], dataset: str) -> dict[str, tuple[int, dict[str, float]]]:
    """Return number of slices and means over structures of each method, of region growing the best."""
    methods: dict[str, tuple[int, dict[str, float]]] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        of = [row for row in rows if (row["dataset"], row["method"]) == (dataset, method)]
        means = {key: sum(row[key] for row in of) / len(of) for key in COLUMNS if key in of[0]}
        methods[method] = (sum(row["n"] for row in of), means)
    growing = [name for name in methods if name.startswith("region growing")]
    best = max(growing, key=lambda name: methods[name][1]["middle 5"], default=None)
    return {name: value for name, value in methods.items() if name not in growing or name == best}
