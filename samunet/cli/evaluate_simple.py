"""samunet_evaluate_simple: score predictions of given label values, without a dataset.json."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samunet.cli.common import make_parser, run
from samunet.cli.evaluate_folder import add_folders, add_options, measures_of, write_and_print
from samunet.errors import DatasetError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_evaluate_simple",
        "Score a folder of segmentations against references for the label values you name.",
        (
            "Next: open summary.json (nnU-Net's layout), which lists every case; for regions and names use "
            "samunet_evaluate_folder."
        ),
    )
    add_folders(parser)
    parser.add_argument("-l", type=int, nargs="+", required=True, metavar="LABEL", help="label values to score")
    parser.add_argument(
        "-il", type=int, metavar="LABEL", help="ignore label: reference voxels of this value do not count"
    )
    add_options(parser)
    return run(parser, _evaluate, argv)


def _evaluate(arguments: argparse.Namespace) -> None:
    from samunet.evaluation.score import evaluate_folder
    from samunet.imageio import reader_for

    file_ending, example = _file_ending(arguments.gt_folder)
    summary = evaluate_folder(
        arguments.gt_folder,
        arguments.pred_folder,
        targets=[(label,) for label in arguments.l],
        ignore=arguments.il,
        file_ending=file_ending,
        reader=reader_for(file_ending, example=example),
        threads=arguments.np,
        chill=arguments.chill,
        measures=measures_of(arguments),
    )
    names = {str(label): f"label {label}" for label in arguments.l}
    write_and_print(summary, names, arguments.o or arguments.pred_folder / "summary.json", arguments.csv)


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
            f"Folder {folder} holds files ending in {', '.join(sorted(endings)) or 'nothing'}; "
            "one ending is expected. Keep only the reference segmentations there, or use samunet_evaluate_folder with "
            "a dataset.json."
        )
    return next(iter(endings.items()))
