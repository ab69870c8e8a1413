"""Validation predictions of all folds to one score per model, and to the model or ensemble to predict with."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samunet.core.codec import atomic_path, write_json, write_text
from samunet.core.dataset import DatasetSpec, files_with_ending, read_dataset_json, training_cases
from samunet.core.prompts import carry_prompts, prompts_behind, refuse_mixed
from samunet.core.results import BEST_MODEL_FILE, VALIDATION, trained_models
from samunet.core.workspace import Workspace
from samunet.errors import ConfigError, DatasetError
from samunet.evaluation.postprocessing import POSTPROCESSING_FILE, Postprocessing, apply_to_folder, determine
from samunet.evaluation.score import refuse_missing, scorer
from samunet.evaluation.summary import SUMMARY, Summary, summarize, write_summary
from samunet.imageio import reader_of_segmentations
from samunet.inference.ensemble import ensemble
from samunet.machine.progress import each

INSTRUCTIONS_FILE = "inference_instructions.txt"  # nnU-Net's


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One model, or several whose probabilities are averaged."""

    models: tuple[str, ...]
    """Names of folders `<Trainer>__<plans>__<configuration>`."""
    folder: Path
    """Its validation predictions of all folds."""
    dice: float
    """Mean foreground Dice on them."""

    @property
    def name(self) -> str:
        return self.models[0] if len(self.models) == 1 else "ensemble of " + " and ".join(self.models)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What `find_best` found."""

    candidates: tuple[Candidate, ...]
    """Best first."""
    postprocessing: Postprocessing
    """That helps the best one."""
    instructions: str
    """Commands that predict with the best one."""


def crossval_folder(model: Path, folds: Sequence[str]) -> Path:
    """Return nnU-Net's folder for the validation predictions of several folds."""
    return model / f"crossval_results_folds_{'_'.join(folds)}"


def accumulate(model: Path, raw: Path, folds: Sequence[str], target: Path, *, threads: int) -> Summary:
    """Copy the validation predictions of a model's folds into one folder, probabilities too, and score them; raises
    DatasetError where a fold has no validation predictions, two folds have the same case, or a reference is absent.

    Args:
        model: folder of samunet's or nnU-Net's.
        raw: folder of the raw dataset, for the references.
    """
    spec = read_dataset_json(raw / "dataset.json")
    origin: dict[str, Path] = {}
    for fold in folds:
        folder = model / f"fold_{fold}" / VALIDATION
        names = set(_names(folder, spec)) if folder.is_dir() else set()
        if not names:
            raise DatasetError(
                f"{folder} holds no validation predictions; train the fold, or give the folds that are trained with -f."
            )
        if twice := sorted(names & origin.keys()):
            raise DatasetError(
                f"'{twice[0]}' was predicted in {origin[twice[0]]} and {folder}; folds of one split share no case."
            )
        origin |= dict.fromkeys(names, folder)
    references = references_of(raw, spec)
    refuse_missing(origin.keys() - references.keys(), f"no reference in {raw}", "Restore them.")
    shutil.rmtree(target, ignore_errors=True)  # cases of an earlier split must not count
    for name, folder in sorted(origin.items()):
        probabilities = folder / f"{name.removesuffix(spec.file_ending)}.npz"
        for path in (*reader_of_segmentations(folder, spec).files(folder / name), probabilities):
            if path != probabilities or path.is_file():
                _copy(path, target / path.name)
    for name in ("dataset.json", "plans.json"):
        if (model / name).is_file():
            _copy(model / name, target / name)
    carry_prompts(list(dict.fromkeys(origin.values())), target)
    return _score(references, target, spec, threads)


def find_best(
    workspace: Workspace,
    dataset: str,
    models: Sequence[str],
    folds: Sequence[str],
    *,
    ensembling: bool = True,
    threads: int = 1,
) -> Choice:
    """Score every model and every pair of models on their validation cases, and mark the best for prediction.

    Writes nnU-Net's inference_information.json and inference_instructions.txt into the results folder of the dataset.

    Args:
        models: names of model folders; none takes all trained models of samunet.
        ensembling: try pairs of models whose validation was run with --npz.

    Raises:
        ConfigError: no model is trained.
        DatasetError: a model lacks validation predictions of a fold, or two models were validated on other cases.
    """
    raw, results = workspace.raw / dataset, workspace.results / dataset
    names = list(models) or [folder.name for folder in trained_models(workspace) if folder.parent == results]
    if not names:
        raise ConfigError(
            f"No model of {dataset} is trained in {results}. Train first: samunet_train {dataset} 3d_adapter all folds "
            "0 to 4."
        )
    spec = read_dataset_json(raw / "dataset.json")
    trained = [f"{name}/fold_{fold}" for name in names for fold in folds]
    refuse_mixed({fold: prompts_behind(results / fold / VALIDATION) for fold in trained})
    single = []
    for name in names:
        folder = crossval_folder(results / name, folds)
        summary = accumulate(results / name, raw, folds, folder, threads=threads)
        single.append(Candidate(models=(name,), folder=folder, dice=summary.foreground_mean.dice))
    _refuse_other_cases(single, spec)
    averaged = [one for one in single if ensembling and _has_probabilities(one.folder, spec)]
    references = references_of(raw, spec)
    pairs = itertools.combinations(averaged, 2)
    both = [_ensemble(*pair, references, results, folds, spec, threads) for pair in pairs]
    candidates = sorted([*single, *both], key=lambda candidate: -candidate.dice)
    best = candidates[0]
    of_best = {name: references[name] for name in _names(best.folder, spec)}
    how: dict[str, Any] = {"file_ending": spec.file_ending, "threads": threads}
    how |= {"reader": reader_of_segmentations(best.folder, spec), "labels": spec.labels}
    postprocessing = determine(of_best, best.folder, **how)
    write_json(best.folder / POSTPROCESSING_FILE, postprocessing)
    apply_to_folder(postprocessing, best.folder, best.folder / "postprocessed", **how)
    instructions = _instructions(dataset, best, folds, postprocessing)
    _mark(results, candidates, folds, dataset)
    write_text(results / INSTRUCTIONS_FILE, instructions)
    return Choice(candidates=tuple(candidates), postprocessing=postprocessing, instructions=instructions)


def references_of(raw: Path, spec: DatasetSpec) -> dict[str, Path]:
    """Return the reference of every training case, by the file name of its prediction."""
    cases = training_cases(raw, spec)
    return {f"{case.identifier}{spec.file_ending}": case.label for case in cases if case.label is not None}


def _score(references: Mapping[str, Path], folder: Path, spec: DatasetSpec, threads: int) -> Summary:
    score, names = scorer(spec.labels, reader_of_segmentations(folder, spec)), _names(folder, spec)
    scores = each(lambda name: score(references[name], folder / name), names, threads=threads, title="Scoring")
    summary = summarize(scores, prompts_behind(folder))
    write_summary(folder / SUMMARY, summary)
    return summary


def _ensemble(
    first: Candidate,
    second: Candidate,
    references: Mapping[str, Path],
    results: Path,
    folds: Sequence[str],
    spec: DatasetSpec,
    threads: int,
) -> Candidate:
    models = (*first.models, *second.models)
    folder = results / "ensembles" / f"ensemble___{'___'.join(models)}___{'_'.join(folds)}"
    shutil.rmtree(folder, ignore_errors=True)  # as in `accumulate`
    ensemble([first.folder, second.folder], folder, threads=threads, quiet=True)
    return Candidate(models=models, folder=folder, dice=_score(references, folder, spec, threads).foreground_mean.dice)


def _names(folder: Path, spec: DatasetSpec) -> list[str]:
    return sorted(files_with_ending(folder, spec.file_ending))


def _has_probabilities(folder: Path, spec: DatasetSpec) -> bool:
    return all((folder / f"{name.removesuffix(spec.file_ending)}.npz").is_file() for name in _names(folder, spec))


def _refuse_other_cases(candidates: Sequence[Candidate], spec: DatasetSpec) -> None:
    first = candidates[0]
    for other in candidates[1:]:
        differing = set(_names(first.folder, spec)) ^ set(_names(other.folder, spec))
        lacking = f"no validation prediction of both {first.name} and {other.name}"
        refuse_missing(differing, lacking, "Compare models of one split.")


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _parts(model: str) -> dict[str, str]:
    trainer, plans, configuration = model.split("__")
    return {"configuration": configuration, "trainer": trainer, "plans_identifier": plans}


def _mark(results: Path, candidates: Sequence[Candidate], folds: Sequence[str], dataset: str) -> None:
    best = candidates[0]
    write_json(
        results / BEST_MODEL_FILE,
        {
            "dataset_name_or_id": dataset,
            "folds": [int(fold) if fold.isdecimal() else fold for fold in folds],
            "considered_models": [_parts(*one.models) for one in candidates if len(one.models) == 1],
            "ensembling_allowed": any(len(candidate.models) > 1 for candidate in candidates),
            "all_results": {candidate.name: candidate.dice for candidate in candidates},
            "best_model_or_ensemble": {
                "result_on_crossval_pre_pp": best.dice,
                "postprocessing_file": str(best.folder / POSTPROCESSING_FILE),
                "selected_model_or_models": [_parts(model) for model in best.models],
            },
        },
    )


def _instructions(dataset: str, best: Candidate, folds: Sequence[str], postprocessing: Postprocessing) -> str:
    """Return the commands that predict with the best candidate."""
    origin = prompts_behind(best.folder)
    shown = "" if origin is None else f" with prompts ({origin})"
    score = f"mean foreground Dice {best.dice:.4f}{shown}"
    lines = [f"Best on the validation cases of {dataset}, folds {' '.join(folds)}: {best.name}, {score}.", ""]
    several = len(best.models) > 1
    folders = [f"OUTPUT_{number}" for number in range(1, len(best.models) + 1)] if several else ["OUTPUT"]
    for model, folder in zip(best.models, folders, strict=True):
        parts = _parts(model)
        command = (
            f"samunet_predict -i INPUT -o {folder} -d {dataset} -p {parts['plans_identifier']} -c "
            f"{parts['configuration']} -f {' '.join(folds)}"
        )
        lines.append(
            command + (" --save_probabilities" if several else "") + (" --prompts FILE" if origin is not None else "")
        )
    if several:
        lines.append(f"samunet_ensemble -i {' '.join(folders)} -o OUTPUT")
    if postprocessing.steps:
        lines.append(
            "samunet_apply_postprocessing -i OUTPUT -o OUTPUT_POSTPROCESSED -pp_file "
            f"{best.folder / POSTPROCESSING_FILE}"
        )
    return "\n".join(lines) + "\n"
