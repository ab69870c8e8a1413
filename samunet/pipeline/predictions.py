"""Trained folds and images to segmentations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from samunet.core.codec import write_json
from samunet.core.dataset import CHANNEL_FILE, Case, DatasetSpec, group_channels
from samunet.core.plan import save_plan
from samunet.core.workspace import Workspace
from samunet.errors import DatasetError
from samunet.inference.extras import Extras
from samunet.inference.files import Failure, predict_cases
from samunet.inference.predictor import PredictionOptions, Predictor, finished_folds
from samunet.pipeline.trainings import DEFAULT_TRAINER

logger = logging.getLogger(__name__)


def trained_models(workspace: Workspace) -> tuple[Path, ...]:
    """List every model folder of samunet that has a finished fold."""
    found = sorted(workspace.results.glob(f"Dataset*/{DEFAULT_TRAINER}__*__*"))
    return tuple(folder for folder in found if finished_folds(folder))


def cases_to_predict(source: Path, spec: DatasetSpec, folder: Path) -> tuple[Case, ...]:
    """List the cases of an input folder, or the one case of an input file.

    A folder without images of the dataset's ending is one DICOM series, or holds a folder a series, named <case> or <case>_0000.

    Raises:
        DatasetError: the input is absent or holds no file of the dataset's ending and no folder.
    """
    if source.is_file():
        stem = source.name.removesuffix(spec.file_ending)
        if stem == source.name:
            raise DatasetError(f"Input {source} does not end in {spec.file_ending}, the ending of {spec.name}; convert it.")
        return (Case(identifier=stem.removesuffix("_0000"), images=_channels_beside(source, spec), label=None),)
    if not source.is_dir():
        raise DatasetError(f"Input {source} does not exist; give a folder of images named <case>_0000{spec.file_ending}, or one such file.")
    grouped = group_channels(source, spec.file_ending) or _series_in(source)
    if not grouped:
        raise DatasetError(f"Input folder {source} holds no file named <case>_0000{spec.file_ending}, the form this model was trained on.")
    if source.resolve() == folder.resolve():
        raise DatasetError(f"Input and output are the same folder {source}; give another output folder.")
    return tuple(Case(identifier=name, images=files, label=None) for name, files in grouped.items())


def predict(
    predictor: Predictor,
    cases: Sequence[Case],
    folder: Path,
    *,
    save_probabilities: bool,
    skip_existing: bool,
    readers: int,
    writers: int,
    previews: bool = False,
    statistics: bool = False,
) -> tuple[Failure, ...]:
    """Predict cases into a folder, with the dataset.json and plans.json that evaluation needs, and colors for 3D Slicer."""
    spec = predictor.dataset
    wanted = [case for case in cases if not (skip_existing and _is_done(folder, case, spec, save_probabilities))]
    if len(wanted) < len(cases):
        logger.info("%d of %d cases are already predicted.", len(cases) - len(wanted), len(cases))
    write_json(folder / "dataset.json", spec.raw)
    save_plan(folder / "plans.json", predictor.plan)
    return predict_cases(
        predictor,
        wanted,
        folder,
        save_probabilities=save_probabilities,
        readers=readers,
        writers=writers,
        quiet=predictor.options.quiet,
        extras=Extras(folder=folder, labels=spec.labels, previews=previews, statistics=statistics),
    )


def prediction_options(*, step_size: float, flips: bool, device: torch.device, quiet: bool) -> PredictionOptions:
    """Return sliding-window options with a tile batch that suits the device."""
    return PredictionOptions(step_size=step_size, flips=flips, tile_batch=1 if device.type == "cpu" else 4, quiet=quiet)


def _series_in(source: Path) -> dict[str, tuple[Path, ...]]:
    """Folders of DICOM files by case; nothing where there are none."""
    folders = [path for path in sorted(source.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if not folders:
        return {source.resolve().name: (source,)} if any(source.glob("*.dcm")) else {}
    if all(CHANNEL_FILE.fullmatch(path.name) for path in folders):
        return group_channels(source, "")
    return {path.name: (path,) for path in folders}


def _channels_beside(source: Path, spec: DatasetSpec) -> tuple[Path, ...]:
    """All channel files of a case that is named by its first file."""
    stem = source.name.removesuffix(spec.file_ending)
    if not stem.endswith("_0000"):
        return (source,)
    return tuple(sorted(source.parent.glob(f"{stem[:-5]}_[0-9][0-9][0-9][0-9]{spec.file_ending}")))


def _is_done(folder: Path, case: Case, spec: DatasetSpec, save_probabilities: bool) -> bool:
    done = (folder / f"{case.identifier}{spec.file_ending}").is_file()
    return done and (not save_probabilities or (folder / f"{case.identifier}.npz").is_file())
