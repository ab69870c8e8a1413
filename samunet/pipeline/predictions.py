"""Trained folds and images to segmentations."""

from __future__ import annotations

import glob
import logging
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from samunet.core.codec import write_json
from samunet.core.dataset import CHANNEL_FILE, Case, DatasetSpec, group_channels
from samunet.core.geometry import WARN_VOXELS
from samunet.core.lock import held
from samunet.core.memory import available_memory
from samunet.core.names import check_case_name
from samunet.core.parts import is_part
from samunet.core.plan import save_plan
from samunet.core.prompts import PROMPTS, PromptFile, read_prompts
from samunet.core.units import readable
from samunet.errors import ConfigError, DatasetError, SamunetError
from samunet.imageio import reader_for
from samunet.imageio.dicom import is_dicom
from samunet.inference.extras import UNCERTAINTY, Extras
from samunet.inference.files import Failure, FileOptions, predict_cases
from samunet.inference.predictor import NO_PROMPTS, USELESS_PROMPTS, Predictor

logger = logging.getLogger(__name__)

SHARE_OF_FREE = 0.8  # of the memory that nobody uses


def cases_to_predict(sources: Path | Sequence[Path], spec: DatasetSpec, folder: Path) -> tuple[Case, ...]:
    """List the cases of one or more input folders or files.

    A folder without images of the dataset's ending is one DICOM series, or holds a folder a series, named <case> or <case>_0000.

    Raises:
        DatasetError: an input is absent or holds no file of the dataset's ending and no folder, a name is none of a case, or two are the same.
    """
    found: dict[str, Case] = {}
    for source in [sources] if isinstance(sources, Path) else sources:
        for case in _cases_of(source, spec, folder):
            check_case_name(case.identifier, source)
            if found.setdefault(case.identifier, case) != case:
                message = f"Two inputs are case '{case.identifier}': {found[case.identifier].images[0]} and {case.images[0]}; rename one."
                raise DatasetError(message)
    for case in found.values():
        target = folder / f"{case.identifier}{spec.file_ending}"
        if target.resolve() in {path.resolve() for path in case.images}:
            raise DatasetError(f"The segmentation of '{case.identifier}' would overwrite its image {target}; give another output folder.")
    return tuple(found.values())


def predict(
    predictor: Predictor,
    cases: Sequence[Case],
    folder: Path,
    options: FileOptions | None = None,
    *,
    skip_existing: bool = False,
    previews: bool = False,
    statistics: bool = False,
    remarks: dict[str, tuple[str, ...]] | None = None,
    share: str | None = None,
) -> tuple[Failure, ...]:
    """Predict cases into a folder, with the dataset.json and plans.json that evaluation needs, and colors for 3D Slicer.

    Args:
        skip_existing: leave cases whose files are there, can be read, and lie on the image's grid; others are predicted again.
        remarks: gets for every case that is read what of it is unlike the training cases.
        share: name of this part of the cases, where other commands predict others into the folder at the same time.

    Raises:
        InUseError: another command writes there.
        ConfigError: the networks alone need more than `options.max_ram`; prompts are missing, or given to a model without, or the folder
            holds predictions of the other kind.
    """
    spec, options = predictor.dataset, options or FileOptions()
    with held(folder, share=share):
        _check_prompts(options.prompts, predictor, cases, folder)
        options = _within_memory(options, predictor)
        wanted = [case for case in cases if not (skip_existing and _is_done(folder, case, predictor, options))]
        if len(wanted) < len(cases):
            logger.info("%d of %d cases are already predicted.", len(cases) - len(wanted), len(cases))
        write_json(folder / "dataset.json", spec.raw)
        save_plan(folder / "plans.json", predictor.plan)
        extras = Extras(folder=folder, labels=spec.labels, previews=previews, statistics=statistics)
        return predict_cases(predictor, wanted, folder, options, extras, remarks=remarks)


def _check_prompts(prompts: PromptFile | None, predictor: Predictor, cases: Sequence[Case], folder: Path) -> None:
    if predictor.prompted != (prompts is not None):
        raise ConfigError(NO_PROMPTS if predictor.prompted else USELESS_PROMPTS)
    if prompts is not None:
        for case in cases:
            prompts.of(case.identifier, predictor.dataset.labels)
    labelled = (folder / PROMPTS).is_file()
    if labelled != (prompts is not None) and (labelled or not all(map(is_part, folder.glob(f"*{predictor.dataset.file_ending}")))):
        kinds = ("with", "without") if labelled else ("without", "with")
        raise ConfigError(f"{folder} holds predictions made {kinds[0]} prompts; write those {kinds[1]} to another folder.")


def tile_batch(device: torch.device) -> int:
    """Return how many tiles suit a device at a time."""
    return 1 if device.type == "cpu" else 4


def _cases_of(source: Path, spec: DatasetSpec, folder: Path) -> tuple[Case, ...]:
    if source.is_file():
        stem = source.name.removesuffix(spec.file_ending)
        if stem == source.name:
            raise DatasetError(f"Input {source} does not end in {spec.file_ending}, the ending of {spec.name}; convert it.")
        match = CHANNEL_FILE.fullmatch(stem)
        if match is None or not source.with_name(f"{match['case']}_0000{spec.file_ending}").is_file():
            return (Case(identifier=stem, images=(source,), label=None),)
        channels = sorted(source.parent.glob(f"{glob.escape(match['case'])}_[0-9][0-9][0-9][0-9]{spec.file_ending}"))
        return (Case(identifier=match["case"], images=tuple(channels), label=None),)
    if not source.is_dir():
        raise DatasetError(f"Input {source} does not exist; give a folder of images named <case>_0000{spec.file_ending}, or one such file.")
    grouped = group_channels(source, spec.file_ending) or _series_in(source)
    if not grouped:
        raise DatasetError(f"Input folder {source} holds no file named <case>_0000{spec.file_ending}, the form this model was trained on.")
    if source.resolve() == folder.resolve():
        raise DatasetError(f"Input and output are the same folder {source}; give another output folder.")
    return tuple(Case(identifier=name, images=files, label=None) for name, files in grouped.items())


def _series_in(source: Path) -> dict[str, tuple[Path, ...]]:
    """Folders of DICOM files by case; nothing where there are none."""
    folders = [path for path in sorted(source.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if not folders:
        return {source.resolve().name: (source,)} if any(is_dicom(path) for path in sorted(source.iterdir())) else {}
    if all(CHANNEL_FILE.fullmatch(path.name) for path in folders):
        return group_channels(source, "")
    return {path.name: (path,) for path in folders}


def _within_memory(options: FileOptions, predictor: Predictor) -> FileOptions:
    """Take what the networks need off the limit; without a limit, keep to a share of what is free now."""
    if options.max_ram is None:
        free = available_memory()
        return options if free is None else replace(options, available=int(SHARE_OF_FREE * free), free=free)
    working = predictor.working_memory()
    if working >= options.max_ram:
        raise ConfigError(f"The network alone works with {readable(working)}; give --max_ram more than that.")
    return replace(options, max_ram=options.max_ram - working)


def _is_done(folder: Path, case: Case, predictor: Predictor, options: FileOptions) -> bool:
    """Tell whether every file of a case is there, whole, and on the image's grid."""
    spec = predictor.dataset
    names = [folder / f"{case.identifier}{spec.file_ending}"]
    names += [folder / UNCERTAINTY / names[0].name] if predictor.options.uncertainty else []
    if not all(path.is_file() for path in names):
        return False
    if options.prompts is not None and read_prompts(folder / PROMPTS).cases.get(case.identifier) != options.prompts.cases[case.identifier]:
        return False
    reader = reader_for(spec.file_ending, predictor.plan.reader)
    try:
        grid = reader.read_image(case.images[:1]).geometry  # a header alone does not tell the position
        for path in names:
            geometry = reader.read_label(path)[1]
            if geometry.shape != grid.shape or geometry.voxels_apart(grid) >= WARN_VOXELS:
                logger.warning("%s lies on another grid than the image of case '%s'. It is predicted again.", path, case.identifier)
                return False
        if options.save_probabilities:
            with zipfile.ZipFile(folder / f"{case.identifier}.npz") as archive:
                return archive.testzip() is None
    except (SamunetError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        logger.warning("%s It is predicted again.", error)
        return False
    return True
