"""Write predicted volumes of videos, brought in by 'samunet_import video', as one PNG per frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import command


@dataclass(frozen=True, kw_only=True)
class Options:
    predictions: Annotated[Path, "-i FOLDER"]
    """Predictions, one volume per clip."""
    frames: Annotated[Path, "--frames FOLDER"]
    """Frames that the volumes were made from, one folder per clip."""
    output: Annotated[Path, "-o FOLDER"]
    """Folder for the frames."""


@command("samunet_frames", __doc__, Options)
def main(options: Options) -> None:
    from samunet.core.lock import held
    from samunet.importing.video import write_frames

    with held(options.output):
        print(f"Wrote {write_frames(options.predictions, options.frames, options.output)} frames to {options.output}")
