"""Segment a folder of images, or one image, with a trained model. Needs no further option when only one model is
trained.

Next: samunet_evaluate_folder REFERENCES PREDICTIONS
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from samunet.cli.common import Device, command, parse_bytes, print_next
from samunet.core.units import counted
from samunet.inference.options import FileOptions, PredictionOptions

if TYPE_CHECKING:
    from samunet.core.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Predicting:
    """What both prediction commands take."""

    images: Annotated[tuple[Path, ...], "-i INPUT"]
    """Folder of images named <case>_0000<ending>, image files, or DICOM folders."""
    output: Annotated[Path, "-o FOLDER"]
    """Folder for the segmentations; for one image also a file to write."""
    ending: Annotated[str | None, "--ending ENDING"] = None
    """Of the segmentations, e.g. .nii.gz (default: the input's, for DICOM the training's)."""
    series: Annotated[str | None, "--series WHICH"] = None
    """Of DICOM folders with several series: number in the list, UID or description."""
    prompts: Annotated[Path | None, "--prompts FILE"] = None
    """Clicks and boxes, for models that segment what they show."""
    folds: Annotated[tuple[str, ...] | None, "-f FOLD"] = None
    """Folds whose logits are averaged (default: all finished ones)."""
    checkpoint: Annotated[str, "-chk NAME"] = "checkpoint_final"
    """Checkpoint, with or without ending."""
    save_probabilities: bool = False
    """Also write <case>.npz with the probabilities."""
    preview: bool = False
    """Also write previews/<case>.png, the slice with the most classes."""
    view: bool = False
    """Also write view/<case>.html: three planes and 3D in any browser, without a server."""
    statistics: bool = False
    """Also write statistics.json and .csv: volume and mean intensity per class."""
    report: Annotated[Path | None, "--report FILE"] = None
    """Also write what was predicted, with what, and what failed, as JSON."""
    skip_existing: Annotated[bool, "--continue_prediction --c"] = False
    """Leave cases that are already predicted."""
    readers: Annotated[int, "-npp N"] = FileOptions.readers
    """Cases read and preprocessed ahead."""
    writers: Annotated[int, "-nps N"] = FileOptions.writers
    """Cases resampled and written at a time."""
    max_ram: Annotated[int | None, "--max_ram SIZE", parse_bytes] = None
    """Memory that predicting may take, such as 2G (default: what is free)."""
    compile: bool = False
    """Compile the network with torch.compile; worth it for many cases."""
    device: Device = None
    previous_stage: Annotated[str | None, "-prev_stage_predictions FOLDER"] = None
    """Refused: samunet has no cascade."""
    verbose: bool = False
    """Accepted as nnU-Net's command takes it; nothing more is said."""
    sliding: PredictionOptions


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which trained model, where there are several."""

    dataset: Annotated[str | None, "-d DATASET"] = None
    """Dataset id or name of the model."""
    plans: Annotated[str | None, "-p NAME"] = None
    """Plan of the model."""
    trainer: Annotated[str | None, "-tr NAME"] = None
    """Trainer of the model."""
    configuration: Annotated[str | None, "-c CONFIGURATION"] = None
    """Configuration of the model."""


@dataclass(frozen=True, kw_only=True)
class Options(Predicting):
    parts: Annotated[int, "-num_parts N"] = 1
    """Share the cases among N commands."""
    part: Annotated[int, "-part_id I"] = 0
    """Which share this command takes, from 0."""
    model: Choice


def predict_with_model(options: Predicting, folder: Path, *, num_parts: int = 1, part_id: int = 0) -> int:
    """Load a model folder and predict; returns 3 when some cases failed."""
    from samunet import __version__, pipeline
    from samunet.core.codec import write_json
    from samunet.core.plan import NO_LOW_RESOLUTION
    from samunet.core.prompts import read_prompts
    from samunet.core.workspace import workspace_from_environment
    from samunet.errors import ConfigError
    from samunet.imageio import ENDINGS, known_ending
    from samunet.imageio.natural import JPEG
    from samunet.inference.load import load_predictor
    from samunet.machine.hardware import PRECISION_NAMES, choose_device, keep_freed_memory

    if options.previous_stage is not None:
        raise ConfigError(f"-prev_stage_predictions: {NO_LOW_RESOLUTION}")
    if num_parts < 1 or not 0 <= part_id < num_parts:
        raise ConfigError(f"-part_id must be from 0 to -num_parts - 1; got part {part_id} of {num_parts}.")
    if options.ending is not None and (options.ending not in ENDINGS or options.ending in JPEG):
        raise ConfigError(f"--ending must be one of {', '.join(sorted({*ENDINGS} - {*JPEG}))}; got {options.ending!r}.")
    prompts = None if options.prompts is None else read_prompts(options.prompts)
    keep_freed_memory()
    sliding = replace(options.sliding, tile_batch=pipeline.tile_batch(choose_device(options.device)))
    predictor = load_predictor(
        folder,
        folds=options.folds,
        checkpoint=options.checkpoint,
        device=options.device,
        options=sliding,
        weights_folders=workspace_from_environment().weights_folders,
        compile=options.compile,
    )
    to_file = bool(known_ending(options.output)) and not options.output.is_dir()
    # No image of -i lies there, so that none seems overwritten.
    folder_of_cases = options.output.parent / options.output.stem if to_file else options.output
    cases = pipeline.cases_to_predict(options.images, predictor.dataset, folder_of_cases, options.ending)[
        part_id::num_parts
    ]
    precision = PRECISION_NAMES[predictor.precision]
    where = f"{predictor.device} in {precision}"
    print(
        f"Model {folder.parent.name}/{folder.name}, {'fold' if len(predictor.folds) == 1 else 'folds'} "
        f"{', '.join(predictor.folds)}, {counted(len(cases), 'case')}, {where}"
    )
    began = time.monotonic()
    files = FileOptions(
        save_probabilities=options.save_probabilities,
        readers=options.readers,
        writers=options.writers,
        max_ram=options.max_ram,
        ending=options.ending,
        series=options.series,
        quiet=sliding.quiet,
        prompts=prompts,
    )
    if to_file:
        _refuse_folder_options(options)
        outcome = pipeline.predict_to_file(predictor, cases, options.output, files)
    else:
        outcome = pipeline.predict(
            predictor,
            cases,
            options.output,
            files,
            skip_existing=options.skip_existing,
            previews=options.preview,
            views=options.view,
            statistics=options.statistics,
            share=f"part {part_id} of {num_parts}" if num_parts > 1 else None,
        )
    if options.report:
        failed = {failure.identifier: failure.reason for failure in outcome.failures}
        report = {
            "samunet": __version__,
            "model": f"{folder.parent.name}/{folder.name}",
            "folds": predictor.folds,
            "checkpoint": options.checkpoint,
            "device": str(predictor.device),
            "precision": precision,
            "options": predictor.options,
            "seconds": round(time.monotonic() - began, 2),
            "cases": [
                {"case": name, "failed": failed.get(name), "remarks": outcome.remarks.get(name, ())}
                for name in (case.identifier for case in cases)
            ],
        }
        write_json(options.report, report)
    if outcome.failures:
        names = ", ".join(failure.identifier for failure in outcome.failures)
        print(f"{len(outcome.failures)} of {counted(len(cases), 'case')} failed: {names}")
        return 3
    done = (
        f"{counted(len(cases), 'segmentation')} are in"
        if options.skip_existing
        else f"Wrote {counted(len(cases), 'segmentation')} to"
    )
    print(f"{done} {options.output}")
    if not to_file:
        _say_pictures(options)
        print_next("samunet_evaluate_folder", _references(options.images), options.output)
    return 0


def _say_pictures(options: Predicting) -> None:
    from samunet.evaluation.view import FOLDER as VIEWS
    from samunet.inference.extras import PREVIEWS

    for asked, what, name in ((options.preview, "pictures", PREVIEWS), (options.view, "pages", VIEWS)):
        if asked:
            print(f"Wrote {what} to look at to {options.output / name}")


def _references(images: tuple[Path, ...]) -> Path | str:
    """Return the folder of references of images that lie in a raw dataset, or a word for the user to fill in."""
    folder = images[0].resolve()
    labels = folder.with_name(folder.name.replace("images", "labels"))
    return labels if len(images) == 1 and folder.is_dir() and labels != folder and labels.is_dir() else "REFERENCES"


def _refuse_folder_options(options: Predicting) -> None:
    from samunet.errors import ConfigError

    given = {
        "--preview": options.preview,
        "--view": options.view,
        "--statistics": options.statistics,
        "--c": options.skip_existing,
    }
    if wanted := [flag for flag, asked in given.items() if asked]:
        raise ConfigError(
            f"-o {options.output} is a file, and {', '.join(wanted)} writes or looks for more; give a folder."
        )


def choose_model(workspace: Workspace, wanted: Choice, checkpoint: str) -> Path:
    """Return the one trained model that the options leave; raises ConfigError that lists the candidates otherwise."""
    from samunet.core.results import best_models, checkpoint_file, trained_models
    from samunet.errors import CheckpointError, ConfigError

    dataset = None if wanted.dataset is None else workspace.dataset_name(wanted.dataset)
    models = trained_models(workspace, checkpoint_file(checkpoint))

    def fits(folder: Path) -> bool:
        names = zip((wanted.trainer, wanted.plans, wanted.configuration), folder.name.split("__"), strict=False)
        return dataset in (None, folder.parent.name) and all(asked in (None, name) for asked, name in names)

    chosen = [folder for folder in models if fits(folder)]
    if len(chosen) == 1:
        return chosen[0]
    if len({folder.parent for folder in chosen}) == 1:
        best = [folder for folder in best_models(workspace, chosen[0].parent.name) if folder in chosen]
        if len(best) == 1:
            return best[0]
    listing = "; ".join(
        f"-d {folder.parent.name} -p {folder.name.split('__')[1]} -c {folder.name.split('__')[2]}"
        for folder in chosen or models
    )
    if chosen:
        raise ConfigError(f"{counted(len(chosen), 'trained model')} fit; say which one: {listing}")
    if models:
        raise CheckpointError(f"No trained model fits these options. Trained: {listing}")
    configuration = wanted.configuration or "3d_adapter"
    raise CheckpointError(
        f"There is no finished training ({checkpoint}) in {workspace.results}. Train first: samunet_train "
        f"{dataset or 'DATASET'} {configuration} 0"
    )


@command("samunet_predict", __doc__, Options)
def main(options: Options) -> int:
    from samunet.core.workspace import workspace_from_environment

    folder = choose_model(workspace_from_environment(), options.model, options.checkpoint)
    return predict_with_model(options, folder, num_parts=options.parts, part_id=options.part)
