"""samunet_info: what is on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from samunet.cli.common import make_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_info",
        "Show versions, folders, datasets, plans, trained models, SAM checkpoints and GPUs.",
        "Next: samunet_plan_and_preprocess -d DATASET",
    )
    parser.add_argument(
        "--ext_trainer", action="store_true", help="print only the folder of samunet's trainers for stock nnU-Net"
    )
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    return run(parser, _show, argv)


def _show(arguments: argparse.Namespace) -> None:
    import json
    from pathlib import Path

    import samunet
    from samunet.core.workspace import workspace_from_environment
    from samunet.pipeline.information import gather, lines

    if arguments.ext_trainer:
        print(Path(samunet.__file__).parent / "ext_trainer")
        return
    found = gather(workspace_from_environment())
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(lines(found)))
