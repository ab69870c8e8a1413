"""Find trained models: <results>/<dataset>/<Trainer>__<plans>__<configuration>/fold_<n>/<checkpoint>."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from samunet.core.codec import read_json
from samunet.core.names import DEFAULT_TRAINER, fault_of_name
from samunet.core.ranges import Share
from samunet.core.units import counted
from samunet.core.workspace import Workspace
from samunet.errors import CheckpointError, ConfigError, DatasetError, did_you_mean

LATEST, BEST, FINAL = "checkpoint_latest.safetensors", "checkpoint_best.safetensors", "checkpoint_final.safetensors"
# Folders of a fold: predictions by the final and by the best checkpoint.
VALIDATION, VALIDATION_BEST = ("validation", "validation_best")
BEST_MODEL_FILE = "inference_information.json"  # nnU-Net's, in the results folder of a dataset


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Dice of one class or region, or the mean of all, over seeds."""

    mean: Share
    standard_deviation: Share | None
    """None for one seed."""
    each: tuple[Share | None, ...]
    """None where a seed's is undefined."""


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """What fold_<n>_seeds.json holds."""

    seeds: tuple[int, ...]
    dice: dict[str, Spread]
    """Spread by the keys of summary.json, and "foreground_mean"; those without any number are left out."""


def model_folder(
    workspace: Workspace, dataset: str, plans_name: str, configuration: str, trainer: str = DEFAULT_TRAINER
) -> Path:
    """Return nnU-Net's results folder of a model."""
    return workspace.results / dataset / f"{trainer}__{plans_name}__{configuration}"


def checkpoint_file(name: str) -> str:
    """Return the file of a checkpoint named with or without its ending, or with nnU-Net's: checkpoint_best.pth."""
    return name.removesuffix(".pth").removesuffix(".safetensors") + ".safetensors"


def finished_folds(folder: Path, file_name: str = FINAL) -> tuple[str, ...]:
    """List the folds of a model folder that hold a file; numbered folds first, "all" only when there are none."""
    folds = sorted(
        path.relative_to(folder).parts[0].removeprefix("fold_") for path in folder.glob(f"fold_*/{file_name}")
    )
    folds = [fold for fold in folds if fold == "all" or fold.isdecimal()]  # others are variations of a fold
    numbered = tuple(fold for fold in folds if fold != "all")
    return numbered or tuple(folds)


def trained_models(workspace: Workspace, file_name: str = FINAL) -> tuple[Path, ...]:
    """List every model folder of samunet that has a fold with a checkpoint, a finished one where none is named."""
    folders = sorted(workspace.results.glob(f"Dataset*/{DEFAULT_TRAINER}__*__*"))
    return tuple(folder for folder in folders if finished_folds(folder, file_name))


def find_model(
    wanted: Path | str | int, workspace: Workspace, spelled: Callable[[Path], str], file_name: str = FINAL
) -> Path:
    """Return the folder of the one trained model that is meant.

    Args:
        wanted: the model's folder, <dataset>/<model> as they are listed, or a dataset: its folder of results, id or
            name, where it has one model, or one is marked as best.
        spelled: a command, or the like, that names one, for the message.
        file_name: a checkpoint that the model must have.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: there are several.
    """
    folder, text = Path(str(wanted)), str(wanted)
    if (folder / "plans.json").is_file():
        return folder
    known = trained_models(workspace, file_name) if workspace.results_folder is not None else ()
    names = {f"{model.parent.name}/{model.name}": model for model in known}
    if text in names:
        return names[text]
    inside = sorted(folder.resolve().glob(f"{DEFAULT_TRAINER}__*__*"))
    models = [model for model in inside if finished_folds(model, file_name)]
    if not models:
        with suppress(DatasetError):
            dataset = workspace.dataset_name(text)
            models = [model for model in known if model.parent.name == dataset]
    if len(models) > 1:
        dataset_folder = models[0].parent
        best = best_models(Workspace(results_folder=dataset_folder.parent), dataset_folder.name)
        models = [model for model in best if len(best) == 1 and model in models] or models
    if len(models) == 1:
        return models[0]
    if models:
        commands = "; ".join(map(spelled, models))
        raise ConfigError(f"{wanted} has {counted(len(models), 'trained model')}; say which one: {commands}")
    if folder.is_dir():
        raise CheckpointError(
            f"Folder {wanted} is not a trained model; it has no plans.json. Give a <Trainer>__<plans>__<configuration> "
            "folder."
        )
    hint = did_you_mean(text, names) if names else " Train one first: samunet_train DATASET 3d_adapter 0"
    raise CheckpointError(f"There is no trained model '{wanted}'.{hint}")


def best_models(workspace: Workspace, dataset: str) -> tuple[Path, ...]:
    """Return the model, or members of the ensemble, that `samunet_find_best_configuration` marked; () without."""
    path = workspace.results / dataset / BEST_MODEL_FILE
    if not path.is_file():
        return ()
    try:
        models = read_json(path)["best_model_or_ensemble"]["selected_model_or_models"]
        names = [f"{model['trainer']}__{model['plans_identifier']}__{model['configuration']}" for model in models]
        if any(fault_of_name(name) for name in names):
            raise KeyError
        return tuple(path.parent / name for name in names)
    except (KeyError, TypeError):
        raise ConfigError(f"{path} names no best model; run samunet_find_best_configuration again.") from None
