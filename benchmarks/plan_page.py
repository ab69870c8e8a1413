"""Write the page on plans, from the results of plans.py, grid_step.py and planning_study.py's "rules"."""

from __future__ import annotations

from typing import Any


def plans_page(plans: dict[str, Any], steps: dict[str, Any] | None, study: dict[str, Any] | None) -> str:
    """Write documentation/results/plans.md."""
    sections = [
        "# Plans for data of many kinds",
        (
            "This page shows what is planned for data of many kinds beside nnU-Net's own planner, and what a step with "
            "the planned tokens takes.\n"
        ),
        (
            f"Planned for {plans['memory_gib']:g} GiB, with {plans['backbone']} without pretrained weights. Most "
            "fingerprints are written by hand"
        ),
        "from shapes, spacings and structures of public data sets; those named Dataset are measured, two of them on "
        "phantoms. Smallest is the",
        "size of the smallest class as the planner counts it, in voxels. Share is the volume of our patch over that "
        "of nnU-Net's, at one spacing.",
        "Operations are an estimate of one sample's step, in 10⁹ multiply-adds. Made by `benchmarks/plans.py`; this "
        "page is written by",
        "`benchmarks/tables.py`.\n",
        table_row(
            "data",
            "median shape",
            "smallest",
            "nnU-Net's patch, batch",
            "our patch, batch",
            "share",
            "token pitch, tokens",
            "GiB",
            "operations",
        ),
        "|---" * 9 + "|",
    ]
    for row in plans["rows"]:
        ours, theirs = row["ours"], row["nnunet"]
        pitch = f"{16 / ours['encoder_scale']:g}, {' x '.join(map(str, ours['tokens']))}"
        patches = (f"{_times(plan['patch'])}, {plan['batch']}" for plan in (theirs, ours))
        shape, smallest = _times(row["median_shape"]), f"{row['smallest_voxels']:.1f}"
        sections.append(
            table_row(
                row["name"],
                shape,
                smallest,
                *patches,
                f"{row['ratio_mm3']:.2f}",
                pitch,
                f"{ours['gib']:.1f}",
                ours["giga_operations"],
            )
        )
    sections += [
        "\n## With SAM's ViT-B\n",
        f"`3d_adapter` and `2d_adapter` around the frozen ViT-B for {plans['memory_gib']:g} GiB: with activations "
        "kept, and "
        "as planned. Where the",
        "encoder would leave the patch less than 60 % of what the convolutions alone get, the plan computes its "
        "activations twice (checkpointing).\n",
        table_row("data", "activations kept: patch", "share", "as planned: patch, batch", "share", "checkpointing"),
        "|---" * 6 + "|",
    ]
    for row in plans["rows"]:
        kept, planned = row["vit_b"]["kept"], row["vit_b"]["planned"]
        shown = f"{_times(planned['patch'])}, {planned['batch']}"
        shares = (f"{form['ratio_mm3']:.2f}" for form in (kept, planned))
        twice = "yes" if planned["options"] else "no"
        sections.append(table_row(row["name"], _times(kept["patch"]), next(shares), shown, next(shares), twice))
    others = list(dict.fromkeys(name for row in plans["rows"] for name in row["others"]))
    sections += [
        "\n## Methods without a convolutional path\n",
        "They see the image through tokens only: the finest grid that fits comes first, up to the 512 encoder pixels "
        "of the publications, and",
        "coarser grids come before the plane is cut. Patch, and encoder pixels per voxel.\n",
        table_row("data", *others),
        "|---" * (len(others) + 1) + "|",
    ]
    for row in plans["rows"]:
        cells = (row["others"].get(name) for name in others)
        texts = [
            "-" if cell is None else cell.get("error") or f"{_times(cell['patch'])}, {cell['encoder_scale']:g}"
            for cell in cells
        ]
        sections.append(table_row(row["name"], *texts))
    reasons = next(row["ours"]["reasons"] for row in plans["rows"] if "specks" in row["name"])
    sections += [
        "\n## What a plan says of itself\n",
        "For the brain tumors with specks:\n",
        *(f"- {reason}" for reason in reasons),
    ]
    if steps:
        sections += _steps(steps)
    if study:
        sections += _study(study)
    return "\n".join(sections) + "\n"


def memory_table(plans: dict[str, Any], names: tuple[str, ...]) -> str:
    """What a training step of some plans needs."""
    rows = [table_row("data", "median shape", "patch, batch", "estimated need, GiB"), "|---" * 4 + "|"]
    for name in names:
        row = next(row for row in plans["rows"] if row["name"].startswith(name))
        ours = row["ours"]
        patch = f"{_times(ours['patch'])}, {ours['batch']}"
        rows.append(table_row(row["name"], _times(row["median_shape"]), patch, f"{ours['gib']:.1f}"))
    return "\n".join(rows)


def _steps(steps: dict[str, Any]) -> list[str]:
    machine = steps["machine"]
    lines = [
        "\n## How dear finer tokens are\n",
        f"{machine['name']}, one thread, {machine['precision']}, torch {machine['torch']}; CPU seconds of a step on "
        "two samples, other work",
        "beside it. Multiples are those of the step with the coarsest pitch. Without is the convolutional path alone. "
        "Made by",
        "`benchmarks/grid_step.py`.\n",
        table_row("patch", "encoder", "without, s", "pitch", "s", "estimated", "measured", "estimated / measured"),
        "|---" * 8 + "|",
    ]
    for row in steps["rows"]:
        for step in row["steps"]:
            encoder = row["encoder"] + (", frozen" if row["pretrained"] else "")
            numbers = (f"{step[key]:.2f}" for key in ("seconds", "estimated", "measured", "estimated_over_measured"))
            lines.append(
                table_row(_times(row["patch"]), encoder, f"{row['seconds_without']:.2f}", step["pitch"], *numbers)
            )
    return lines


def _study(study: dict[str, Any]) -> list[str]:
    lines = [
        "\n## The first rule and today's\n",
        (
            "The first rule took tokens at most twice as wide as the median piece of the smallest class, whatever that "
            "cost the patch. Both plans"
        ),
        f"for 2 GiB, trained for equal CPU minutes on one thread each ({study['machine']['cpu']}), one seed, fold 0 "
        "of 20 cases held out. Made by",
        "`benchmarks/planning_study.py rules`.\n",
        table_row(
            "phantom", "rule", "patch", "token pitch", "CPU minutes", "steps", "s per step", "Dice", "Dice by class"
        ),
        "|---" * 9 + "|",
    ]
    for result in sorted(study["rows"], key=lambda result: (result["row"]["dataset"], result["row"]["name"])):
        configuration, row = result["configuration"], result["row"]
        phantom = {901: "vessels, 2D", 902: "lesions, 3D"}[row["dataset"]]
        classes = ", ".join(f"{name} {dice:.3f}" for name, dice in result["dice_by_class"].items())
        pace = (f"{result['cpu_minutes']:.1f}", result["steps"], f"{result['seconds_a_step']:.2f}")
        plan = (_times(configuration["patch_size"]), f"{16 / configuration['encoder_scale']:g}")
        lines.append(table_row(phantom, row["name"], *plan, *pace, f"{result['dice']:.4f}", classes))
    return lines


def _times(shape: list[float]) -> str:
    return " x ".join(f"{size:g}" for size in shape)


def table_row(*cells: object) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(map(str, cells))} |"
