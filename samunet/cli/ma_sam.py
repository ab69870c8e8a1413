"""samunet_ma_sam: read and write checkpoints of the MA-SAM authors' code."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samunet.cli.common import make_parser, run
from samunet.core.names import DEFAULT_PLANS_NAME


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_ma_sam",
        "Read a checkpoint of the MA-SAM authors' code into a fold of samunet, or write a fold as such a checkpoint.",
        "Next, after import: samunet_predict -i IMAGES -o PREDICTIONS",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_import(actions, "3d_ma_sam", dataset="id or name of a planned dataset with the same classes")
    export = actions.add_parser("export", help="trained fold to an authors' file")
    export.add_argument("file", type=Path, metavar="FILE", help="file to write, .pth")
    export.add_argument("-d", required=True, metavar="DATASET", help="id or name")
    _add_fold(export, "3d_ma_sam")
    return run(parser, _command, argv)


def add_import(actions: Any, configuration: str, *, dataset: str) -> None:
    """Add the action that reads an authors' file; `dataset` says which one may be given."""
    action = actions.add_parser("import", help="authors' file to a fold that can predict")
    action.add_argument("file", type=Path, metavar="FILE", help="checkpoint of the authors' code")
    action.add_argument("-d", required=True, metavar="DATASET", help=dataset)
    _add_fold(action, configuration)


def _add_fold(action: argparse.ArgumentParser, configuration: str) -> None:
    action.add_argument("-c", default=configuration, metavar="CONFIGURATION", help="default: %(default)s")
    action.add_argument("-p", default=DEFAULT_PLANS_NAME, metavar="PLANS", help="default: %(default)s")
    action.add_argument("-f", default="all", metavar="FOLD", help="default: %(default)s")


def _command(arguments: argparse.Namespace) -> None:
    from samunet.core.workspace import workspace_from_environment
    from samunet.pipeline import exchange

    workspace = workspace_from_environment()
    name = workspace.dataset_name(arguments.d)
    meant = {"configuration": arguments.c, "plans_name": arguments.p, "fold": arguments.f}
    if arguments.action == "import":
        written = exchange.import_checkpoint(workspace, name, arguments.file, exchange.MA_SAM, **meant)
    else:
        written = exchange.export_ma_sam(workspace, name, arguments.file, **meant)
    print(f"Wrote {written}")
