"""Score a folder of segmentations against references for the label values you name.

Next: open summary.json (nnU-Net's layout), which lists every case; for regions and names use
samunet_evaluate_folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.cli.common import command
from samunet.cli.evaluate_folder import Evaluation, write_and_print
from samunet.errors import DatasetError


@dataclass(frozen=True, kw_only=True)
class Options(Evaluation):
    labels: Annotated[tuple[int, ...], "-l LABEL"]
    """Label values to score."""
    ignore: Annotated[int | None, "-il LABEL"] = None
    """Ignore label: reference voxels of this value do not count."""


@command("samunet_evaluate_simple", __doc__, Options)
def main(options: Options) -> None:
    from samunet.evaluation.score import evaluate_folder
    from samunet.imageio import reader_for

    file_ending, example = _file_ending(options.references)
    summary = evaluate_folder(
        options.references,
        options.predictions,
        targets=[(label,) for label in options.labels],
        ignore=options.ignore,
        file_ending=file_ending,
        reader=reader_for(file_ending, example=example),
        threads=options.threads,
        chill=options.chill,
        measures=options.measures(),
    )
    names = {str(label): f"label {label}" for label in options.labels}
    write_and_print(summary, names, options.summary_file, options.csv)


def _file_ending(folder: Path) -> tuple[str, Path]:
    """Return the one file ending in a folder of segmentations, and a file that has it."""
    if not folder.is_dir():
        raise DatasetError(f"Folder {folder} does not exist; give the folder that holds the reference segmentations.")
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".") and path.suffix != ".json"
    )
    endings = {
        ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower(): path for path in reversed(files)
    }
    if len(endings) != 1:
        raise DatasetError(
            f"Folder {folder} holds files ending in {', '.join(sorted(endings)) or 'nothing'}; one ending is expected. "
            "Keep only the reference segmentations there, or use samunet_evaluate_folder with a dataset.json."
        )
    return next(iter(endings.items()))
