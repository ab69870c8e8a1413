"""samunet_evaluate_folder: score predictions with the labels of a dataset.json."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samunet.cli.common import DEFAULT_THREADS, make_parser, run

if TYPE_CHECKING:
    from samunet.evaluation.summary import Summary


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_evaluate_folder",
        "Score a folder of segmentations against references: Dice and IoU per class or region.",
        "Next: open summary.json (nnU-Net's layout), which lists every case. If Dice is low, look first at the cases that have the lowest.",
    )
    add_folders(parser)
    parser.add_argument("-djfile", type=Path, required=True, metavar="FILE", help="dataset.json that names labels and file ending")
    parser.add_argument("-pfile", type=Path, metavar="FILE", help="plans file; accepted as nnU-Net's command takes it, and not needed")
    add_options(parser)
    return run(parser, _evaluate, argv)


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add the two folders that both evaluation commands take."""
    parser.add_argument("gt_folder", type=Path, help="folder with reference segmentations")
    parser.add_argument("pred_folder", type=Path, help="folder with predicted segmentations of the same file names")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that both evaluation commands take."""
    parser.add_argument("-o", type=Path, metavar="FILE", help="file to write (default: pred_folder/summary.json)")
    parser.add_argument("-np", type=int, default=DEFAULT_THREADS, metavar="N", help="cases scored at a time (default: %(default)s)")
    parser.add_argument("--chill", action="store_true", help="score the cases that have both files instead of refusing")


def write_and_print(summary: Summary, names: Mapping[str, str], path: Path) -> None:
    """Write summary.json, then print one row a class, the mean, and where the file is.

    Args:
        names: summary.json key of each class or region to the name to print.
    """
    from samunet.evaluation.summary import target_key, write_summary

    write_summary(path, summary)
    rows = [
        (names[target_key(target)], metrics.dice, metrics.iou, f"{len(summary.dice(target))}/{len(summary.cases)}")
        for target, metrics in summary.mean.items()
    ]
    width = max(len("class"), len("mean foreground"), *(len(row[0]) for row in rows))
    print(f"{'class':<{width}}    Dice     IoU   cases")
    for name, dice, iou, cases in rows:
        print(f"{name:<{width}}  {_number(dice)}  {_number(iou)}  {cases:>6}")
    print(f"{'mean foreground':<{width}}  {_number(summary.foreground_mean.dice)}  {_number(summary.foreground_mean.iou)}")
    print(f"Wrote {path}")


def _number(value: float) -> str:
    return f"{'-':>6}" if math.isnan(value) else f"{value:6.4f}"


def _evaluate(arguments: argparse.Namespace) -> None:
    from samunet.core.dataset import read_dataset_json
    from samunet.evaluation.score import evaluate_folder, names_from_labels, targets_from_labels
    from samunet.imageio import reader_for

    dataset = read_dataset_json(arguments.djfile)
    summary = evaluate_folder(
        arguments.gt_folder,
        arguments.pred_folder,
        targets=targets_from_labels(dataset.labels),
        ignore=dataset.labels.ignore,
        file_ending=dataset.file_ending,
        reader=reader_for(dataset.file_ending, dataset.reader),
        threads=arguments.np,
        chill=arguments.chill,
    )
    write_and_print(summary, names_from_labels(dataset.labels), arguments.o or arguments.pred_folder / "summary.json")
