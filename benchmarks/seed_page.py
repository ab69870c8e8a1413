"""The page on the seed: what it makes of prompts on real images, what carries it, and what trainings gain by it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from plan_page import table_row

from samunet.comparison.statistics import paired_difference
from samunet.core.units import counted
from samunet.pipeline.planes import SEED_SIDE

RESULTS = Path(__file__).parent / "results"
PROMPTS, STUDY, TRANSFER, CAUSES, MENDS, ANNOTATOR, INTERACTIVE = (
    RESULTS / f"{name}.json"
    for name in (
        "seed_prompts",
        "seed_study",
        "study_seed_transfer",
        "study_seed_causes",
        "seed_mends",
        "annotator",
        "interactive",
    )
)
COLUMNS = {
    "middle 1": "1 click, middle",
    "middle 3": "3 clicks",
    "middle 5": "5 clicks",
    "anywhere 1": "1 click, anywhere",
    "anywhere 5": "5 clicks",
    "box": "box",
}


def seed_page() -> str:
    """Return documentation/results/seed.md."""
    lines = [
        "# The seed: prompts without any real image in training",
        "",
        "The seed that comes with samunet is a U-Net that takes prompts as maps, without SAM's encoder",
        "([the method](../methods/sam_unet_prompted.md)), pretrained on procedural scenes alone",
        "([how](../how-to/pretrain.md)).",
        "The datasets below are for judging only. This page is written by `benchmarks/tables.py`.",
        "",
    ]
    if PROMPTS.is_file():
        lines += prompts_section(json.loads(PROMPTS.read_text(encoding="utf-8")))
    if ANNOTATOR.is_file():
        lines += annotator_section(json.loads(ANNOTATOR.read_text(encoding="utf-8")))
    if STUDY.is_file():
        lines += study_section(json.loads(STUDY.read_text(encoding="utf-8")))
    if INTERACTIVE.is_file():
        lines += interactive_section(json.loads(INTERACTIVE.read_text(encoding="utf-8")))
    if TRANSFER.is_file():
        lines += transfer_section(json.loads(TRANSFER.read_text(encoding="utf-8"))["rows"])
        lines += causes_section(*(json.loads(file.read_text(encoding="utf-8")) for file in (CAUSES, MENDS)))
    return "\n".join(lines).rstrip("\n") + "\n"


def prompts_section(result: dict[str, Any]) -> list[str]:
    network = result["network"]
    lines = [
        "## Clicks and boxes on images it never saw",
        "",
        f"{network['training']['minutes']:g} minutes of one CPU core, {network['steps']} steps. Dice on whole slices,",
        f"the one of each case that shows most of a structure, {result['cases']} cases per dataset (of nuclei up to 5",
        f"per image). The row `seed` is what `samunet_annotate` does: a plane is seen at {SEED_SIDE} pixels along its",
        "longer side, and what prompts show in it again, closer, where it is small. Beside it the whole plane alone at",
        f"{', '.join(map(str, result['sides']))} pixels, and of these at every click the answer of which the network",
        "itself expects the highest IoU. How close a closer look is was chosen on a part of these cases.",
        "Further clicks lie in the middle of the largest error. All methods are shown the same prompts; of region",
        "growing's tolerances the best on average counts. Made by `benchmarks/seed_prompts.py`.",
        "",
        table_row("dataset", "structure", "method", *COLUMNS.values()),
        table_row(*["---"] * (3 + len(COLUMNS))),
    ]
    for dataset in dict.fromkeys(entry["dataset"] for entry in result["rows"]):
        rows = [entry for entry in result["rows"] if entry["dataset"] == dataset]
        growing = best_growing(rows)
        for structure in dict.fromkeys(entry["structure"] for entry in rows):
            for entry in rows:
                method = "region growing" if entry["method"] == growing else entry["method"]
                if entry["structure"] == structure and not method.startswith("region growing,"):
                    numbers = (f"{entry[key]:.2f}" if key in entry else "" for key in COLUMNS)
                    lines.append(table_row(dataset, structure, method, *numbers))
    return [*lines, ""]


def best_growing(rows: Sequence[dict[str, Any]]) -> str:
    """Return the region growing with the highest mean over all clicks."""
    scores: dict[str, list[float]] = {}
    for entry in rows:
        if entry["method"].startswith("region growing"):
            scores.setdefault(entry["method"], []).extend(entry[key] for key in COLUMNS if key in entry)
    return max(scores, key=lambda name: float(np.mean(scores[name])), default="")


def annotator_section(result: dict[str, Any]) -> list[str]:
    click = result["click_ms"]
    used, others = click["processor of a click and its discarding"], click["programs that wanted the processor"]
    lines = [
        "## Annotating volumes",
        "",
        f"A script in a person's place, over HTTP (`samunet_serve`): {result['cases']} cases per dataset, each",
        "structure from nothing, in axial planes, 5 rounds of clicks in the middle of the largest error. *Carry on*: a",
        "round is one click in the plane with the most wrong voxels, from which the object is carried on both ways.",
        "*Fill*: a round is one click in each of 5 planes, and those between are filled; with *boxes* a tight box in",
        "place of each first click. Mean Dice of the whole volume after each round, and seconds of the server's",
        "processor for a structure, all rounds together. A person's time and eye are not measured. Made by",
        "`benchmarks/annotator.py`.",
        "",
        table_row("dataset", "structure", "way", *(f"round {number}" for number in range(1, 6)), "seconds"),
        table_row(*["---"] * 9),
    ]
    for entry in result["means"]:
        names = (entry[key] for key in ("dataset", "structure", "way"))
        lines.append(table_row(*names, *(f"{dice:.2f}" for dice in entry["dice"]), f"{entry['seconds']:.1f}"))
    return [
        *lines,
        "",
        f"A click in an encoded plane of 256 x 256 pixels takes {used:.0f} ms of one core, over HTTP, with its",
        f"discarding. By the clock its mask came after {click['median']:.0f} ms (median), and after",
        f"{click['with encoding']:.0f} ms where the plane was to be encoded first; at a small object, which is looked",
        f"at closer, after {click['closer, first']:.0f} ms at the first click, and",
        f"{click['closer, median']:.0f} ms at other first clicks there (median), while",
        f"{counted(round(others), 'program')} wanted the machine's two cores.",
        "",
    ]


def study_section(study: dict[str, Any]) -> list[str]:
    lines = [
        "## What carries it",
        "",
        f"Equal minutes ({study['minutes']:g} of one CPU core), one seed. Dice with prompts on scenes that were not",
        "trained on, and on the real slices above (size by expected IoU) with one click in the middle or a box, means",
        "over structures. Made by `benchmarks/seed_study.py`.",
        "",
    ]
    datasets = list(dict.fromkeys(entry["dataset"] for entry in study["rows"][0]["real"]))
    lines += [
        table_row(
            "network", "steps", "scenes", *(f"{name[7:10]}, {kind}" for name in datasets for kind in ("click", "box"))
        ),
        table_row(*["---"] * (3 + 2 * len(datasets))),
    ]
    for entry in study["rows"]:
        means = (
            f"{np.mean([real[key] for real in entry['real'] if real['dataset'] == dataset]):.2f}"
            for dataset in datasets
            for key in ("middle 1", "box")
        )
        lines.append(table_row(entry["row"], entry["steps"], f"{entry['scenes']:.3f}", *means))
    return [
        *lines,
        "",
        "Rows ran on different days beside other work, so steps in equal minutes are not comparable. Tokens alone,",
        "SAM's own way, find nothing in these minutes: maps carry it. A transformer under maps alone shows no clear",
        "gain; with tokens beside the maps boxes around nuclei are answered better. The seed that comes with samunet",
        "was pretrained before that row ran, with maps and without a transformer.",
        "",
    ]


def interactive_section(result: dict[str, Any]) -> list[str]:
    kinds = list(dict.fromkeys(kind for row in result["rows"] for kind in row["dice"]))
    lines = [
        "## Interactive models of your own",
        "",
        "Promptable networks trained on a dataset's first fold for equal minutes of one CPU core, one seed, and shown",
        "the same prompts, made from the references: clicks for an object as a whole, one click in each of its slices,",
        "or one box. Mean foreground Dice of the validation cases (035 at 3 x 1.25 x 1.25 mm); no click corrects an",
        "answer. Rows ran beside other work, so steps in equal minutes differ for more reasons than the network's.",
        "Methods that segment",
        "slice by slice need a click in each; `3d_ma_sam_prompted` trains on boxes alone, as its authors do. Made by",
        "`benchmarks/interactive.py`.",
        "",
        table_row("dataset", "network", "minutes", "steps", *kinds),
        table_row(*["---"] * (4 + len(kinds))),
    ]
    for row in sorted(result["rows"], key=lambda row: row["dataset"]):
        dice = [f"{row['dice'][kind]:.2f}" if kind in row["dice"] else "" for kind in kinds]
        lines.append(table_row(row["dataset"], row["name"], f"{row['row']['minutes']:g}", row["steps"], *dice))
    return [*lines, ""]


def transfer_section(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [
        "## What trainings gain by it",
        "",
        "Trainings of equal minutes on few cases, started as always and from the seed (`-pretrained_weights seed`);",
        "Dice of the fold's validation cases. The interval is of the paired difference over cases, by bootstrap, of",
        "the mean of each case over seeds. Trainings start from the seed only where that is asked for.",
        "Made by `benchmarks/study.py`, study `seed_transfer`.",
        "",
        *gains(rows),
        "",
    ]


def causes_section(causes: dict[str, Any], mends: dict[str, Any]) -> list[str]:
    """Tell what lets the default network bear the seed, and which other means were tried."""
    arms: dict[str, dict[bool, dict[str, Any]]] = {}
    for row in mends["rows"]:
        arms.setdefault(row["mend"], {})[row["seeded"]] = row
    lines = [
        "### What lets the default network bear it",
        "",
        "A plain SAM path beside the U-Net harms short trainings, and the more so from the seed. Where the harm lies:",
        "rows of equal minutes with parts left out (study `seed_causes`, gates and class tokens without what follows).",
        "",
        *gains(causes["rows"]),
        "",
        "Adam moves every fresh weight by the rate. The gates and the class tokens' hypernetwork have hundreds of",
        "inputs, so that together their first steps outweigh the U-Net; and the seed's features of full resolution",
        "share so much that class tokens give one class every place. So gates and class tokens' weights are",
        "divided by the root of their inputs, and read features that are normalized over their channels in each voxel",
        "([the network](../methods/sam_unet.md#structure)). Networks with some of these and with",
        "others, which are not kept, on 5 cases of 004 for 1.5 minutes with one seed, beside other work, so that steps",
        "differ (`benchmarks/results/seed_mends.json`):",
        "",
        table_row("change", "steps", "as always", "steps", "from the seed"),
        table_row(*["---"] * 5),
    ]
    for mend, arm in arms.items():
        cells = [cell for seeded in (False, True) for cell in (arm[seeded]["steps"], f"{arm[seeded]['dice']:.3f}")]
        lines.append(table_row(mend, *cells))
    lines += ["", "And after 100 steps each, by `samunet_train`:", ""]
    lines += [table_row("change", "seed", "as always", "from the seed"), table_row(*["---"] * 4)]
    for row in mends["fixed_steps"]:
        lines.append(table_row(row["mend"], row["seed"], f"{row['dice']:.3f}", f"{row['from_the_seed']:.3f}"))
    return [*lines, ""]


def gains(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table of what trainings gained from the seed, of studies with both arms."""
    lines = [
        table_row(
            "dataset", "training cases", "network", "minutes", "seeds", "as always", "from the seed", "difference, 95 %"
        ),
        table_row(*["---"] * 8),
    ]
    groups: dict[tuple[int, int, str, float], list[dict[str, Any]]] = {}
    for entry in rows:
        of = entry["row"]
        name = of["name"].removesuffix(", from the seed")
        groups.setdefault((of["dataset"], of["train_cases"], name, of["minutes"]), []).append(entry)
    for (dataset, cases, name, minutes), entries in groups.items():
        arms = [[e for e in entries if bool(e["row"]["pretrained"]) == seeded] for seeded in (False, True)]
        seeds = {e["row"]["seed"] for e in arms[0]} & {e["row"]["seed"] for e in arms[1]}
        if not seeds:
            continue
        always, seeded = ([e for e in arm if e["row"]["seed"] in seeds] for arm in arms)
        means = [np.mean([list(e["dice_by_case"].values()) for e in arm], axis=0) for arm in (always, seeded)]
        found = paired_difference(*means, list(always[0]["dice_by_case"]))
        numbers = [f"{np.mean([e['dice'] for e in arm]):.3f}" for arm in (always, seeded)]
        gain = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
        lines.append(table_row(dataset, cases, name, f"{minutes:g}", len(seeds), *numbers, gain))
    return lines
