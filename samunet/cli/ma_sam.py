"""Read a checkpoint of the MA-SAM authors' code into a fold of samunet, or write a fold as such a checkpoint.

Next, after import: samunet_predict -i IMAGES -o PREDICTIONS
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from samunet.cli.common import Dataset, run_action
from samunet.core.names import DEFAULT_PLANS_NAME


@dataclass(frozen=True, kw_only=True)
class Import:
    """Authors' file to a fold that can predict."""

    file: Annotated[Path, "FILE"]
    """Checkpoint of the authors' code."""
    dataset: Dataset
    """Id or name of a planned dataset with the same classes."""
    configuration: Annotated[str, "-c CONFIGURATION"] = "3d_ma_sam"
    """Configuration of the model."""
    plans: Annotated[str, "-p PLANS"] = DEFAULT_PLANS_NAME
    """Plan of the model."""
    fold: Annotated[str, "-f FOLD"] = "all"
    """Fold of the model."""


@dataclass(frozen=True, kw_only=True)
class Export(Import):
    """Trained fold to an authors' file."""

    file: Annotated[Path, "FILE"]
    """File to write, .pth."""
    dataset: Dataset
    """Id or name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_action("samunet_ma_sam", __doc__, {"import": (Import, _import), "export": (Export, _export)}, argv)


def _import(options: Import) -> None:
    from samunet.pipeline import exchange

    write(options, partial(exchange.import_checkpoint, foreign=exchange.MA_SAM))


def _export(options: Export) -> None:
    from samunet.pipeline import exchange

    write(options, exchange.export_ma_sam)


def write(options: Import, action: Callable[..., Path]) -> None:
    """Call an action of `samunet.pipeline.exchange` and say what it wrote."""
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    meant = {"configuration": options.configuration, "plans_name": options.plans, "fold": options.fold}
    print(f"Wrote {action(workspace, workspace.dataset_name(options.dataset), options.file, **meant)}")
