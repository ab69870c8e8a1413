"""Apply what samunet_determine_postprocessing found to a folder of segmentations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import command
from samunet.cli.determine_postprocessing import Postprocessing
from samunet.core.units import counted


@dataclass(frozen=True, kw_only=True)
class Options(Postprocessing):
    output: Annotated[Path, "-o FOLDER"]
    """Folder for the postprocessed ones."""
    postprocessing: Annotated[Path, "-pp_file -pp_pkl_file FILE"]
    """postprocessing.json; never a pickle."""


@command("samunet_apply_postprocessing", __doc__, Options)
def main(options: Options) -> None:
    from samunet.evaluation.postprocessing import apply_to_folder, load_postprocessing
    from samunet.imageio import reader_of_segmentations

    found = load_postprocessing(options.postprocessing)
    dataset = options.dataset()
    reader = reader_of_segmentations(options.predictions, dataset)
    names = apply_to_folder(
        found,
        options.predictions,
        options.output,
        labels=dataset.labels,
        file_ending=dataset.file_ending,
        reader=reader,
        threads=options.threads,
    )
    print(f"Wrote {counted(len(names), 'segmentation')} to {options.output}")
