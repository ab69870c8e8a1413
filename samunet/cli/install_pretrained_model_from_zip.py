"""samunet_install_pretrained_model_from_zip: verify and unpack a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samunet.cli.common import make_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_install_pretrained_model_from_zip",
        "Put a model that samunet_export_model_to_zip packed into nnUNet_results; nothing is written before all of it "
        "is verified.",
        "Next: samunet_predict -i IMAGES -o PREDICTIONS",
    )
    parser.add_argument("zip", type=Path, metavar="FILE", help="zip file of a model")
    parser.add_argument("--overwrite", action="store_true", help="replace a model of the same name")
    return run(parser, _install, argv)


def _install(arguments: argparse.Namespace) -> None:
    from samunet.checkpoints.model_zip import install_model
    from samunet.core.workspace import workspace_from_environment

    folder = install_model(arguments.zip, workspace_from_environment(), overwrite=arguments.overwrite)
    print(f"Installed {folder}")
