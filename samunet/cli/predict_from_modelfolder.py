"""Segment a folder of images, or one image, with a model folder <Trainer>__<plans>__<configuration>; needs no
environment variables.

Next: samunet_evaluate_folder REFERENCES PREDICTIONS
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import command
from samunet.cli.predict import Predicting, predict_with_model


@dataclass(frozen=True, kw_only=True)
class Options(Predicting):
    model: Annotated[Path, "-m FOLDER"]
    """Model folder."""


@command("samunet_predict_from_modelfolder", __doc__, Options)
def main(options: Options) -> int:
    return predict_with_model(options, options.model)
