"""Write one HTML page on a trained model: scores of its validation cases, pictures of the worst, the learning curve,
the plan.

Next: open the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import DEFAULT_THREADS, Model, Threads, command


@dataclass(frozen=True, kw_only=True)
class Options(Model):
    configuration: Annotated[str, "configuration"]
    """Configuration of the model, e.g. 3d_adapter."""
    output: Annotated[Path | None, "-o FILE"] = None
    """File to write (default: report.html in the model's folder)."""
    threads: Threads = DEFAULT_THREADS
    """Pictures drawn at a time."""


@command("samunet_report", __doc__, Options)
def main(options: Options) -> None:
    from samunet.comparison.report import report_on_model

    workspace, dataset, model = options.find(options.configuration)
    output = options.output or model / "report.html"
    summary = report_on_model(workspace, dataset, model, output, threads=options.threads)
    print(
        f"Mean foreground Dice {summary.foreground_mean.dice:.4f} on {len(summary.cases)} validation cases. Wrote "
        f"{output}"
    )
