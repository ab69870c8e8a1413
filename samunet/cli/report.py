"""samunet_report: one page on a trained model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samunet.cli.common import DEFAULT_THREADS, add_model_options, make_parser, model_meant, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_report",
        "Write one HTML page on a trained model: scores of its validation cases, pictures of the worst, the learning "
        "curve, the plan.",
        "Next: open the page.",
    )
    add_model_options(parser)
    parser.add_argument("configuration", help="configuration of the model, e.g. 3d_adapter")
    parser.add_argument(
        "-o", type=Path, metavar="FILE", help="file to write (default: report.html in the model's folder)"
    )
    parser.add_argument(
        "-np", type=int, default=DEFAULT_THREADS, metavar="N", help="pictures drawn at a time (default: %(default)s)"
    )
    return run(parser, _report, argv)


def _report(arguments: argparse.Namespace) -> None:
    from samunet.comparison.report import report_on_model

    workspace, dataset, model = model_meant(arguments, arguments.configuration)
    output = arguments.o or model / "report.html"
    summary = report_on_model(workspace, dataset, model, output, threads=arguments.np)
    print(
        f"Mean foreground Dice {summary.foreground_mean.dice:.4f} on {len(summary.cases)} validation cases. Wrote "
        f"{output}"
    )
