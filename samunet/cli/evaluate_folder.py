"""Score a folder of segmentations against references: overlap and surface distances per class or region.

Next: open summary.json (nnU-Net's layout), which lists every case. If Dice is low, look first at the cases
that have the lowest. samunet_compare holds these predictions against others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from samunet.cli.common import DEFAULT_THREADS, Threads, Tolerance, command, print_next
from samunet.core.names import DEFAULT_TOLERANCE_MM

if TYPE_CHECKING:
    from samunet.evaluation.score import Measures
    from samunet.evaluation.summary import Summary


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What both evaluation commands take."""

    references: Annotated[Path, "gt_folder"]
    """Folder with reference segmentations."""
    predictions: Annotated[Path, "pred_folder"]
    """Folder with predicted segmentations of the same file names."""
    output: Annotated[Path | None, "-o FILE"] = None
    """File to write (default: pred_folder/summary.json)."""
    threads: Threads = DEFAULT_THREADS
    tolerance: Tolerance = DEFAULT_TOLERANCE_MM
    surfaces: Annotated[bool, "--no_surfaces"] = True
    """Measure NSD, HD95, HD, ASSD and volumes, which nnU-Net's command does not."""
    lesions: bool = False
    """Also the F1 score of finding connected components."""
    csv: Annotated[Path | None, "--csv FILE"] = None
    """Also write a row per case and class."""
    chill: bool = False
    """Score the cases that have both files instead of refusing."""

    @property
    def summary_file(self) -> Path:
        return self.output or self.predictions / "summary.json"

    def measures(self) -> Measures:
        """Return what is asked for beside overlap."""
        from samunet.evaluation.score import Measures

        return Measures(tolerance=self.tolerance if self.surfaces else None, lesions=self.lesions)


@dataclass(frozen=True, kw_only=True)
class Options(Evaluation):
    dataset_json: Annotated[Path | None, "-djfile FILE"] = None
    """dataset.json that names labels and file ending (default: pred_folder/dataset.json)."""
    plans_json: Annotated[Path | None, "-pfile FILE"] = None
    """Plans file; accepted as nnU-Net's command takes it, and not needed."""


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


@command("samunet_evaluate_folder", __doc__, Options)
def main(options: Options) -> None:
    from samunet.core.dataset import read_dataset_json
    from samunet.errors import ConfigError
    from samunet.evaluation.score import evaluate_folder, names_from_labels, targets_from_labels
    from samunet.imageio import reader_of_segmentations

    description = options.dataset_json or options.predictions / "dataset.json"
    if options.dataset_json is None and options.predictions.is_dir() and not description.is_file():
        raise ConfigError(f"{description} does not exist; name the dataset's own with -djfile FILE.")
    dataset = read_dataset_json(description)
    summary = evaluate_folder(
        options.references,
        options.predictions,
        targets=targets_from_labels(dataset.labels),
        ignore=dataset.labels.ignore,
        file_ending=dataset.file_ending,
        reader=reader_of_segmentations(options.predictions, dataset),
        threads=options.threads,
        chill=options.chill,
        measures=options.measures(),
        expected=dataset.labels.expected_in_files,
    )
    write_and_print(summary, names_from_labels(dataset.labels), options.summary_file, options.csv)
    named = f"{options.predictions.resolve().name}={options.predictions}"
    folders = ("--reference", options.references, "--predictions", named, "OTHER=PREDICTIONS", "-djfile", description)
    print_next("samunet_compare", *folders, "-o", "COMPARISON")
