"""Average the probabilities of several prediction folders, of samunet's or nnU-Net's models, and write the
segmentations.

Before: samunet_predict -i IMAGES -o FOLDER --save_probabilities, once per model
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import DEFAULT_THREADS, Threads, command
from samunet.core.units import counted


@dataclass(frozen=True, kw_only=True)
class Options:
    folders: Annotated[tuple[Path, ...], "-i FOLDER"]
    """Prediction folders with <case>.npz; two or more."""
    output: Annotated[Path, "-o FOLDER"]
    """Folder for the segmentations."""
    threads: Threads = min(2, DEFAULT_THREADS)
    save_npz: bool = False
    """Also write the mean probabilities."""


@command("samunet_ensemble", __doc__, Options)
def main(options: Options) -> None:
    from samunet.inference.ensemble import ensemble

    cases = ensemble(options.folders, options.output, threads=options.threads, save_probabilities=options.save_npz)
    print(f"Wrote {counted(len(cases), 'segmentation')} to {options.output}")
