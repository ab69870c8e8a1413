"""samunet_med_sa: read checkpoints of the Medical SAM Adapter authors' code."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from samunet.cli.common import make_parser, run
from samunet.cli.ma_sam import add_import


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_med_sa",
        "Read a checkpoint of the Medical SAM Adapter authors' code into a fold of samunet that predicts with clicks. "
        "The file does not tell "
        "whether it was trained on images or volumes: choose the configuration, 2d_ or 3d_, accordingly.",
        "Next: samunet_predict -i IMAGES -o PREDICTIONS --prompts FILE",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_import(actions, "2d_med_sa_prompted", dataset="id or name of a planned dataset that names the structure")
    return run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> None:
    from samunet.core.workspace import workspace_from_environment
    from samunet.pipeline import exchange

    workspace = workspace_from_environment()
    name, meant = (
        workspace.dataset_name(arguments.d),
        {"configuration": arguments.c, "plans_name": arguments.p, "fold": arguments.f},
    )
    print(f"Wrote {exchange.import_checkpoint(workspace, name, arguments.file, exchange.MED_SA, **meant)}")
