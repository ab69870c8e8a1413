"""Find out on predictions with references whether keeping only the largest component, of the foreground or of a class,
raises Dice.

Next: samunet_apply_postprocessing -i PREDICTIONS -o FOLDER -pp_file postprocessing.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from samunet.cli.common import DEFAULT_THREADS, Threads, command
from samunet.core.units import counted

if TYPE_CHECKING:
    from samunet.core.dataset import DatasetSpec


@dataclass(frozen=True, kw_only=True)
class Postprocessing:
    """What both postprocessing commands take."""

    predictions: Annotated[Path, "-i FOLDER"]
    """Predictions, for example a fold's validation folder."""
    dataset_json: Annotated[Path | None, "-dataset_json FILE"] = None
    """Names labels and file ending (default: the one in or above -i)."""
    plans_json: Annotated[Path | None, "-plans_json FILE"] = None
    """Accepted as nnU-Net's command takes it, and not needed."""
    threads: Threads = DEFAULT_THREADS

    def dataset(self) -> DatasetSpec:
        """Read the dataset.json that was given, or the one in the folder or up to three folders above it."""
        from samunet.core.dataset import read_dataset_json
        from samunet.errors import ConfigError

        folders = (self.predictions, *list(self.predictions.resolve().parents)[:3])
        for path in [self.dataset_json] if self.dataset_json else [folder / "dataset.json" for folder in folders]:
            if path.is_file():
                return read_dataset_json(path)
        raise ConfigError(f"No dataset.json in or above {self.predictions}; give one with -dataset_json.")


@dataclass(frozen=True, kw_only=True)
class Options(Postprocessing):
    references: Annotated[Path, "-ref FOLDER"]
    """References of the same file names."""
    apply: Annotated[bool, "--remove_postprocessed"] = True
    """Write the postprocessed predictions too."""


@command("samunet_determine_postprocessing", __doc__, Options)
def main(options: Options) -> None:
    from samunet.core.codec import write_json
    from samunet.core.dataset import files_with_ending
    from samunet.evaluation.postprocessing import POSTPROCESSING_FILE, apply_to_folder, determine, name_of
    from samunet.imageio import reader_of_segmentations

    dataset = options.dataset()
    reader, threads = reader_of_segmentations(options.predictions, dataset), options.threads
    references = files_with_ending(options.references, dataset.file_ending)
    found = determine(
        references,
        options.predictions,
        labels=dataset.labels,
        file_ending=dataset.file_ending,
        reader=reader,
        threads=threads,
    )
    for step in found.steps:
        print(
            f"Keep the largest component of {name_of(step.values, dataset.labels)}: Dice {step.dice_before:.4f} -> "
            f"{step.dice_after:.4f}"
        )
    if not found.steps:
        print(f"Nothing helps on {counted(found.cases, 'case')}; the postprocessing is empty.")
    write_json(options.predictions / POSTPROCESSING_FILE, found)
    print(f"Wrote {options.predictions / POSTPROCESSING_FILE}")
    if options.apply:
        target = options.predictions / "postprocessed"
        how: dict[str, Any] = {"file_ending": dataset.file_ending, "reader": reader, "threads": threads}
        names = apply_to_folder(found, options.predictions, target, labels=dataset.labels, **how)
        print(f"Wrote {counted(len(names), 'segmentation')} to {target}")
