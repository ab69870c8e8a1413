"""samunet_check_dataset: find everything that is wrong with datasets of nnUNet_raw."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samunet.cli import planning
from samunet.cli.common import DEFAULT_THREADS, make_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_check_dataset",
        (
            "Read every file of datasets of nnUNet_raw to its end and list everything that is wrong, with what to do "
            "about it. Nothing is changed."
        ),
        "Next, when nothing is wrong: samunet_plan_and_preprocess -d DATASET",
    )
    planning.add_dataset(parser)
    parser.add_argument(
        "-np", type=int, default=DEFAULT_THREADS, metavar="N", help="cases read at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the findings to this file; for one dataset"
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a page with pictures of the worst cases; for one dataset"
    )
    parser.add_argument("--no_pbar", action="store_true", help="no progress bar")
    return run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    from samunet import pipeline
    from samunet.checking.page import write_page
    from samunet.core.codec import write_json
    from samunet.core.workspace import workspace_from_environment
    from samunet.errors import ConfigError

    if len(arguments.d) > 1 and (arguments.json or arguments.html):
        raise ConfigError(f"--json and --html hold one dataset; got {len(arguments.d)}. Check them one by one.")
    workspace, code = workspace_from_environment(), 0
    for wanted in arguments.d:
        report = pipeline.check(workspace, wanted, threads=arguments.np, quiet=arguments.no_pbar)
        print("\n".join(report.lines()))
        for finding in {finding.code: finding for finding in report.findings}.values():
            print(f"{finding.code}: {finding.fix}")
        print(report.summary())
        if arguments.json:
            write_json(arguments.json, report.as_json())
        if arguments.html:
            write_page(arguments.html, report)
        code = max(code, 2 if report.errors else 0)
    return code
