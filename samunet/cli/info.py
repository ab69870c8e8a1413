"""Show versions, folders, datasets, plans, trained models, SAM checkpoints and GPUs; with --model the card of a model.

Next: samunet_plan_and_preprocess -d DATASET
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from samunet.cli.common import command, command_line

if TYPE_CHECKING:
    from samunet.core.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Options:
    ext_trainer: bool = False
    """Print only the folder of samunet's trainers for stock nnU-Net."""
    model: Annotated[str | None, "--model MODEL"] = None
    """Show the card of this model only: labels, channels, spacing, scores. A name as listed, a folder, or a dataset id
    or name where it has one model."""
    json: bool = False
    """As JSON, for programs."""


@command("samunet_info", __doc__, Options)
def main(options: Options) -> None:
    import json

    import samunet
    from samunet.core.workspace import workspace_from_environment
    from samunet.pipeline.information import gather, lines

    if options.ext_trainer:
        print(Path(samunet.__file__).parent / "ext_trainer")
        return
    if options.model is not None:
        print(_card(workspace_from_environment(), options.model))
        return
    found = gather(workspace_from_environment())
    print(json.dumps(found, indent=2) if options.json else "\n".join(lines(found)))


def _short(model: Path, workspace: Workspace) -> str:
    """Return what a model is called in the list, or its folder where it lies elsewhere."""
    listed = (
        workspace.results_folder is not None and model.parent.parent.resolve() == workspace.results_folder.resolve()
    )
    return f"{model.parent.name}/{model.name}" if listed else str(model)


def _card(workspace: Workspace, name: str) -> str:
    """Return the card that came with a model, or make one."""
    from samunet.checkpoints.model_card import CARD, model_card
    from samunet.core.results import find_model

    folder = find_model(
        name, workspace, lambda model: command_line(["samunet_info", "--model", _short(model, workspace)])
    )
    if (folder / CARD).is_file():
        lines = (folder / CARD).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join("".join(one for one in line if one.isprintable()) for line in lines)
    return model_card(folder.resolve())
