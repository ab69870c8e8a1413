"""samunet_predict_from_modelfolder: segment images with a model folder anywhere on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samunet.cli.common import make_parser, run
from samunet.cli.predict import add_prediction_options, predict_with_model


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_predict_from_modelfolder",
        "Segment a folder of images, or one image, with a model folder <Trainer>__<plans>__<configuration>; needs no "
        "environment variables.",
        "Next: samunet_evaluate_folder REFERENCES PREDICTIONS -djfile PREDICTIONS/dataset.json",
    )
    add_prediction_options(parser)
    parser.add_argument("-m", type=Path, required=True, metavar="FOLDER", help="model folder")
    return run(parser, lambda arguments: predict_with_model(arguments, arguments.m), argv)
