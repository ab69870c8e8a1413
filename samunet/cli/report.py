"""Write one HTML page on a trained model: scores of its validation cases, pictures of the worst, the learning curve,
the plan.

Example: samunet_report 4 3d_adapter
Next: open the page, then samunet_predict -d DATASET -c CONFIGURATION -i IMAGES -o PREDICTIONS
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import DEFAULT_THREADS, Model, Threads, command, images_to_predict, print_next
from samunet.core.names import DEFAULT_PLANS_NAME
from samunet.core.units import counted


@dataclass(frozen=True, kw_only=True)
class Options(Model):
    dataset: Annotated[str, "dataset_name_or_id"]
    """Dataset id or name, e.g. 4 or Dataset004_Hippocampus."""
    configuration: Annotated[str, "configuration"]
    """Configuration of the model, e.g. 3d_adapter."""
    output: Annotated[Path | None, "-o FILE"] = None
    """File to write (default: report.html in the model's folder)."""
    threads: Threads = DEFAULT_THREADS
    """Pictures drawn at a time."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "-d" in words[:-1]:  # samunet_report -d DATASET CONFIGURATION, as it was once
        at = words.index("-d")
        words = [words[at + 1], *words[:at], *words[at + 2 :]]
    return command("samunet_report", __doc__, Options)(_report)(words)


def _report(options: Options) -> None:
    from samunet.comparison.report import report_on_model
    from samunet.evaluation.view import FOLDER as VIEWS

    workspace, dataset, model = options.find(options.dataset, options.configuration)
    output = options.output or model / "report.html"
    summary = report_on_model(workspace, dataset, model, output, threads=options.threads)
    print(
        f"Mean foreground Dice {summary.foreground_mean.dice:.4f} on {counted(len(summary.cases), 'validation case')}. "
        f"Wrote {output}"
    )
    if (views := output.parent / VIEWS).is_dir():
        print(f"Wrote pages of its worst cases to {views}")
    default = options.plans == DEFAULT_PLANS_NAME
    which = ("-d", options.dataset, "-c", options.configuration, *(() if default else ("-p", options.plans)))
    print_next("samunet_predict", *which, "-i", images_to_predict(workspace, dataset), "-o", "PREDICTIONS")
