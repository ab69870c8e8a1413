"""Pretrain a network that segments what prompts show on procedural scenes, and write its weights.

No image of anybody is needed. Ctrl-C ends it after the step, with everything saved; --c goes on.
Example: samunet_pretrain -o seed --minutes 60
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from samunet.cli.common import Device, command
from samunet.pretraining.recipe import Learning, Recipe
from samunet.training.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    folder: Annotated[Path, "-o FOLDER"]
    """Folder for logs, checkpoints and weights."""
    resume: Annotated[bool, "--c"] = False
    """Continue what is in the folder, with its settings."""
    overwrite: bool = False
    """Pretrain again what is finished."""
    start: Annotated[Path | None, "-pretrained_weights FILE"] = None
    """Start from another seed, as far as it fits; "seed" for the one that comes with samunet."""
    device: Device = None
    recipe: Annotated[dict[str, Any], Recipe]
    learning: Annotated[dict[str, Any], Learning]
    run: RunConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    typed = list(sys.argv[1:] if argv is None else argv)
    return command("samunet_pretrain", __doc__, Options)(lambda options: _command(options, typed))(typed)


def _command(options: Options, typed: list[str]) -> None:
    from samunet.errors import ConfigError
    from samunet.pipeline.pretraining import PretrainOptions, pretrain

    if options.resume and options.overwrite:
        raise ConfigError("--overwrite pretrains from the beginning; leave out --c, which goes on.")
    written = pretrain(
        PretrainOptions(
            folder=options.folder,
            recipe=options.recipe,
            learning=options.learning,
            device=options.device,
            start=options.start,
            resume=options.resume,
            overwrite=options.overwrite,
            run=options.run,
            command=("samunet_pretrain", *typed),
        )
    )
    print("Stopped, nothing is lost. The same command with --c goes on." if written is None else f"Done: {written}")


if __name__ == "__main__":
    sys.exit(main())
