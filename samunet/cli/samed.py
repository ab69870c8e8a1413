"""Read a checkpoint of the SAMed authors' code, SAMed_s included, into a fold of samunet.

Next: samunet_predict -i IMAGES -o PREDICTIONS
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from samunet.cli import ma_sam
from samunet.cli.common import run_action


@dataclass(frozen=True, kw_only=True)
class Import(ma_sam.Import):
    """Authors' file to a fold that can predict."""

    configuration: Annotated[str, "-c CONFIGURATION"] = "2d_samed"
    """Configuration of the model."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_action("samunet_samed", __doc__, {"import": (Import, _import)}, argv)


def _import(options: Import) -> None:
    from samunet.pipeline import exchange

    ma_sam.write(options, partial(exchange.import_checkpoint, foreign=exchange.SAMED))
