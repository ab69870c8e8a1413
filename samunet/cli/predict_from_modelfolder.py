"""Segment a folder of images, or one image, with a model folder <Trainer>__<plans>__<configuration>; needs no
environment variables.

Next: samunet_evaluate_folder REFERENCES PREDICTIONS
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import command, command_line
from samunet.cli.predict import Predicting, predict_with_model

NAME = "samunet_predict_from_modelfolder"


@dataclass(frozen=True, kw_only=True)
class Options(Predicting):
    model: Annotated[Path, "-m FOLDER"]
    """Model folder; or a dataset's folder of results, where it has one model."""


@command(NAME, __doc__, Options)
def main(options: Options) -> int:
    from samunet.core.results import checkpoint_file, find_model
    from samunet.core.workspace import workspace_from_environment

    def spelled(model: Path) -> str:
        images = [str(path) for path in options.images]
        return command_line([NAME, "-m", str(model), "-i", *images, "-o", str(options.output)])

    name = checkpoint_file(options.checkpoint)
    return predict_with_model(options, find_model(options.model, workspace_from_environment(), spelled, name))
