"""The steps from a dataset to scores, as `import samunet` offers them; each is what its command does.

Folders are those of nnU-Net's environment variables, or of a `Workspace` that is given. A dataset is an id (4) or a
name (Dataset004_Hippocampus). Errors that the user can mend are `samunet.SamunetError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samunet.core.names import DEFAULT_PLANS_NAME, DEFAULT_TOLERANCE_MM
from samunet.core.results import FINAL
from samunet.core.units import counted
from samunet.core.workspace import Workspace, workspace_from_environment

if TYPE_CHECKING:
    from samunet.comparison.compare import Comparison
    from samunet.core.plan import Plan
    from samunet.evaluation.summary import Summary
    from samunet.inference.predictor import Predictor

THREADS = 2


def plan(dataset: str | int, *, threads: int = THREADS, workspace: Workspace | None = None, **options: Any) -> Plan:
    """Measure a dataset of nnUNet_raw, decide how it is trained, and save the plan.

    Args:
        threads: cases measured at a time.
        options: fields of `samunet.planning.options.PlanOptions`, such as memory_gib=8.0 (GiB) or backbone="vit_b".

    Returns:
        The plan; `plan.reasons` says why it is as it is.

    Raises:
        DatasetError: there is no such dataset, or something is wrong with its files.
        PlanningError: no plan fits the memory.
        WeightsAbsentError: the backbone's weights are not on this machine.

    Example:
        >>> samunet.plan(17, memory_gib=2.0).configurations["3d_adapter"].patch_size  # doctest: +SKIP
        (16, 48, 48)
    """
    from samunet import pipeline
    from samunet.planning.options import PlanOptions

    folders = workspace or workspace_from_environment()
    raw = pipeline.open_dataset(folders, dataset)
    fingerprint = pipeline.extract(folders, raw, threads=threads, clean=False, quiet=True)
    return pipeline.plan(folders, raw, fingerprint, _options(PlanOptions, options))


def preprocess(
    dataset: str | int,
    configuration: str,
    *,
    plans_name: str = DEFAULT_PLANS_NAME,
    threads: int = THREADS,
    workspace: Workspace | None = None,
) -> Path:
    """Preprocess the training cases of a planned dataset for one configuration; returns their folder.

    Args:
        configuration: "3d_adapter", "2d_adapter", or any other that `samunet.variants` makes.
        threads: cases at a time.

    Raises:
        ConfigError: the dataset has no plan of that name, or there is no such configuration.
        DatasetError: a case cannot be read.
    """
    from samunet import pipeline

    folders = workspace or workspace_from_environment()
    raw = pipeline.open_dataset(folders, dataset)
    resolved = pipeline.resolve(folders, pipeline.open_plan(folders, raw.spec.name, plans_name), configuration)
    return pipeline.preprocess(folders, raw, resolved, configuration, threads=threads, quiet=True)


def train(
    dataset: str | int,
    configuration: str,
    fold: str | int = "0",
    *,
    plans_name: str = DEFAULT_PLANS_NAME,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    pretrained: Path | str | None = None,
    validate: bool = True,
    workspace: Workspace | None = None,
    **settings: Any,
) -> Path:
    """Train one fold of a preprocessed dataset and validate it on whole cases.

    Args:
        fold: 0 to 4, or "all".
        device: "cuda", "mps" or "cpu"; None takes the best one present.
        resume: go on with a training that was interrupted, with its settings.
        overwrite: a finished fold may be trained again.
        pretrained: weights to start from: a file, or "seed" for those that come with samunet.
        settings: fields of `samunet.training.config.TrainingConfig`, such as minutes=60 or epochs=100.

    Returns:
        The fold's folder, with validation/summary.json; `samunet.load(folder.parent)` loads the model.

    Raises:
        ConfigError: the fold is trained already, or a setting is out of its range.
        DatasetError: the dataset is not preprocessed for this configuration.
        CheckpointError: what is to go on was trained with other settings.
    """
    from samunet import pipeline

    folders = workspace or workspace_from_environment()
    options = pipeline.TrainOptions(
        configuration=configuration,
        fold=str(fold),
        plans_name=plans_name,
        device=device,
        resume=resume,
        overwrite=overwrite,
        pretrained=None if pretrained is None else Path(pretrained),
        validate=validate,
    )
    return pipeline.train(folders, folders.dataset_name(dataset), settings, options)


def load(
    folder: Path | str | int,
    *,
    folds: Sequence[str | int] | None = None,
    checkpoint: str = FINAL,
    device: str | None = None,
    workspace: Workspace | None = None,
    **options: Any,
) -> Predictor:
    """Load a trained model, `<Trainer>__<plans>__<configuration>` below nnUNet_results.

    Args:
        folder: the model's; or a dataset by its folder there, id or name, where it has one model or one is marked as
            best.
        folds: whose logits are averaged; None for all that are trained.
        checkpoint: file name, with or without its ending.
        device: "cuda", "mps" or "cpu"; None takes the best one present.
        options: fields of `samunet.inference.options.PredictionOptions`, such as flips=False or quiet=True.

    Returns:
        What segments images: `predict(image)` one, `predict_many(images)` as many as are asked for.

    Raises:
        CheckpointError: there is no such model, or it lacks a fold.
        ConfigError: the dataset has several models; they are listed.
        WeightsAbsentError: the model needs SAM's weights, which are not on this machine.

    Example:
        >>> samunet.load(folder).predict("image.nii.gz").save("segmentation.nii.gz")  # doctest: +SKIP
    """
    from samunet.core.results import checkpoint_file, find_model
    from samunet.inference.load import load_predictor
    from samunet.inference.options import PredictionOptions

    folders = workspace or workspace_from_environment()
    model = find_model(folder, folders, lambda one: f'samunet.load("{one}")', checkpoint_file(checkpoint))
    return load_predictor(
        model,
        folds=None if folds is None else tuple(str(fold) for fold in folds),
        checkpoint=checkpoint,
        device=device,
        options=_options(PredictionOptions, options),
        weights_folders=folders.weights_folders,
    )


def predict(
    model: Predictor | Path | str | int,
    images: Path | str | Sequence[Path | str],
    output: Path | str,
    *,
    workspace: Workspace | None = None,
    **options: Any,
) -> list[Path]:
    """Segment a folder of images, or image files, into a folder; one image at a time is `samunet.load(...).predict`.

    Args:
        model: of `samunet.load`, or what that takes.
        images: folder of images named <case>_0000<ending>, image files, or DICOM folders.
        options: fields of `samunet.pipeline.FileOptions`, such as save_probabilities=True or max_ram (bytes).

    Returns:
        The segmentations' files, on the images' own grids.

    Raises:
        DatasetError: there is no image, or some could not be segmented; the others are written.
        InUseError: another program writes to that folder.
    """
    from samunet import pipeline
    from samunet.errors import DatasetError
    from samunet.imageio import output_ending

    predictor = load(model, workspace=workspace) if isinstance(model, (str, Path, int)) else model
    files, folder = _options(pipeline.FileOptions, options), Path(output)
    inputs = [Path(images)] if isinstance(images, (str, Path)) else [Path(image) for image in images]
    cases = pipeline.cases_to_predict(inputs, predictor.dataset, folder, files.ending)
    failures = pipeline.predict(predictor, cases, folder, files).failures
    if failures:
        listed = "; ".join(f"{failure.identifier}: {failure.reason}" for failure in failures)
        raise DatasetError(f"{len(failures)} of {counted(len(cases), 'image')} could not be segmented. {listed}")
    own = predictor.dataset.file_ending
    return [folder / f"{case.identifier}{files.ending or output_ending(case.images[0], own)}" for case in cases]


def evaluate(
    references: Path | str,
    predictions: Path | str,
    *,
    dataset_json: Path | str | None = None,
    tolerance: float | None = DEFAULT_TOLERANCE_MM,
    lesions: bool = False,
    chill: bool = False,
    threads: int = THREADS,
) -> Summary:
    """Score a folder of segmentations against references of the same names.

    Args:
        dataset_json: names labels and file ending; None takes the one beside the predictions, which `predict` writes.
        tolerance: of the normalized surface Dice in mm (pixels where files tell no size); None for overlap alone.
        lesions: also the F1 score of finding connected components.
        chill: score the cases that have both files instead of refusing.

    Returns:
        Scores by case and class; `summary.foreground_mean.dice` is nnU-Net's mean Dice, in [0, 1].

    Raises:
        DatasetError: a case lacks one of its files, unless `chill`, or the two do not lie on one grid.
    """
    from samunet.core.dataset import read_dataset_json
    from samunet.evaluation.score import Measures, evaluate_folder, targets_from_labels
    from samunet.imageio import reader_of_segmentations

    folder = Path(predictions)
    dataset = read_dataset_json(Path(dataset_json or folder / "dataset.json"))
    return evaluate_folder(
        Path(references),
        folder,
        targets=targets_from_labels(dataset.labels),
        ignore=dataset.labels.ignore,
        file_ending=dataset.file_ending,
        reader=reader_of_segmentations(folder, dataset),
        threads=threads,
        chill=chill,
        measures=Measures(tolerance=tolerance, lesions=lesions),
        expected=dataset.labels.expected_in_files,
    )


def compare(
    references: Path | str,
    predictions: Mapping[str, Path | str],
    output: Path | str,
    *,
    dataset_json: Path | str | None = None,
    images: Path | str | None = None,
    tolerance: float = DEFAULT_TOLERANCE_MM,
    threads: int = THREADS,
) -> Comparison:
    """Compare folders of segmentations of the same cases, with paired intervals, and write a page of them.

    Args:
        predictions: name to folder, the baseline first.
        output: folder for report.html and its tables.
        dataset_json: names labels and file ending; None takes the one beside the first predictions.
        images: folder of images <case>_0000<ending>, for pictures.
        tolerance: of the normalized surface Dice, in mm.

    Returns:
        The comparison; `verdicts()` says in sentences who is better, by how much, and how sure that is.

    Raises:
        DatasetError: the folders do not hold the same cases.
        ConfigError: fewer than two folders are given.
    """
    from samunet.comparison.from_folders import compare_folders
    from samunet.core.dataset import read_dataset_json
    from samunet.errors import ConfigError

    folders = {name: Path(folder) for name, folder in predictions.items()}
    if len(folders) < 2:
        raise ConfigError(f"A comparison needs two folders of predictions at least; got {len(folders)}.")
    spec = read_dataset_json(Path(dataset_json or next(iter(folders.values())) / "dataset.json"))
    pictures = None if images is None else Path(images)
    return compare_folders(
        Path(references), folders, spec, Path(output), images=pictures, tolerance=tolerance, threads=threads
    )


def variants() -> tuple[str, ...]:
    """Return the names of all methods, own and installed ones; "3d_" or "2d_" before one makes a configuration.

    Example:
        >>> "ma_sam" in samunet.variants()
        True
    """
    from samunet.core.plugins import variant_names

    return variant_names()


def _options(kind: type[Any], given: Mapping[str, Any]) -> Any:
    """Make options of a kind; raises ConfigError for a name that is none, with the nearest one."""
    from samunet.errors import ConfigError, did_you_mean

    known = tuple(kind.__dataclass_fields__)
    for name in given:
        if name not in known:
            raise ConfigError(f"There is no option '{name}' here.{did_you_mean(name, known)}")
    return kind(**given)
