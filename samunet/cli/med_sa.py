"""Read a checkpoint of the Medical SAM Adapter authors' code into a fold of samunet that predicts with clicks. The file
does not tell whether it was trained on images or volumes, nor by which code: choose the configuration, 2d_ or 3d_, and
the code accordingly.

Next: samunet_predict -i IMAGES -o PREDICTIONS --prompts FILE
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from samunet.cli import ma_sam
from samunet.cli.common import Dataset, run_action


@dataclass(frozen=True, kw_only=True)
class Import(ma_sam.Import):
    """Authors' file to a fold that can predict."""

    dataset: Dataset
    """Id or name of a planned dataset that names the structure."""
    configuration: Annotated[str, "-c CONFIGURATION"] = "2d_med_sa_prompted"
    """Configuration of the model."""
    code: Literal["official", "official_2025"]
    """Authors' code that trained it: "official" until April 2025, with clicks as (row, column) and pixels in [0, 1];
    "official_2025" since, with clicks as (x, y) and SAM's pixel statistics."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_action("samunet_med_sa", __doc__, {"import": (Import, _import)}, argv)


def _import(options: Import) -> None:
    from samunet.pipeline import exchange

    ma_sam.write(options, partial(exchange.import_checkpoint, foreign=exchange.med_sa_of(options.code)))
