"""samunet_determine_postprocessing: find out whether keeping only largest components helps."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samunet.cli.common import DEFAULT_THREADS, make_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_determine_postprocessing",
        "Find out on predictions with references whether keeping only the largest component, of the foreground or of "
        "a class, raises Dice.",
        "Next: samunet_apply_postprocessing -i PREDICTIONS -o FOLDER -pp_file postprocessing.json",
    )
    parser.add_argument(
        "-i", type=Path, required=True, metavar="FOLDER", help="predictions, for example a fold's validation folder"
    )
    parser.add_argument("-ref", type=Path, required=True, metavar="FOLDER", help="references of the same file names")
    add_options(parser)
    parser.add_argument(
        "--remove_postprocessed", action="store_true", help="do not write the postprocessed predictions"
    )
    return run(parser, _determine, argv)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that both postprocessing commands take."""
    parser.add_argument(
        "-dataset_json",
        type=Path,
        metavar="FILE",
        help="names labels and file ending (default: the one in or above -i)",
    )
    parser.add_argument(
        "-plans_json", type=Path, metavar="FILE", help="accepted as nnU-Net's command takes it, and not needed"
    )
    parser.add_argument(
        "-np", type=int, default=DEFAULT_THREADS, metavar="N", help="cases at a time (default: %(default)s)"
    )


def dataset_json(folder: Path, given: Path | None) -> Path:
    """Return the dataset.json that was given, or the one in a folder or up to three folders above it."""
    from samunet.errors import ConfigError

    candidates = (
        [given] if given else [parent / "dataset.json" for parent in (folder, *list(folder.resolve().parents)[:3])]
    )
    for path in candidates:
        if path.is_file():
            return path
    raise ConfigError(f"No dataset.json in or above {folder}; give one with -dataset_json.")


def _determine(arguments: argparse.Namespace) -> None:
    from samunet.core.codec import write_json
    from samunet.core.dataset import files_with_ending, read_dataset_json
    from samunet.evaluation.postprocessing import POSTPROCESSING_FILE, apply_to_folder, determine, name_of
    from samunet.imageio import reader_of_segmentations

    dataset = read_dataset_json(dataset_json(arguments.i, arguments.dataset_json))
    reader, threads = reader_of_segmentations(arguments.i, dataset), arguments.np
    references = files_with_ending(arguments.ref, dataset.file_ending)
    found = determine(
        references, arguments.i, labels=dataset.labels, file_ending=dataset.file_ending, reader=reader, threads=threads
    )
    for step in found.steps:
        print(
            f"Keep the largest component of {name_of(step.values, dataset.labels)}: Dice {step.dice_before:.4f} -> "
            f"{step.dice_after:.4f}"
        )
    if not found.steps:
        print(f"Nothing helps on these {found.cases} cases; the postprocessing is empty.")
    write_json(arguments.i / POSTPROCESSING_FILE, found)
    print(f"Wrote {arguments.i / POSTPROCESSING_FILE}")
    if not arguments.remove_postprocessed:
        target = arguments.i / "postprocessed"
        names = apply_to_folder(
            found, arguments.i, target, file_ending=dataset.file_ending, reader=reader, threads=threads
        )
        print(f"Wrote {len(names)} segmentations to {target}")
