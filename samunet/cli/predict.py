"""samunet_predict: segment images with a trained model of the results folder."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samunet.cli.common import make_parser, parse_bytes, run
from samunet.core.units import counted

if TYPE_CHECKING:
    from samunet.core.workspace import Workspace


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(
        "samunet_predict",
        "Segment a folder of images, or one image, with a trained model. Needs no further option when only one model "
        "is trained.",
        "Next: samunet_evaluate_folder REFERENCES PREDICTIONS -djfile PREDICTIONS/dataset.json",
    )
    add_prediction_options(parser)
    parser.add_argument("-d", metavar="DATASET", help="dataset id or name of the model")
    parser.add_argument("-p", metavar="NAME", help="plan of the model")
    parser.add_argument("-tr", metavar="NAME", help="trainer of the model")
    parser.add_argument("-c", metavar="CONFIGURATION", help="configuration of the model")
    parser.add_argument(
        "-num_parts", type=int, default=1, metavar="N", help="share the cases among N commands (default: %(default)s)"
    )
    parser.add_argument(
        "-part_id",
        type=int,
        default=0,
        metavar="I",
        help="which share this command takes, from 0 (default: %(default)s)",
    )
    return run(parser, _command, argv)


def add_prediction_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that both prediction commands take."""
    parser.add_argument(
        "-i",
        type=Path,
        nargs="+",
        required=True,
        metavar="INPUT",
        help="folder of images named <case>_0000<ending>, image files, or DICOM folders",
    )
    parser.add_argument(
        "-o",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder for the segmentations; for one image also a file to write",
    )
    parser.add_argument(
        "--ending",
        metavar="ENDING",
        help="of the segmentations, e.g. .nii.gz (default: the input's, for DICOM the training's)",
    )
    parser.add_argument(
        "--series", metavar="WHICH", help="of DICOM folders with several series: number in the list, UID or description"
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="clicks and boxes, for models that segment what they show"
    )
    parser.add_argument(
        "-f", nargs="+", metavar="FOLD", help="folds whose logits are averaged (default: all finished ones)"
    )
    parser.add_argument(
        "-step_size",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="distance between tiles as a share of the tile (default: %(default)s)",
    )
    parser.add_argument(
        "-slab_step", type=int, metavar="SLICES", help="distance between slabs in slices (default: as -step_size)"
    )
    parser.add_argument(
        "--slab_votes",
        action="store_true",
        help="mean probabilities of every slab that holds a slice, as MA-SAM's authors predict",
    )
    parser.add_argument(
        "--disable_tta", action="store_true", help="no flips: several times faster, slightly less accurate"
    )
    parser.add_argument(
        "--save_probabilities", action="store_true", help="also write <case>.npz with the probabilities"
    )
    parser.add_argument(
        "--uncertainty", action="store_true", help="also write where folds and flips disagree, and a score per case"
    )
    parser.add_argument(
        "--preview", action="store_true", help="also write previews/<case>.png, the slice with the most classes"
    )
    parser.add_argument(
        "--statistics",
        action="store_true",
        help="also write statistics.json and .csv: volume and mean intensity per class",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="also write what was predicted, with what, and what failed, as JSON"
    )
    parser.add_argument(
        "--continue_prediction", "--c", action="store_true", help="leave cases that are already predicted"
    )
    parser.add_argument(
        "-chk",
        default="checkpoint_final",
        metavar="NAME",
        help="checkpoint, with or without ending (default: %(default)s)",
    )
    parser.add_argument(
        "-npp", type=int, default=1, metavar="N", help="cases read and preprocessed ahead (default: %(default)s)"
    )
    parser.add_argument(
        "-nps", type=int, default=1, metavar="N", help="cases resampled and written at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--max_ram",
        type=parse_bytes,
        metavar="SIZE",
        help="memory that predicting may take, such as 2G (default: what is free)",
    )
    parser.add_argument(
        "--not_on_device", action="store_true", help="sum up logits in RAM, though the device has room for them"
    )
    parser.add_argument(
        "--precision",
        default="auto",
        metavar="KIND",
        help="auto, fp32, bf16 or fp16 (default: bf16 where the hardware multiplies in it)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the network with torch.compile; worth it for many cases"
    )
    parser.add_argument("-device", metavar="NAME", help="cuda, cuda:1, mps or cpu (default: the best one present)")
    parser.add_argument("-prev_stage_predictions", metavar="FOLDER", help="refused: samunet has no cascade")
    parser.add_argument(
        "--verbose", action="store_true", help="accepted as nnU-Net's command takes it; nothing more is said"
    )
    parser.add_argument("--disable_progress_bar", action="store_true", help="no progress bars")


def predict_with_model(arguments: argparse.Namespace, folder: Path, *, num_parts: int = 1, part_id: int = 0) -> int:
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
    from samunet.inference.predictor import PredictionOptions
    from samunet.machine.hardware import PRECISION_NAMES, choose_device, keep_freed_memory

    if arguments.prev_stage_predictions is not None:
        raise ConfigError(f"-prev_stage_predictions: {NO_LOW_RESOLUTION}")
    if num_parts < 1 or not 0 <= part_id < num_parts:
        raise ConfigError(f"-part_id must be from 0 to -num_parts - 1; got part {part_id} of {num_parts}.")
    if arguments.ending is not None and (arguments.ending not in ENDINGS or arguments.ending in JPEG):
        raise ConfigError(
            f"--ending must be one of {', '.join(sorted({*ENDINGS} - {*JPEG}))}; got {arguments.ending!r}."
        )
    prompts = None if arguments.prompts is None else read_prompts(arguments.prompts)
    keep_freed_memory()
    options = PredictionOptions(
        step_size=arguments.step_size,
        slab_step=arguments.slab_step,
        slab_votes=arguments.slab_votes,
        flips=not arguments.disable_tta,
        uncertainty=arguments.uncertainty,
        precision=arguments.precision,
        sums_on_device=not arguments.not_on_device,
        tile_batch=pipeline.tile_batch(choose_device(arguments.device)),
        quiet=arguments.disable_progress_bar,
    )
    predictor = load_predictor(
        folder,
        folds=arguments.f,
        checkpoint=arguments.chk,
        device=arguments.device,
        options=options,
        weights_folders=workspace_from_environment().weights_folders,
        compile=arguments.compile,
    )
    to_file = bool(known_ending(arguments.o)) and not arguments.o.is_dir()
    # No image of -i lies there, so that none seems overwritten.
    folder_of_cases = arguments.o.parent / arguments.o.stem if to_file else arguments.o
    cases = pipeline.cases_to_predict(arguments.i, predictor.dataset, folder_of_cases, arguments.ending)[
        part_id::num_parts
    ]
    precision = PRECISION_NAMES[predictor.precision]
    where = f"{predictor.device} in {precision}"
    print(
        f"Model {folder.parent.name}/{folder.name}, {'fold' if len(predictor.folds) == 1 else 'folds'} "
        f"{', '.join(predictor.folds)}, {counted(len(cases), 'case')}, {where}"
    )
    began = time.monotonic()
    files = pipeline.FileOptions(
        save_probabilities=arguments.save_probabilities,
        readers=arguments.npp,
        writers=arguments.nps,
        max_ram=arguments.max_ram,
        ending=arguments.ending,
        series=arguments.series,
        quiet=arguments.disable_progress_bar,
        prompts=prompts,
    )
    if to_file:
        _refuse_folder_options(arguments)
        outcome = pipeline.predict_to_file(predictor, cases, arguments.o, files)
    else:
        outcome = pipeline.predict(
            predictor,
            cases,
            arguments.o,
            files,
            skip_existing=arguments.continue_prediction,
            previews=arguments.preview,
            statistics=arguments.statistics,
            share=f"part {part_id} of {num_parts}" if num_parts > 1 else None,
        )
    if arguments.report:
        failed = {failure.identifier: failure.reason for failure in outcome.failures}
        report = {
            "samunet": __version__,
            "model": f"{folder.parent.name}/{folder.name}",
            "folds": predictor.folds,
            "checkpoint": arguments.chk,
            "device": str(predictor.device),
            "precision": precision,
            "options": predictor.options,
            "seconds": round(time.monotonic() - began, 2),
            "cases": [
                {"case": name, "failed": failed.get(name), "remarks": outcome.remarks.get(name, ())}
                for name in (case.identifier for case in cases)
            ],
        }
        write_json(arguments.report, report)
    if outcome.failures:
        names = ", ".join(failure.identifier for failure in outcome.failures)
        print(f"{len(outcome.failures)} of {len(cases)} cases failed: {names}")
        return 3
    done = (
        f"{counted(len(cases), 'segmentation')} are in"
        if arguments.continue_prediction
        else f"Wrote {counted(len(cases), 'segmentation')} to"
    )
    print(f"{done} {arguments.o}")
    return 0


def _refuse_folder_options(arguments: argparse.Namespace) -> None:
    from samunet.errors import ConfigError

    given = {"--preview": arguments.preview, "--statistics": arguments.statistics, "--c": arguments.continue_prediction}
    if wanted := [flag for flag, asked in given.items() if asked]:
        raise ConfigError(
            f"-o {arguments.o} is a file, and {', '.join(wanted)} writes or looks for more; give a folder."
        )


def choose_model(workspace: Workspace, arguments: argparse.Namespace) -> Path:
    """Return the one trained model that the options leave; raises ConfigError that lists the candidates otherwise."""
    from samunet.core.results import best_models, checkpoint_file, trained_models
    from samunet.errors import CheckpointError, ConfigError

    dataset = None if arguments.d is None else workspace.dataset_name(arguments.d)
    models = trained_models(workspace, checkpoint_file(arguments.chk))
    wanted = {"tr": arguments.tr, "p": arguments.p, "c": arguments.c}

    def fits(folder: Path) -> bool:
        parts = dict(zip(("tr", "p", "c"), folder.name.split("__"), strict=False))
        return dataset in (None, folder.parent.name) and all(
            value in (None, parts.get(key)) for key, value in wanted.items()
        )

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
        raise ConfigError(f"{len(chosen)} trained models fit; say which one: {listing}")
    if models:
        raise CheckpointError(f"No trained model fits these options. Trained: {listing}")
    raise CheckpointError(
        f"There is no finished training ({arguments.chk}) in {workspace.results}. Train first: samunet_train DATASET "
        "3d_adapter 0"
    )


def _command(arguments: argparse.Namespace) -> int:
    from samunet.core.workspace import workspace_from_environment

    folder = choose_model(workspace_from_environment(), arguments)
    return predict_with_model(arguments, folder, num_parts=arguments.num_parts, part_id=arguments.part_id)
