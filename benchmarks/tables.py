"""Write documentation/results/, and tables within other pages, from benchmarks/results/.

    python benchmarks/tables.py

Numbers in documentation come from here and are not typed; a test compares.
"""

from __future__ import annotations

import json
from pathlib import Path

import fewshot_page
import numpy as np
import seed_page
from plan_page import memory_table, plans_page, table_row
from scipy import stats

from samunet.comparison.from_folders import short_names

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
STUDIES = [RESULTS / f"study_sam_unet_{part}.json" for part in ("ranking", "gentle", "final")]
ENCODER, STEP = RESULTS / "encoder_cpu.json", RESULTS / "slab_step_cpu.json"
PLANNED = {4: "token pitch 8", 35: "token pitch 16", 45: "token pitch 16"}  # what the planner chose when the study ran
CONTROL = "control: no SAM path"
TRAINER = sorted(RESULTS.glob("trainer_*.json"))
PLANNING = RESULTS / "study_planning.json"
PLANS, GRID_STEP, RULES = RESULTS / "plans.json", RESULTS / "grid_step_cpu.json", RESULTS / "study_rules.json"
EXPORT, STRIDE, OVERHEAD = (
    RESULTS / "export.json",
    RESULTS / "slab_stride.json",
    sorted(RESULTS.glob("predict_overhead_*.json")),
)
MEMORY, PROBABILITIES = RESULTS / "prediction_memory.json", RESULTS / "probabilities.json"
IN_README = ("Dataset004", "ACDC", "Dataset035", "BraTS", "AMOS", "Dataset045", "Nuclei, whole")
METHODS = RESULTS / "variant_step_cpu.json"
HEAD_TO_HEAD, ATTEMPTS = RESULTS / "head_to_head.json", RESULTS / "study_ma_sam_attempts.json"
MASKSAM, FEW_LABELS = RESULTS / "study_masksam_attempts.json", RESULTS / "study_few_labels.json"
SLAB_SAMPLING = RESULTS / "study_slab_sampling.json"
COMPARED = RESULTS / "methods.json"
MEETINGS = {
    "hippocampus": "Hippocampus MR",
    "hippocampus_10_cases": "Hippocampus MR",
    "prostate": "Prostate MR",
    "hippocampus_as_planned": "Hippocampus MR, batches as planned",
    "hippocampus_prompted": "Hippocampus MR, with prompts",
}
PROSTATE = ", and on the prostate a spacing of 3 x 1.25 x 1.25 mm and a memory target of 2.2 GiB"
HEAD_TO_HEAD_READING = """
## What this shows, and what not

- It shows the first minutes of training on one core. nnU-Net's optimizer and width are made for 250,000 steps; nothing
  here says who is ahead after a day on a GPU.
- It says nothing about SAM's pretrained weights: there are none in these trainings. Nor is any of the lead SAM's doing:
  without the SAM path (samunetPlansNoSAM) the same network is as good or better, and cheaper ([the study of
  sam_unet](sam_unet.md)).
- About half of the lead on the hippocampus is precision and optimizer: nnU-Net Bf16AdamW is nnU-Net's network, data and
  loss with samunet's of both (`benchmarks/nnunet_trainers/`). The rest is what else differs: blocks, normalization,
  sampling, rates.
- MA-SAM is a transformer that its publication starts from SAM's weights, and so should who uses it. From scratch, in
  minutes, it is weak because it makes few steps: a quarter of the slabs in a step (samunetPlansBatch4) and coarser
  tokens besides (samunetPlansBatch4Scale2) bring it from nothing to ahead of nnU-Net in the ten minutes on ten cases.
  On the prostate it finds one class of two.
- On the prostate nnU-Net makes so few steps that it still predicts nothing but background. That is what its planes cost
  one core, and says nothing about its network.
- One seed, one fold. Intervals are over cases. With four cases no difference can be shown: the smallest p that
  Wilcoxon's test then has is 1/8.
"""
METHODS_READING = """
## What this shows, and what not

- Who learns fastest from nothing on one core. The published methods adapt a pretrained SAM; without its weights all of
  them are transformers that begin at random, and `sam_unet`, the network of `3d_adapter`, is a U-Net besides, which
  learns from little.
- How many steps fit into the minutes differs much, and on the prostate few do. There most that begin as a whole at
  random do not find the peripheral zone, a thin ring; what they would make of it later is not told.
- 2d_autosam comes closest to 3d_adapter on the hippocampus: there too a U-Net looks at the image.
- On ten cases H-SAM, whose claim is few labels, made fewer steps than SAMed in the same minutes and ended behind it.
  Its claim is about SAM's weights, which were not there.
- What MaskSAM does in longer trainings is on [its page](../methods/masksam.md#what-it-takes-to-learn). On the prostate
  it was trained last, after its plans had come to prefer a coarser encoder to steps of few slices. All other trainings
  are of one version of the code.
- Nothing about what they reach with SAM's weights, on a GPU, or in a day.
- One seed, one fold. Intervals are over cases; with four cases no difference can be shown, and the order on the
  prostate means little.
"""
HOSTILE, PROCESS = RESULTS / "hostile_files.json", RESULTS / "reader_process.json"
STARTUP = RESULTS / "startup.json"
PREPROCESSING = sorted(RESULTS.glob("preprocess_*.json"))
TITLES = {
    "hippocampus": "Hippocampus MR (Medical Segmentation Decathlon), 3D",
    "prostate": "Prostate T2 MR (NCI-ISBI 2013), thick slices, 3D",
    "nuclei": "Nuclei (Data Science Bowl 2018), RGB, 2D",
}


def load() -> dict[str, dict]:
    """Return the results by name, in the order of TITLES."""
    return {
        name: json.loads(path.read_text()) for name in TITLES if (path := RESULTS / f"learning_{name}.json").is_file()
    }


def table(results: dict[str, dict]) -> str:
    """One row per dataset."""
    rows = ["| dataset | training | Dice of the validation fold | union of classes |", "|---|---|---|---|"]
    for name, result in results.items():
        classes = ", ".join(f"{label} {dice:.3f}" for label, dice in result["dice"].items())
        rows.append(
            f"| {TITLES[name]} | {result['training_minutes']:.0f} min, {result['steps']} steps | "
            f"**{result['mean_foreground_dice']:.3f}** ({classes}; {result['validation_cases']} cases) | "
            f"{result['union_dice']:.3f} |"
        )
    return "\n".join(rows)


def page(results: dict[str, dict]) -> str:
    """The results page: table, commands and learning curves."""
    sections = [
        "# What a short training on a CPU learns",
        (
            "Default model, no pretrained weights, one seed, nnU-Net's fold 0; whole validation cases through "
            "`samunet_predict` and"
        ),
        (
            "`samunet_evaluate_folder`. Training minutes count every epoch with its validation. Made by "
            "`benchmarks/learning.py`; this page is"
        ),
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
            *([result["note"] + "\n"] if "note" in result else []),
            f"![Learning curve of {name}](../../benchmarks/results/learning_{name}.png)",
        ]
    return "\n".join(sections) + "\n"


def study_page(studies: list[dict]) -> str:
    """The page of the studies of sam_unet: every row against the default and against the control, case by case."""
    machine = studies[0]["machine"]
    sections = [
        "# Which parts of sam_unet help",
        "Every row is the model with one thing changed, trained for about equal CPU minutes, as listed, from the same "
        "seed on the same split,",
        (
            "without pretrained weights. Whole validation cases, no test-time flips. Intervals are those of the mean "
            "difference over cases (95 %,"
        ),
        "paired t); they say nothing about other seeds. The default of 6 minutes has all parts in. In rows of 6 and 20 "
        "minutes gates and class tokens' weights are",
        "not divided by the root of their inputs and features are read without a norm; rows of 10 minutes are of the "
        "network as it is. "
        "nnU-Net has our batch size,",
        "memory target and target spacing, its own schedule shortened to the budget, and computes in fp32, its only "
        "precision on CPUs; ours takes",
        "bf16 where the CPU has it. Made by `benchmarks/study.py`; this page is written by `benchmarks/tables.py`.",
        f"{machine['cpu']}, {machine['jobs']} trainings side by side with {machine['threads_a_job']} thread each.",
        "What follows from it: [sam_unet](../methods/sam_unet.md#what-was-measured).",
    ]
    groups: dict[tuple[int, float], list[dict]] = {}
    for result in (row for study in studies for row in study["rows"]):
        groups.setdefault((result["row"]["dataset"], result["row"]["minutes"]), []).append(result)
    for (dataset, minutes), rows in sorted(groups.items()):
        named = {result["row"]["name"]: result for result in rows}
        sections += [
            f"\n## Dataset{dataset:03d}, {minutes:g} minutes\n",
            table_row("row", "CPU minutes", "steps", "Dice", "minus default", "minus control"),
            "|---" * 6 + "|",
        ]
        for result in sorted(rows, key=lambda result: -result["dice"]):
            against = [_difference(result, named.get(name)) for name in ("default", CONTROL)]
            sections.append(
                table_row(
                    result["row"]["name"],
                    f"{result['cpu_minutes']:.1f}",
                    result["steps"],
                    f"{result['dice']:.4f}",
                    *against,
                )
            )
    return "\n".join(sections) + "\n"


def sam_table(studies: list[dict]) -> str:
    """Today's default without pretrained weights against the same network without SAM, in the longest trainings."""
    rows = ["| dataset | with SAM | without | difference |", "|---|---|---|---|"]
    results = [row for study in studies for row in study["rows"]]
    longest = max(result["row"]["minutes"] for result in results)
    named = {(r["row"]["dataset"], r["row"]["name"]): r for r in results if r["row"]["minutes"] == longest}
    for number, title in ((4, "hippocampus"), (35, "prostate")):
        ours, control = named[number, "no depth adapters"], named[number, CONTROL]
        cases = f"{len(ours['dice_by_case'])} cases"
        shown = f"{TITLES[title]}; {cases}", f"{ours['dice']:.3f}", f"{control['dice']:.3f}"
        rows.append(table_row(*shown, _difference(ours, control)))
    return "\n".join(rows)


def _difference(result: dict, other: dict | None) -> str:
    """Mean and 95 % interval of the paired difference over cases."""
    if other is None or result is other:
        return "-"
    pairs = np.array([(result["dice_by_case"][case], dice) for case, dice in other["dice_by_case"].items()])
    difference = pairs[:, 0] - pairs[:, 1]
    reach = stats.sem(difference) * stats.t.ppf(0.975, len(difference) - 1)
    return f"{difference.mean():+.4f} ({difference.mean() - reach:+.4f} to {difference.mean() + reach:+.4f})"


def encoder_page(encoder: dict, step: dict) -> str:
    """The page of benchmarks/encoder.py and benchmarks/slab_step.py."""
    machine, (depth, height, width) = encoder["machine"], step["slab"]
    sections = [
        "# SAM's encoder: time and memory",
        f"{machine['name']}, {machine['cpu_threads']} threads, torch {machine['torch']}, {encoder['precision']}. Both "
        "sides run in turns in one",
        (
            "process on the same random weights and one image; memory is the growth of a fresh process's peak over one "
            "step, gradients of all weights"
        ),
        (
            "included. Made by `benchmarks/encoder.py` and `benchmarks/slab_step.py`; this page is written by "
            "`benchmarks/tables.py`.\n"
        ),
        "## Against the segment_anything package\n",
        table_row(
            "backbone",
            "pixels",
            "pass",
            "package, s",
            "ours, s",
            "faster",
            "checkpointed, s",
            "package, MiB",
            "ours, MiB",
            "checkpointed, MiB",
            "difference",
        ),
        "|---" * 11 + "|",
    ]
    for row in encoder["encoder"]:
        (package, ours), again = list(row["seconds"].values())[:2], row["seconds"].get("ours_checkpointed", "-")
        memory = row["peak_mib"]
        megabytes = memory["segment_anything"], memory["ours"], memory.get("ours_checkpointed", "-")
        sections.append(
            table_row(
                row["backbone"],
                row["side"],
                row["mode"],
                package,
                ours,
                row["speedup"],
                again,
                *megabytes,
                f"{row['largest_difference']:.1e}",
            )
        )
    sections += [
        "\n## Forms of relative attention, ms\n",
        table_row("size", "pass", "bias", "chunked", "folded"),
        "|---" * 5 + "|",
    ]
    sections += [table_row(*row.values()) for row in encoder["attention_ms"]]
    sections += [
        "\n## Linear layers on 1024 tokens without a gradient, ms\n",
        table_row("inputs", "outputs", "torch's", "ours"),
        "|---" * 4 + "|",
    ]
    sections += [table_row(*row.values()) for row in encoder["linear_ms"]]
    sections.append(
        f"\n## One MA-SAM training step on a slab of {depth} x {height} x {width}, {step['classes']} classes\n"
    )
    sections += [table_row("backbone", "s", "MiB", "checkpointed, s", "checkpointed, MiB"), "|---" * 5 + "|"]
    sections += [
        table_row(row["backbone"], *row["eager"].values(), *row["checkpointing"].values()) for row in step["steps"]
    ]
    return "\n".join(sections) + "\n"


def planning_table(study: dict) -> str:
    """Every choice of grid and depth against the planner's own, case by case."""
    sections = []
    for dataset in sorted({result["row"]["dataset"] for result in study["rows"]}):
        rows = [result for result in study["rows"] if result["row"]["dataset"] == dataset]
        rows.sort(
            key=lambda result: (result["row"]["name"].split()[0] == "slab", int(result["row"]["name"].split()[-1]))
        )
        own = next(result for result in rows if result["row"]["name"] == PLANNED[dataset])
        patch, spacing = (
            " x ".join(f"{value:g}" for value in own["configuration"][key]) for key in ("patch_size", "spacing")
        )
        sections += [
            f"Dataset{dataset:03d}, patch {patch}, spacing {spacing} mm:\n",
            table_row("choice", "CPU minutes", "steps", "s per step", "Dice", "minus the plan's"),
            "|---" * 6 + "|",
        ]
        for result in rows:
            name = result["row"]["name"] + (" (the plan's)" if result is own else "")
            cost = f"{result['cpu_minutes']:.1f}", result["steps"], f"{result['seconds_a_step']:.2f}"
            sections.append(table_row(name, *cost, f"{result['dice']:.4f}", _difference(result, own)))
        sections.append("")
    return "\n".join(sections).strip()


def preprocessing_page(results: list[dict]) -> str:
    """The page of benchmarks/preprocess.py."""
    machine = results[0]["machine"]
    sections = [
        "# Preprocessing: time, memory and equality with nnU-Net",
        (
            f"{machine['cpu']}, {machine['cpus']} CPUs, {results[0]['workers']} workers on either side, one thread per "
            "worker."
        ),
        (
            "Resampling: both functions in turns in one process on whole cases brought to 0.8 of their spacing. The "
            "whole: both"
        ),
        "`plan_and_preprocess` commands into empty folders, one 3D (2D for pictures) configuration; memory is that of "
        "all processes of a command",
        "together. Made by `benchmarks/preprocess.py`; this page is written by `benchmarks/tables.py`.\n",
        "## Resampling\n",
        table_row(
            "dataset",
            "images, nnU-Net s",
            "ours s",
            "faster",
            "labels, nnU-Net s",
            "ours s",
            "faster",
            "together",
            "image difference",
            "equal labels",
        ),
        "|---" * 10 + "|",
    ]
    for result in results:
        seconds, faster = result["resampling"]["seconds"], result["resampling"]["faster"]
        cells = [
            cell
            for kind in ("image", "label")
            for cell in (*(f"{value:.2f}" for value in seconds[kind].values()), f"{faster[kind]}x")
        ]
        equal = f"{result['resampling']['equal_label_voxels']:.6%}"
        difference = f"{result['resampling']['largest_image_difference']:.1e}"
        sections.append(table_row(result["dataset"], *cells, f"{faster['together']}x", difference, equal))
    sections += [
        "\n## The whole command\n",
        table_row("dataset", "cases", "nnU-Net s", "ours s", "faster", "nnU-Net MiB", "ours MiB", "ratio"),
        "|---" * 8 + "|",
    ]
    for result in results:
        whole = result["whole"]
        sides = [whole[side][key] for key in ("seconds", "peak_mib") for side in ("nnunet", "ours")]
        sections.append(
            table_row(
                result["dataset"], result["cases"], *sides[:2], f"{whole['faster']}x", *sides[2:], whole["memory_ratio"]
            )
        )
    sections += _before_and_after()
    return "\n".join(sections) + "\n"


def _before_and_after() -> list[str]:
    """Rows of benchmarks/before_after.py: what the checks of files, and processes for their readers, cost."""
    path = RESULTS / "before_after.json"
    if not path.is_file():
        return []
    result = json.loads(path.read_text())
    sections = [
        "\n## What safety costs\n",
        f"Whole commands of an earlier revision, {result['before']}, and of today's, in turns with one thread",
        f"({result['machine']['cpu']}): processor time with all processes, and the median ratio of the pairs. Since",
        "then stored cases have checksums, and ITK reads in a process of its own; many small cases show what is done",
        "once per file. Trainings are of the default network, whose gates and class tokens have changed. Made by",
        "`benchmarks/before_after.py`.\n",
        table_row("dataset", "command", "before s", "today s", "ratio"),
        "|---" * 5 + "|",
    ]
    for row in sorted(result["rows"], key=lambda row: (row["dataset"], row["task"])):
        seconds = (f"{row[f'{side}_cpu_seconds']:.1f}" for side in ("before", "after"))
        sections.append(table_row(row["dataset"], row["task"], *seconds, f"{row['cpu_ratio']:.2f}"))
    return sections


def trainer_page(results: list[dict], methods: dict | None) -> str:
    """Render documentation/results/trainer.md."""
    machine = results[0]["machine"]
    parts = ("data", "forward", "backward", "optimizer")
    sections = [
        "# What a training step costs\n",
        "This page shows where the time of a training step goes, what the trainer adds to a plain loop, and how long "
        "it waits for data.\n",
        f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['threads']} threads, {results[0]['precision']}.",
        "The planned network with vit_tiny, without pretrained weights, and a batch of two.",
        (
            "A plain loop (forward, backward, clipping, optimizer) and the trainer's own steps take turns on the same "
            "batches from memory; then epochs"
        ),
        'run through the loader with one worker, the first epoch apart, in which the worker starts. "Data" is what the '
        "trainer waits there. Made by",
        "`benchmarks/trainer.py`; this page is written by `benchmarks/tables.py`.\n",
        table_row(
            "dataset",
            "patch",
            *(f"{part}, s" for part in parts),
            "plain step, s",
            "trainer's step, s",
            "added (median)",
            "waiting for data",
        ),
        "|---" * 10 + "|",
    ]
    for result in results:
        seconds = [f"{result['seconds_a_step'][part]:.3f}" for part in parts]
        totals = [f"{result[name]:.3f}" for name in ("plain_loop_seconds_a_step", "trainer_seconds_a_step")]
        shares = [f"{result['trainer_adds_percent_by_median']:.1f} %", f"{result['loader']['waiting_percent']:.1f} %"]
        sections.append(table_row(result["dataset"], " x ".join(map(str, result["patch"])), *seconds, *totals, *shares))
    if methods is not None:
        slab, where = " x ".join(map(str, methods["slab"])), methods["machine"]
        sections += [
            f"\n## One step of every method, {methods['backbone']}, a slab of {slab}\n",
            f"{where['name']}, {where['cpu_threads']} threads; {methods['classes']} classes, random weights taken as "
            "pretrained: SAM is frozen where",
            (
                "a method freezes it. Those with prompts draw them for every structure in every slice, med_sa_prompted "
                "three clicks one after the other."
            ),
            "Memory is the growth of a fresh process's peak. Made by `benchmarks/variant_step.py`.\n",
            table_row("method", "seconds", "MiB", "weights that train, million"),
            "|---" * 4 + "|",
            *(
                table_row(name, f"{row['seconds']:.1f}", row["peak_mib"], f"{row['trained'] / 1e6:.1f}")
                for name, row in methods["steps"].items()
            ),
        ]
        if "db_sam" not in methods["steps"]:
            sections.append("\nNot measured: db_sam and db_sam_prompted, too slow for it.")
    return "\n".join(sections) + "\n"


def prediction_page(export: dict, overhead: list[dict], stride: dict) -> str:
    """Render documentation/results/prediction.md."""
    sections = [
        "# Prediction: time, memory, and what the distance between slabs costs\n",
        "This page shows how long everything around the network takes, and which settings give up accuracy for time.\n",
        (
            f"{export['machine']['cpu']}, {export['machine']['cpus']} CPUs. This page is written by "
            "`benchmarks/tables.py`.\n"
        ),
        "## Export\n",
        "From logits to the segmentation on the file's grid, nnU-Net's function and ours, one thread, a process each "
        "in turns; memory is the",
        (
            "growth of the process's peak. Blobs with noise are what networks give; in pure noise every class may win "
            "everywhere. Made by"
        ),
        "`benchmarks/export.py`.\n",
        table_row("case", "nnU-Net s", "ours s", "faster", "nnU-Net MiB", "ours MiB", "equal voxels"),
        "|---" * 7 + "|",
    ]
    for name, row in export["export"].items():
        seconds, memory = (
            [f"{row[side][key]:.{digits}f}" for side in ("nnunet", "ours")]
            for key, digits in (("seconds", 2), ("peak_mib", 1))
        )
        sections.append(
            table_row(name, *seconds, f"{row['ratio']['seconds']}x", *memory, f"{row['share_of_equal_voxels']:.5%}")
        )
    sections += [
        (
            "\nA whole prediction of the case of 105 classes under `--max_ram`, with a network that costs next to "
            "nothing:\n"
        ),
        table_row("limit MiB", "scores", "growth of the peak MiB", "without pages of files MiB", "seconds"),
        "|---" * 5 + "|",
        *(
            table_row(
                f"{row['limit_mib']:.0f}",
                row["scores"],
                row["growth_mib"],
                row["growth_without_file_pages_mib"],
                row["seconds"],
            )
            for row in export["max_ram"].values()
        ),
        "\n## Everything but the network\n",
        (
            "Both predictors on the same files with the same cheap network, from the call to the last file. Made by "
            "`benchmarks/predict_overhead.py`.\n"
        ),
        table_row(
            "dataset",
            "cases",
            "nnU-Net s",
            "nnU-Net without workers s",
            "ours s",
            "share of nnU-Net's better",
            "equal voxels",
        ),
        "|---" * 7 + "|",
    ]
    for row in overhead:
        seconds = [f"{row['seconds'][side]:.2f}" for side in ("nnunet", "nnunet, no workers", "ours")]
        sections.append(
            table_row(
                row["dataset"],
                row["cases"],
                *seconds,
                row["share_of_nnunets_time"],
                f"{row['share_of_equal_voxels']:.5%}",
            )
        )
    sections += _memory_of_prediction() + _stored_probabilities()
    sections += [
        "\n## The distance between slabs\n",
        f"Validation cases of the prostate dataset's fold 0, models trained for {stride['minutes_of_training']:g} CPU "
        "minutes, no flips. Passes",
        'are slabs through the encoder; "votes" is the way of MA-SAM\'s authors (`--slab_votes`). Made by '
        "`benchmarks/slab_stride.py`.",
        (
            "The models are weak after so short a training, so that slabs without overlap being as good here does not "
            "change the default, which is"
        ),
        "half a slab.\n",
    ]
    for name, model in stride["models"].items():
        patch = " x ".join(map(str, model["patch"]))
        sections += [
            f"### {name}, patch {patch}, {model['cases']} cases\n",
            table_row("setting", "Dice", "passes", "seconds"),
            "|---" * 4 + "|",
        ]
        sections += [
            table_row(row["setting"], f"{row['dice']:.4f}", row["passes"], row["seconds"]) for row in model["rows"]
        ]
        sections.append(f"\nThe cheapest within 0.001 of stride 1: {model['cheapest_as_good_as_stride_1']}.\n")
    return "\n".join(sections).rstrip() + "\n"


def _memory_of_prediction() -> list[str]:
    result = json.loads(MEMORY.read_text())
    sections = [
        "\n## Memory, by kind of file\n",
        f"{result['machine']['cpu']}, {result['machine']['cpus']} CPUs. Two cases of each kind, one after the other, "
        "with a network that costs next",
        "to nothing. The estimate is made from headers; allowed (`--max_ram`) are the estimate and what the network "
        "works with; taken is the growth",
        "of the process's peak, with that of the process in which ITK reads, in the last row without pages of files. "
        "MiB. Made by",
        "`benchmarks/prediction_memory.py`.\n",
        table_row("kind", "file", "estimate", "allowed", "taken", "share of allowed"),
        "|---" * 6 + "|",
    ]
    for name, row in result["kinds"].items():
        shown = "refused by name" if row["refused"] else row["estimate"]
        sections.append(
            table_row(name, row["file"], shown, row["allowed"], row["taken"], f"{row['taken'] / row['allowed']:.2f}")
        )
    return sections


def _stored_probabilities() -> list[str]:
    result = json.loads(PROBABILITIES.read_text())
    changed = result["labels"]
    sections = [
        "\n## Files of probabilities\n",
        f"{result['machine']['cpu']}, one thread. {result['classes']} classes on slices of 512 x 512, from logits to "
        "`<case>.npz`; with all",
        "digits that is measured on 25 slices only. Logits are blobs, certain but near their borders; of noise alone, "
        "where every class is about",
        (
            "as likely everywhere, files are largest. Other programs used the processor meanwhile. Made by "
            "`benchmarks/probabilities.py`.\n"
        ),
        table_row("numbers", "slices", "processor seconds", "MiB", "growth of the peak MiB"),
        "|---" * 5 + "|",
    ]
    stored = "float16, multiples of 1/4096"
    for step, name in {
        "float32": "float32, all digits",
        "ours": stored,
        "ours, whole case": stored,
        "ours, noise": f"{stored}, of noise",
    }.items():
        row = result[step]
        sections.append(table_row(name, row["slices"], row["cpu_seconds"], row["mib"], row["peak_mib"]))
    one, two = changed["one"], changed["ensemble"]
    sections += [
        f"\nOf {changed['voxels']} voxels {one['changed']} get another label from the stored numbers of one file than "
        "from all digits,",
        (
            f"{two['changed']} in the ensemble of two; the lowest Dice score of a class between both is "
            f"{one['lowest_dice']:.6f} and"
        ),
        f"{two['lowest_dice']:.6f}.",
    ]
    return sections


def head_to_head_page(result: dict, attempts: dict | None) -> str:
    """Render documentation/results/head-to-head.md."""
    machine = result["machine"]
    sections = [
        "# nnU-Net and samunet, trained for equally long\n",
        (
            "This page shows what both reach in the same minutes of one thread of a CPU, on the same cases, without "
            "pretrained weights.\n"
        ),
        f"{machine['cpu']}, {machine['threads_a_training']} thread a training, torch {machine['torch']}; fold 0, one "
        "seed, whole validation cases",
        (
            "with flips, scored by one evaluator. Made by `benchmarks/head_to_head.py` through `samunet_compare "
            "--run_nnunet --match minutes`"
        ),
        (
            "([how minutes are matched](../how-to/compare.md#train-nnu-net-too)); this page is written by "
            "`benchmarks/tables.py`."
        ),
        "Plans are each tool's own but for what makes them fit into minutes on a CPU, the same for both: batches of "
        "two patches, or of as many",
        f"slices{PROSTATE if 'prostate' in result['meetings'] else ''}. nnU-Net computes in fp32, its only precision "
        "on CPUs; samunet takes bf16",
        "where the CPU has it.",
    ]
    for name, meeting in result["meetings"].items():
        few = f", {meeting['train_cases']} training cases" if meeting["train_cases"] else ""
        baseline = next(
            training["method"] for training in meeting["trainings"] if training["method"].startswith("nnU-Net")
        )
        verdicts = [verdict for verdict in meeting["verdicts"] if baseline in verdict]
        sections += [f"\n## {MEETINGS[name]}, {meeting['minutes']:g} minutes{few}\n", *trained_rows(meeting)]
        sections += [
            "",
            f"On {meeting['validation_cases']} validation cases, against {baseline}:\n",
            *(f"- {verdict}" for verdict in verdicts),
        ]
    return "\n".join([*sections, *attempts_section(attempts), HEAD_TO_HEAD_READING])


def attempts_section(study: dict | None) -> list[str]:
    """What single changes to 3d_ma_sam do from scratch."""
    if study is None:
        return []
    minutes = study["rows"][0]["row"]["minutes"]
    sections = [
        "\n## Attempts at 3d_ma_sam\n",
        (
            f"One thing changed in each row after the first, on the hippocampus with all training cases, {minutes:g} "
            "minutes of processor time, without"
        ),
        "flips. Made by `benchmarks/study.py ma_sam_attempts`.\n",
    ]
    return sections + attempts_table(study)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def attempts_table(study: dict) -> list[str]:
    """What each training of a study reached, and on its way there where that was kept."""
    curves = any("dice_by_epoch" in result for result in study["rows"])
    heads = ["dataset", "training", "Dice", "by class", "steps", "CPU minutes"]
    heads += ["after each tenth of the steps, on patches, in %"] * curves
    sections = [table_row(*heads), "|---" * len(heads) + "|"]
    for result in sorted(study["rows"], key=lambda result: (result["row"]["dataset"], result["row"]["minutes"])):
        number, name = f"{result['row']['dataset']:03}", result["row"]["name"]
        classes = ", ".join(f"{name} {dice:.3f}" for name, dice in result["dice_by_class"].items())
        dice = f"{result['dice']:.3f}"
        if "dice_with_mirroring" in result:
            dice += f" ({result['dice_with_mirroring']:.3f} with mirroring)"
        cells = [number, name, dice, classes, result["steps"], f"{result['cpu_minutes']:.2f}"]
        cells += [" ".join(percent(dice) for dice in result.get("dice_by_epoch", ()))] * curves
        sections.append(table_row(*cells))
    return sections


def methods_page(result: dict) -> str:
    """Render documentation/results/methods.md."""
    machine = result["machine"]
    minutes = next(iter(result["datasets"].values()))["minutes"]
    sections = [
        "# Every method, trained for equally long\n",
        f"This page shows what each method reaches in {minutes:g} minutes of one thread of a CPU, on the same cases, "
        "without pretrained weights.\n",
        f"{machine['cpu']}, {machine['threads_a_training']} thread a training, torch {machine['torch']}; `vit_tiny`, "
        "fold 0, one seed,",
        "whole validation cases with flips. Made by `benchmarks/methods.py` through `samunet_compare`; this",
        "page is written by `benchmarks/tables.py`.",
        "Plans are the planner's own but for the batch: two patches, and of methods with thin slabs as many as hold "
        "20 slices, if the plan has so",
        f"many{PROSTATE if 'prostate' in result['datasets'] else ''}.",
    ]
    for name, meeting in result["datasets"].items():
        first = meeting["trainings"][0]["method"]
        sections += [
            f"\n## {MEETINGS[name]}\n",
            *shown_rows(meeting["prompts"]),
            *trained_rows(meeting),
            "",
            f"On {meeting['validation_cases']} validation cases, against {first}:\n",
        ]
        sections += [f"- {verdict}" for verdict in meeting["verdicts"] if first in verdict]
        if missing := not_compared(result["datasets"], name):
            sections.append(f"\nNot compared on these cases: {', '.join(missing)}.")
    if FEW_LABELS.is_file():
        sections += [
            "\n## Ten labeled cases\n",
            "Trainings on ten cases of the hippocampus, without flips: H-SAM's claim is few labels. Made by",
            "`benchmarks/study.py few_labels`.\n",
            *attempts_table(json.loads(FEW_LABELS.read_text())),
        ]
    if SLAB_SAMPLING.is_file():
        sections += [
            "\n## Slices of many places, or slabs of neighbors\n",
            "SAMed, which sees each slice by itself, on as many slices a step: what it costs that slices of a slab are",
            "alike, whatever a method makes of depth. Made by `benchmarks/study.py slab_sampling`.\n",
            *attempts_table(json.loads(SLAB_SAMPLING.read_text())),
        ]
    return "\n".join([*sections, METHODS_READING])


def not_compared(meetings: dict[str, dict], name: str) -> list[str]:
    """Return the methods that another dataset of `methods.py` has and this one has not."""
    methods = {key: [training["method"] for training in meeting["trainings"]] for key, meeting in meetings.items()}
    others = [method for key, found in methods.items() if "_prompted" not in key for method in found]
    return [] if "_prompted" in name else sorted(set(others) - set(methods[name]))


def hostile_page(hostile: dict, process: dict) -> str:
    """Render documentation/reference/hostile-files.md."""
    machine = process["machine"]
    sections = [
        "# Hostile files\n",
        "This page states what happens to files that are damaged or made to do harm: each is refused by name, or read "
        "as another program reads it.",
        "How that is held up is in [Dataset format](dataset-format.md#readers).\n",
        "## Damaged at random\n",
        (
            "Small sound files and files with hostile headers, changed in one to three places: bits, numbers, words, "
            "pieces left out or repeated."
        ),
        (
            f"The seed is {hostile['seed']}. Made by `benchmarks/hostile_files.py`; the tests do the same with a few "
            "files, and with 10,000 per format"
        ),
        "in the slow tier. This page is written by `benchmarks/tables.py`.\n",
        table_row(
            "format",
            "tried",
            "refused by name",
            "of these, ITK crashed or ran without end",
            "read as others do",
            "read by samunet alone",
        ),
        "|---" * 6 + "|",
    ]
    for name, row in hostile["formats"].items():
        sections.append(
            table_row(
                name, row["tried"], row["refused"] + row["contained"], row["contained"], row["equal"], row["alone"]
            )
        )
    by_hand = ", ".join(f"{count} {ending}" for ending, count in hostile["made_by_hand"].items())
    sections += [
        (
            "\nThe other programs are nibabel for NIfTI, a decoding of the last bytes with NumPy for uncompressed "
            "MetaImage and NRRD and for GIPL,"
        ),
        "pydicom for DICOM, torchvision for PNG, Pillow for BMP, and tifffile itself for TIFF, there to hold up what "
        "is made of its arrays. None",
        (
            "of the files gave a traceback, an error without the file's name, or other voxels than the other program "
            "gives. A TIFF is read as"
        ),
        (
            "tifffile reads it: Pillow inverts grey whose header says that white is zero, tifffile and samunet do not. "
            "Where a NIfTI header scales"
        ),
        "voxels by less than 2e-16, samunet takes 1 as ITK does, and nibabel does not; these count as read by samunet "
        "alone.\n",
        f"Headers made by hand, each refused by name: {by_hand} (`tests/hostile.py`).\n",
        "## What a process of its own costs\n",
        (
            "An image and its label, read by ITK in a process of its own and in the process that asks, in turns; "
            f"medians. {machine['cpu']},"
        ),
        (
            f"{machine['cpus']} CPUs, load {machine['load']} from other programs, so processor time counts, of both "
            "processes together."
        ),
        f"The start of the process, once per reading thread and run, took {process['start_ms'] / 1000:.1f} s of the "
        "clock under that load. Made by",
        "`benchmarks/reader_process.py`.\n",
        table_row("voxels of the image", "format", "here, ms", "overhead, ms"),
        "|---" * 4 + "|",
    ]
    for row in process["rows"]:
        shape = " x ".join(map(str, row["shape"]))
        sections.append(
            table_row(shape, row["format"], f"{row['here_processor_ms']:.1f}", f"{row['overhead_processor_ms']:.1f}")
        )
    return "\n".join(sections) + "\n"


def shown_rows(prompts: dict[str, str]) -> list[str]:
    """What methods with prompts were shown; nothing where there are none."""
    shown = [f"- {name}: {origin}" for name, origin in prompts.items()]
    return (
        [
            "Made from the references, so that these scores are no match for those of methods that get none:\n",
            *shown,
            "",
        ]
        if shown
        else []
    )


def trained_rows(meeting: dict) -> list[str]:
    """A table of what was trained for equal minutes, the best first."""
    dice, surface, distance = (_means(meeting["rows"], metric) for metric in ("dice", "nsd", "hd95"))
    entries = dict(zip(short_names(list(meeting["configurations"])), meeting["configurations"].values(), strict=True))
    rows = [
        table_row(
            "model",
            "Dice",
            "NSD",
            "HD95, mm",
            "patch",
            "batch",
            "encoder scale",
            "steps",
            "seconds per step",
            "minutes",
            "RAM, GiB",
        ),
        "|---" * 11 + "|",
    ]
    for training in sorted(meeting["trainings"], key=lambda training: -dice[training["method"]]):
        cost, method = training["cost"], training["method"]
        entry = entries[method]
        scores = [f"{dice[method]:.3f}", f"{surface[method]:.3f}", f"{distance[method]:.1f}"]
        plan = [
            " x ".join(map(str, entry["patch_size"])),
            entry["batch_size"],
            f"{entry['encoder_scale']:g}" if "encoder_scale" in entry else "-",
        ]
        pace = [cost["steps"], f"{60 * cost['minutes'] / cost['steps']:.2f}", f"{cost['minutes']:.2f}"]
        rows.append(table_row(method, *scores, *plan, *pace, f"{cost['memory_mib'] / 1024:.1f}"))
    return rows


def _means(rows: list[dict], metric: str) -> dict[str, float]:
    """Mean of each method, from the rows of its pairs."""
    found = {}
    for row in rows:
        if row["metric"] == metric:
            found |= {row["first"]: row["means"][0], row["second"]: row["means"][1]}
    return found


def within(text: str, name: str, content: str) -> str:
    """Return a page with what stands between its two marks of a name replaced."""
    begin, end = f"<!-- {name}: written by benchmarks/tables.py -->", f"<!-- end of {name} -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"


def startup_line(result: dict) -> str:
    """How long help takes, of the median and of the slowest command, and importing the package."""
    times = {name: of_one["cpu_s"] for name, of_one in result["help"].items()}
    slowest = max(times, key=times.__getitem__)
    return (
        f"`--help` of a command takes {np.median([*times.values()]):.2f} s of processor time, of the slowest "
        f"(`{slowest}`) {times[slowest]:.2f} s, and `import samunet` {1000 * result['import']['cpu_s']:.0f} ms "
        f"({result['machine']['cpu']}; medians of {result['runs']} runs, made by `benchmarks/startup.py`)."
    )


def pages() -> dict[str, str]:
    """Return the text of every page of documentation/results/ for which there are results, by its path."""
    readme = within((ROOT / "README.md").read_text(), "learning", table(load()))
    studies = [json.loads(study.read_text()) for study in STUDIES if study.is_file()]
    readme = within(readme, "sam", sam_table(studies))
    texts = {
        "documentation/results/learning.md": page(load()),
        "documentation/results/sam_unet.md": study_page(studies),
        "README.md": within(readme, "memory", memory_table(json.loads(PLANS.read_text()), IN_README)),
    }
    if ENCODER.is_file() and STEP.is_file():
        texts["documentation/results/encoder.md"] = encoder_page(
            json.loads(ENCODER.read_text()), json.loads(STEP.read_text())
        )
    if PREPROCESSING:
        texts["documentation/results/preprocessing.md"] = preprocessing_page(
            [json.loads(path.read_text()) for path in PREPROCESSING]
        )
    if EXPORT.is_file() and OVERHEAD and STRIDE.is_file():
        overhead = [json.loads(path.read_text()) for path in OVERHEAD]
        texts["documentation/results/prediction.md"] = prediction_page(
            json.loads(EXPORT.read_text()), overhead, json.loads(STRIDE.read_text())
        )
    if HEAD_TO_HEAD.is_file():
        attempts = json.loads(ATTEMPTS.read_text()) if ATTEMPTS.is_file() else None
        texts["documentation/results/head-to-head.md"] = head_to_head_page(
            json.loads(HEAD_TO_HEAD.read_text()), attempts
        )
    if COMPARED.is_file():
        texts["documentation/results/methods.md"] = methods_page(json.loads(COMPARED.read_text()))
    if MASKSAM.is_file():
        method = "documentation/methods/masksam.md"
        table_of_attempts = "\n".join(attempts_table(json.loads(MASKSAM.read_text())))
        texts[method] = within((ROOT / method).read_text(), "attempts", table_of_attempts)
    if TRAINER:
        texts["documentation/results/trainer.md"] = trainer_page(
            [json.loads(path.read_text()) for path in TRAINER],
            json.loads(METHODS.read_text()) if METHODS.is_file() else None,
        )
    if PLANS.is_file():
        beside = [json.loads(path.read_text()) if path.is_file() else None for path in (GRID_STEP, RULES)]
        texts["documentation/results/plans.md"] = plans_page(json.loads(PLANS.read_text()), *beside)
    if HOSTILE.is_file() and PROCESS.is_file():
        page_of_files = hostile_page(json.loads(HOSTILE.read_text()), json.loads(PROCESS.read_text()))
        texts["documentation/reference/hostile-files.md"] = page_of_files
    if PLANNING.is_file():
        decides = "documentation/explanation/how-planning-decides.md"
        texts[decides] = within(
            (ROOT / decides).read_text(), "planning", planning_table(json.loads(PLANNING.read_text()))
        )
    if STARTUP.is_file():
        commands = "documentation/reference/commands.md"
        line = startup_line(json.loads(STARTUP.read_text()))
        texts[commands] = within((ROOT / commands).read_text(), "startup", line)
    if fewshot_page.RESULT.is_file():
        texts["documentation/results/fewshot.md"] = fewshot_page.fewshot_page()
    if seed_page.PROMPTS.is_file():
        texts["documentation/results/seed.md"] = seed_page.seed_page()
    return texts


def main() -> None:
    for name, text in pages().items():
        (ROOT / name).write_text(text)


if __name__ == "__main__":
    main()
