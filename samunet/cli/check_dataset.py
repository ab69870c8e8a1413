"""Read every file of datasets of nnUNet_raw to its end and list everything that is wrong, with what to do about it.
Nothing is changed.

Next, when nothing is wrong: samunet_plan_and_preprocess -d DATASET
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import DEFAULT_THREADS, Datasets, Quiet, Threads, command, print_next


@dataclass(frozen=True, kw_only=True)
class Options:
    datasets: Datasets
    threads: Threads = DEFAULT_THREADS
    json: Annotated[Path | None, "--json FILE"] = None
    """Also write the findings to this file; for one dataset."""
    html: Annotated[Path | None, "--html FILE"] = None
    """Also write a page with pictures of the worst cases; for one dataset."""
    quiet: Quiet = False


@command("samunet_check_dataset", __doc__, Options)
def main(options: Options) -> int:
    from samunet import pipeline
    from samunet.checking.page import write_page
    from samunet.core.codec import write_json
    from samunet.core.workspace import workspace_from_environment
    from samunet.errors import ConfigError

    if len(options.datasets) > 1 and (options.json or options.html):
        raise ConfigError(f"--json and --html hold one dataset; got {len(options.datasets)}. Check them one by one.")
    workspace, code = workspace_from_environment(), 0
    for wanted in options.datasets:
        report = pipeline.check(workspace, wanted, threads=options.threads, quiet=options.quiet)
        print("\n".join(report.lines()))
        for finding in {finding.code: finding for finding in report.findings}.values():
            print(f"{finding.code}: {finding.fix}")
        print(report.summary())
        if options.json:
            write_json(options.json, report.as_json())
        if options.html:
            write_page(options.html, report)
        code = max(code, 2 if report.errors else 0)
        if not report.errors:
            print_next("samunet_plan_and_preprocess", "-d", wanted)
    return code
