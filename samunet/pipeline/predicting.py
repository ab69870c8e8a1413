"""Trained folds and images to segmentations."""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from samunet.core.codec import write_json
from samunet.core.dataset import Case
from samunet.core.geometry import WARN_VOXELS
from samunet.core.lock import held
from samunet.core.memory import available_memory
from samunet.core.parts import begin_part, end_part, is_part, part_name
from samunet.core.plan import save_plan
from samunet.core.prompts import PROMPTS, PromptFile, read_prompts
from samunet.core.units import counted, readable
from samunet.errors import ConfigError, DatasetError, SamunetError
from samunet.imageio import known_ending, output_ending, reader_of_image, writer_for
from samunet.imageio.natural import TIFF
from samunet.inference.extras import UNCERTAINTY, Extras
from samunet.inference.files import Outcome, predict_cases
from samunet.inference.options import FileOptions as FileOptions
from samunet.inference.predictor import Predictor
from samunet.inference.prompted_predictor import refuse_unfitting_prompts

logger = logging.getLogger(__name__)

SHARE_OF_FREE = 0.8  # of the memory that nobody uses


def predict(
    predictor: Predictor,
    cases: Sequence[Case],
    folder: Path,
    options: FileOptions | None = None,
    *,
    skip_existing: bool = False,
    previews: bool = False,
    views: bool = False,
    statistics: bool = False,
    share: str | None = None,
) -> Outcome:
    """Predict cases into a folder, with the dataset.json and plans.json that evaluation needs, and colors for 3D
    Slicer.

    Args:
        skip_existing: leave cases whose files are there, can be read, and lie on the image's grid; others are predicted
            again.
        share: name of this part of the cases, where other commands predict others into the folder at the same time.

    Raises:
        InUseError: another command writes there.
        ConfigError: the networks alone need more than `options.max_ram`; prompts are missing, or given to a model
            without, or the folder holds predictions of the other kind.
    """
    spec, options = predictor.dataset, options or FileOptions()
    with held(folder, share=share):
        _check_prompts(options.prompts, predictor, cases, folder)
        options = within_memory(options, predictor)
        to_predict = [case for case in cases if not (skip_existing and _is_done(folder, case, predictor, options))]
        if len(to_predict) < len(cases):
            logger.info("Already predicted: %d of %s.", len(cases) - len(to_predict), counted(len(cases), "case"))
        write_json(folder / "dataset.json", _description(cases, predictor, options))
        save_plan(folder / "plans.json", predictor.plan)
        extras = Extras(folder=folder, labels=spec.labels, previews=previews, views=views, statistics=statistics)
        return predict_cases(predictor, to_predict, folder, options, extras)


def predict_to_file(predictor: Predictor, cases: Sequence[Case], file: Path, options: FileOptions) -> Outcome:
    """Predict one case into a file, with nothing beside it but the spacing of a TIFF stack; raises as `predict`.

    Raises:
        ConfigError: the inputs are not one case, or more than a segmentation is asked for.
        DatasetError: the file is the case's image.
    """
    if len(cases) != 1 or options.save_probabilities or predictor.options.uncertainty:
        what = (
            "more than a segmentation is asked for"
            if len(cases) == 1
            else f"the inputs are {counted(len(cases), 'case')}"
        )
        raise ConfigError(f"-o {file} is a file, and {what}; give a folder.")
    if file.resolve() in {path.resolve() for path in cases[0].images}:
        raise DatasetError(
            f"The segmentation of '{cases[0].identifier}' would overwrite its image {file}; give another file."
        )
    ending = known_ending(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    folder = file.parent / part_name()
    begin_part(folder)
    folder.mkdir()
    try:
        outcome = predict(predictor, cases, folder, replace(options, ending=ending))
        made, beside = (folder / f"{cases[0].identifier}{part}" for part in (ending, ".json"))
        if beside.is_file():
            beside.replace(file.with_suffix(".json"))
        elif ending in TIFF and made.is_file():
            file.with_suffix(".json").unlink(missing_ok=True)  # the spacing of an earlier stack
        if made.is_file():
            made.replace(file)
    finally:
        end_part(folder)
    return outcome


def _description(cases: Sequence[Case], predictor: Predictor, options: FileOptions) -> dict[str, Any]:
    """Return the dataset.json of predictions: the model's, with the ending of what is written where that is one of its
    own.
    """
    spec = predictor.dataset
    endings = {options.ending or output_ending(case.images[0], spec.file_ending) for case in cases}
    if len(endings) != 1 or endings == {spec.file_ending}:
        return spec.raw
    kept = {key: value for key, value in spec.raw.items() if key != "overwrite_image_reader_writer"}
    return {**kept, "file_ending": endings.pop()}


def _check_prompts(prompts: PromptFile | None, predictor: Predictor, cases: Sequence[Case], folder: Path) -> None:
    refuse_unfitting_prompts(predictor, prompts)
    if prompts is not None:
        for case in cases:
            prompts.of(case.identifier, predictor.dataset.labels)
    labelled = (folder / PROMPTS).is_file()
    if labelled != (prompts is not None) and (
        labelled or not all(map(is_part, folder.glob(f"*{predictor.dataset.file_ending}")))
    ):
        kinds = ("with", "without") if labelled else ("without", "with")
        raise ConfigError(
            f"{folder} holds predictions made {kinds[0]} prompts; write those {kinds[1]} to another folder."
        )


def tile_batch(device: torch.device) -> int:
    """Return how many tiles suit a device at a time."""
    return 1 if device.type == "cpu" else 4


def within_memory(options: FileOptions, predictor: Predictor) -> FileOptions:
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
    ending = options.ending or output_ending(case.images[0], spec.file_ending)
    names = [folder / f"{case.identifier}{ending}"]
    names += [folder / UNCERTAINTY / names[0].name] if predictor.options.uncertainty else []
    if not all(path.is_file() for path in names):
        return False
    shown = None if options.prompts is None else options.prompts.cases[case.identifier]
    if shown is not None and read_prompts(folder / PROMPTS).cases.get(case.identifier) != shown:
        return False
    reader = reader_of_image(case.images[0], predictor.plan.reader, options.series)
    try:
        grid = reader.read_image(case.images[:1]).geometry  # a header alone does not tell the position
        for path in names:
            geometry = writer_for(ending, predictor.plan.reader, planar=grid.planar).read_label(path)[1]
            if geometry.shape != grid.shape or geometry.voxels_apart(grid) >= WARN_VOXELS:
                what = f"{path} lies on another grid than the image of case '{case.identifier}'"
                logger.warning("%s. It is predicted again.", what)
                return False
        if options.save_probabilities:
            with zipfile.ZipFile(folder / f"{case.identifier}.npz") as archive:
                return archive.testzip() is None
    except (SamunetError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        logger.warning("%s It is predicted again.", error)
        return False
    return True
