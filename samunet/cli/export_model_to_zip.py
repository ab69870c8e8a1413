"""Pack a trained model with its plan, scores and a card; every file is listed with its SHA-256.

Next: samunet_install_pretrained_model_from_zip FILE, on another machine
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import command
from samunet.cli.predict import Choice, choose_model


@dataclass(frozen=True, kw_only=True)
class Options:
    output: Annotated[Path, "-o FILE"]
    """Zip file to write."""
    folds: Annotated[tuple[str, ...] | None, "-f FOLD"] = None
    """Folds to pack (default: all that have the checkpoint)."""
    checkpoint: Annotated[str, "-chk NAME"] = "checkpoint_final"
    """Checkpoint to pack."""
    license: Annotated[str, "--license TEXT"] = "not stated"
    """Terms of use, for its card."""
    embed_backbone: bool = False
    """Pack the frozen SAM weights too, so that the zip works offline."""
    model: Choice


@command("samunet_export_model_to_zip", __doc__, Options)
def main(options: Options) -> None:
    from samunet.checkpoints.model_zip import export_model
    from samunet.core.lock import reading
    from samunet.core.units import counted, readable
    from samunet.core.workspace import workspace_from_environment

    workspace = workspace_from_environment()
    model = choose_model(workspace, options.model, options.checkpoint)
    with ExitStack() as stack:
        every = filter(Path.is_dir, model.glob("fold_*"))
        for fold in [model / f"fold_{fold}" for fold in options.folds] if options.folds else every:
            stack.enter_context(reading(fold))  # lest a training writes it meanwhile
        manifest = export_model(
            model,
            options.output,
            folds=options.folds,
            checkpoint=options.checkpoint,
            license_text=options.license,
            embed=options.embed_backbone,
            weights_folders=workspace.weights_folders,
        )
    size = readable(options.output.stat().st_size)
    print(f"Wrote {options.output}: {manifest.model}, {counted(len(manifest.files), 'file')}, {size}")
    if manifest.weights and not options.embed_backbone:
        print(
            f"It needs {manifest.weights} (SHA-256 {manifest.weights_sha256}) on the other machine, or "
            "--embed_backbone here."
        )
