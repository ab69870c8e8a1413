"""Make a small CT-like phantom dataset in nnU-Net's layout, then plan, train, predict and evaluate on it, click at its
test images without any training, and write a page of pictures. Needs no download and no GPU.

Next: documentation/tutorials/first-segmentation.md does the same step by step.
"""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from samunet.cli.common import DEFAULT_THREADS, Device, command
from samunet.core.names import DEFAULT_TOLERANCE_MM
from samunet.core.units import counted
from samunet.core.workspace import PURPOSE

if TYPE_CHECKING:
    from samunet.core.workspace import Workspace
    from samunet.evaluation.picture import CasePicture
    from samunet.evaluation.summary import Summary
    from samunet.pipeline import RawDataset

CONFIGURATION = "3d_adapter"
MEMORY_GIB = 0.6  # a small patch, so that many steps fit into minutes on two cores
SEED = 17
CLICKS = 5


@dataclass(frozen=True, kw_only=True)
class Options:
    output: Annotated[Path, "-o FOLDER"] = Path("samunet_demo")
    """Where everything goes."""
    only_dataset: bool = False
    """Make the phantom dataset and stop."""
    epochs: Annotated[int, "--epochs N"] = 10
    """Epochs to train."""
    iterations: Annotated[int, "--iterations N"] = 20
    """Steps per epoch."""
    device: Device = None


@command("samunet_demo", __doc__, Options)
def main(options: Options) -> None:
    from samunet.core.workspace import Workspace
    from samunet.phantom.dataset import write_phantom_dataset

    root = options.output.resolve()
    workspace = Workspace(
        raw_folder=root / "nnUNet_raw",
        preprocessed_folder=root / "nnUNet_preprocessed",
        results_folder=root / "nnUNet_results",
    )
    began = time.monotonic()
    _step(1, "A phantom dataset: CT-like abdomen, thick slices, five structures, 12 training and 4 test cases")
    dataset = write_phantom_dataset(workspace.raw, seed=SEED)
    print(f"  {dataset}")
    if not options.only_dataset:
        page, summary = _demonstrate(workspace, root, options)
        print(
            f"\nDone in {time.monotonic() - began:.0f} s: mean foreground Dice {summary.foreground_mean.dice:.3f} on "
            f"{counted(len(summary.cases), 'test case')}."
        )
        print(f"Look at {page}")
    print(_phantom_steps(root) if options.only_dataset else _own_data())


def _demonstrate(workspace: Workspace, root: Path, asked: Options) -> tuple[Path, Summary]:
    from samunet import pipeline
    from samunet.cli.planning import print_plan
    from samunet.inference.load import load_predictor
    from samunet.inference.predictor import PredictionOptions
    from samunet.machine.hardware import choose_device, keep_freed_memory
    from samunet.training.config import TrainingConfig

    keep_freed_memory()
    _step(
        2,
        "Fingerprint and plan: measure the images, then decide spacing, slab depth, patch and encoder grid, and say "
        "why",
    )
    dataset = pipeline.open_dataset(workspace, SEED)
    pipeline.check(workspace, dataset.spec.name, threads=DEFAULT_THREADS).refuse_errors()
    fingerprint = pipeline.extract(workspace, dataset, threads=DEFAULT_THREADS, clean=False)
    plan = pipeline.plan(
        workspace, dataset, fingerprint, pipeline.PlanOptions(memory_gib=MEMORY_GIB, backbone="vit_tiny")
    )
    print_plan(plan, explain=True)
    _step(3, "Preprocessing: transpose, crop, normalize, resample")
    pipeline.preprocess(workspace, dataset, plan, CONFIGURATION, threads=DEFAULT_THREADS)
    _step(
        4, f"Training {CONFIGURATION}: a U-Net that receives the features of a SAM encoder; nothing is pretrained here"
    )
    options = pipeline.TrainOptions(
        configuration=CONFIGURATION, fold="all", device=asked.device, validate=False, overwrite=True
    )
    config = TrainingConfig(epochs=asked.epochs, iterations=asked.iterations, batch_size=2, seed=SEED)
    fold = pipeline.train(workspace, dataset.spec.name, config, options)
    _step(5, "Prediction: sliding window over the test images, written on their own grids")
    sliding = PredictionOptions(flips=False, tile_batch=pipeline.tile_batch(choose_device(asked.device)))
    predictor = load_predictor(fold.parent, folds=["all"], device=asked.device, options=sliding)
    predictions = root / "predictions"
    cases = pipeline.cases_to_predict(dataset.folder / "imagesTs", dataset.spec, predictions)
    pipeline.predict(predictor, cases, predictions)
    _step(6, "Evaluation: Dice of every structure of every test case")
    summary = _evaluate(dataset, predictions)
    _step(7, "Clicks: what the seed that comes with samunet makes of them in the same images, without any training")
    clicks = _click(dataset, asked.device)
    page = root / "report.html"
    _write_page(page, dataset, predictions, summary, fold, plan.reasons, _own_data(), clicks)
    return page, summary


def _click(dataset: RawDataset, device: str | None) -> CasePicture:
    """Click at every structure in a slice of every test case, say what Dice that reached, and draw the first case."""
    import numpy as np

    from samunet.checkpoints.seeds import shipped_seed
    from samunet.core.dataset import group_channels
    from samunet.evaluation.picture import draw_case, informative_slice
    from samunet.interaction.closer import clicked
    from samunet.interaction.embeddings import Embeddings, image_sha256
    from samunet.interaction.slices import SeedModel
    from samunet.ops.overlap import overlap

    model, dice = SeedModel(shipped_seed(2), device=device), []
    pictures: list[CasePicture] = []
    for identifier, files in group_channels(dataset.folder / "imagesTs", dataset.spec.file_ending).items():
        volume = dataset.reader.read_image(files)
        label, _ = dataset.reader.read_label(dataset.folder / "labelsTs" / f"{identifier}{dataset.spec.file_ending}")
        index, looks = informative_slice(label), Embeddings(volume, model, image_sha256(volume))
        answers = {title: np.zeros_like(label) for title in ("1 click a structure", f"{CLICKS} clicks")}
        for value in sorted({*np.unique(label[index]).tolist()} - {0}):
            masks = clicked(looks, 0, index, label[index] == value, CLICKS)
            for answer, mask in zip(answers.values(), (masks[0], masks[-1]), strict=True):
                answer[index][mask] = value
            dice.append([overlap(label[index] == value, mask, (1,), None).dice for mask in (masks[0], masks[-1])])
        if not pictures:
            title, names = f"{identifier}, clicked in one slice", dataset.spec.labels.names_of_values
            overlays = {"reference": label, **answers}
            pictures.append(draw_case(title, volume.array[0], overlays, volume.geometry, names))
    first, last = np.mean(dice, axis=0)
    print(f"  Mean Dice in the slices clicked in: {first:.3f} after 1 click a structure, {last:.3f} after {CLICKS}.")
    return pictures[0]


def _evaluate(dataset: RawDataset, predictions: Path) -> Summary:
    from samunet.cli.evaluate_folder import write_and_print
    from samunet.evaluation.score import Measures, evaluate_folder, names_from_labels, targets_from_labels

    labels = dataset.spec.labels
    summary = evaluate_folder(
        dataset.folder / "labelsTs",
        predictions,
        targets=targets_from_labels(labels),
        ignore=labels.ignore,
        file_ending=dataset.spec.file_ending,
        reader=dataset.reader,
        threads=os.cpu_count() or 1,
        measures=Measures(tolerance=DEFAULT_TOLERANCE_MM),
    )
    write_and_print(summary, names_from_labels(labels), predictions / "summary.json")
    return summary


def _write_page(
    page: Path,
    dataset: RawDataset,
    predictions: Path,
    summary: Summary,
    fold: Path,
    reasons: dict[str, str],
    commands: str,
    clicks: CasePicture,
) -> None:
    from samunet.comparison.score_page import case_name, worst_first, write_report
    from samunet.core.dataset import group_channels
    from samunet.evaluation.picture import draw_case

    labels = dataset.spec.labels
    images, pictures = group_channels(dataset.folder / "imagesTs", dataset.spec.file_ending), []
    for score in worst_first(summary.cases):
        identifier = case_name(score, dataset.spec.file_ending)
        volume = dataset.reader.read_image(images[identifier])
        reference, prediction = (
            dataset.reader.read_label(folder / score.name)[0] for folder in (dataset.folder / "labelsTs", predictions)
        )
        overlays = {"reference": reference, "prediction": prediction}
        pictures.append(draw_case(identifier, volume.array[0], overlays, volume.geometry, labels.names_of_values))
    write_report(
        page,
        title="samunet demo: phantom abdomen",
        summary=summary,
        labels=labels,
        file_ending=dataset.spec.file_ending,
        pictures=[*pictures, clicks],
        curves={"Fold all": (fold / "progress.png").read_bytes()},
        sections={
            "Why the plan is as it is": [f"{decision}: {reason}" for decision, reason in reasons.items()],
            "Next, your own images": [
                f"$ {line.strip()}" if line.startswith("  ") else line for line in commands.splitlines()[2:]
            ],
        },
    )


def _own_data() -> str:
    variables = "\n".join(f'  export {name}="${{{name}:-$HOME/samunet/{name}}}"' for name in PURPOSE)
    return f"""
Next, your own images:
Name the folders to work in. Those that you have set for nnU-Net stay.
{variables}
Put in your folder of images and labels: the command shows which dataset it would become, and asks. Each command then
ends with the next one, from the check of the files to training (3d_adapter, or 2d_adapter for 2D images), predictions
and scores. samunet --help is a map of all. A dataset in nnU-Net's layout needs no import.
  samunet_import FOLDER"""


def _phantom_steps(root: Path) -> str:
    return f"""
Next, with this dataset:
  export {" ".join(f"{name}={shlex.quote(str(root / name))}" for name in PURPOSE)}
  samunet_plan_and_preprocess -d {SEED} -c {CONFIGURATION} -gpu_memory_target {MEMORY_GIB}
  samunet_train {SEED} {CONFIGURATION} 0 --epochs 2 --iterations 10 --batch_size 2"""


def _step(number: int, text: str) -> None:
    print(f"\n[{number}] {text}", flush=True)
