"""samunet_export_model_to_zip: pack a trained model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from samunet.cli.common import make_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_export_model_to_zip",
        "Pack a trained model with its plan, scores and a card; every file is listed with its SHA-256.",
        "Next: samunet_install_pretrained_model_from_zip FILE, on another machine",
    )
    parser.add_argument("-d", metavar="DATASET", help="dataset id or name of the model")
    parser.add_argument("-o", type=Path, required=True, metavar="FILE", help="zip file to write")
    parser.add_argument("-c", metavar="CONFIGURATION", help="configuration of the model")
    parser.add_argument("-tr", metavar="NAME", help="trainer of the model")
    parser.add_argument("-p", metavar="NAME", help="plan of the model")
    parser.add_argument("-f", nargs="+", metavar="FOLD", help="folds to pack (default: all that have the checkpoint)")
    parser.add_argument(
        "-chk", default="checkpoint_final", metavar="NAME", help="checkpoint to pack (default: %(default)s)"
    )
    parser.add_argument(
        "--license", default="not stated", metavar="TEXT", help="terms of use, for its card (default: %(default)s)"
    )
    parser.add_argument(
        "--embed_backbone", action="store_true", help="pack the frozen SAM weights too, so that the zip works offline"
    )
    return run(parser, _export, argv)


def _export(arguments: argparse.Namespace) -> None:
    from samunet.checkpoints.model_zip import export_model
    from samunet.cli.predict import choose_model
    from samunet.core.lock import reading
    from samunet.core.units import readable
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    model = choose_model(workspace, arguments)
    with ExitStack() as stack:
        for fold in [model / f"fold_{fold}" for fold in arguments.f] if arguments.f else model.glob("fold_*"):
            stack.enter_context(reading(fold))  # lest a training writes it meanwhile
        manifest = export_model(
            model,
            arguments.o,
            folds=arguments.f,
            checkpoint=arguments.chk,
            license_text=arguments.license,
            embed=arguments.embed_backbone,
            weights_folders=workspace.weights_folders,
        )
    print(f"Wrote {arguments.o}: {manifest.model}, {len(manifest.files)} files, {readable(arguments.o.stat().st_size)}")
    if manifest.weights and not arguments.embed_backbone:
        print(
            f"It needs {manifest.weights} (SHA-256 {manifest.weights_sha256}) on the other machine, or "
            "--embed_backbone here."
        )
