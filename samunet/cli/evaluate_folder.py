"""samunet_evaluate_folder: score predictions with the labels of a dataset.json."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samunet.cli.common import DEFAULT_THREADS, DEFAULT_TOLERANCE_MM, TOLERANCE_HELP, make_parser, run

if TYPE_CHECKING:
    from samunet.evaluation.score import Measures
    from samunet.evaluation.summary import Summary


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_evaluate_folder",
        "Score a folder of segmentations against references: overlap and surface distances per class or region.",
        "Next: open summary.json (nnU-Net's layout), which lists every case. If Dice is low, look first at the cases "
        "that have the lowest.",
    )
    add_folders(parser)
    parser.add_argument(
        "-djfile", type=Path, required=True, metavar="FILE", help="dataset.json that names labels and file ending"
    )
    parser.add_argument(
        "-pfile", type=Path, metavar="FILE", help="plans file; accepted as nnU-Net's command takes it, and not needed"
    )
    add_options(parser)
    return run(parser, _evaluate, argv)


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add the two folders that both evaluation commands take."""
    parser.add_argument("gt_folder", type=Path, help="folder with reference segmentations")
    parser.add_argument("pred_folder", type=Path, help="folder with predicted segmentations of the same file names")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that both evaluation commands take."""
    parser.add_argument("-o", type=Path, metavar="FILE", help="file to write (default: pred_folder/summary.json)")
    parser.add_argument(
        "-np", type=int, default=DEFAULT_THREADS, metavar="N", help="cases scored at a time (default: %(default)s)"
    )
    parser.add_argument("--nsd_tolerance", type=float, default=DEFAULT_TOLERANCE_MM, metavar="MM", help=TOLERANCE_HELP)
    parser.add_argument(
        "--no_surfaces", action="store_true", help="overlap only, as nnU-Net's command: no NSD, HD95, HD, ASSD, volumes"
    )
    parser.add_argument("--lesions", action="store_true", help="also the F1 score of finding connected components")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write a row per case and class")
    parser.add_argument("--chill", action="store_true", help="score the cases that have both files instead of refusing")


def measures_of(arguments: argparse.Namespace) -> Measures:
    """Return what the options ask for beside overlap."""
    from samunet.evaluation.score import Measures

    return Measures(tolerance=None if arguments.no_surfaces else arguments.nsd_tolerance, lesions=arguments.lesions)


def write_and_print(summary: Summary, names: Mapping[str, str], path: Path, csv: Path | None = None) -> None:
    """Write summary.json, then print one row per class, the mean, and where the file is.

    Args:
        names: summary.json key of each class or region to the name to print.
        csv: file for a row per case and class.
    """
    from samunet.evaluation.summary import target_key, write_summary, write_table

    write_summary(path, summary)
    if csv is not None:
        write_table(csv, summary, names)
    unit = summary.unit
    columns = {
        "dice": "Dice",
        "iou": "IoU",
        "nsd": "NSD",
        "hd95": f"HD95 {unit}",
        "assd": f"ASSD {unit}",
        "detection_f1": "lesion F1",
    }
    shown = {name: title for name, title in columns.items() if name in ("dice", "iou", *summary.measured)}
    rows = [
        (names[target_key(target)], metrics, f"{len(summary.dice(target))}/{len(summary.cases)}")
        for target, metrics in summary.mean.items()
    ]
    rows.append(("mean foreground", summary.foreground_mean, ""))
    width = max(len("class"), *(len(row[0]) for row in rows))
    print(f"{'class':<{width}}  {'  '.join(f'{title:>{_width(title)}}' for title in shown.values())}   cases")
    for name, metrics, cases in rows:
        numbers = "  ".join(_number(getattr(metrics, key), _width(title)) for key, title in shown.items())
        print(f"{name:<{width}}  {numbers}  {cases:>6}".rstrip())
    if summary.prompts is not None:
        print(
            f"These are scores of predictions with prompts ({summary.prompts}); they are not comparable with automatic "
            "ones."
        )
    print(f"Wrote {path}")


def _width(title: str) -> int:
    return max(6, len(title))


def _number(value: float, width: int) -> str:
    return f"{'-':>{width}}" if math.isnan(value) else f"{value:{width}.4f}"


def _evaluate(arguments: argparse.Namespace) -> None:
    from samunet.core.dataset import read_dataset_json
    from samunet.evaluation.score import evaluate_folder, names_from_labels, targets_from_labels
    from samunet.imageio import reader_of_segmentations

    dataset = read_dataset_json(arguments.djfile)
    summary = evaluate_folder(
        arguments.gt_folder,
        arguments.pred_folder,
        targets=targets_from_labels(dataset.labels),
        ignore=dataset.labels.ignore,
        file_ending=dataset.file_ending,
        reader=reader_of_segmentations(arguments.pred_folder, dataset),
        threads=arguments.np,
        chill=arguments.chill,
        measures=measures_of(arguments),
        expected=dataset.labels.expected_in_files,
    )
    write_and_print(
        summary, names_from_labels(dataset.labels), arguments.o or arguments.pred_folder / "summary.json", arguments.csv
    )
