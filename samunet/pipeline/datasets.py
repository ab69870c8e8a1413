"""A raw dataset, checked and measured."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from samunet.core.codec import decode, read_json, write_json
from samunet.core.dataset import PROPOSALS, Case, DatasetSpec, read_dataset_json, training_cases
from samunet.core.fingerprint import Fingerprint
from samunet.core.units import counted
from samunet.core.workspace import FINGERPRINT_FILE as FINGERPRINT_FILE
from samunet.core.workspace import Workspace
from samunet.errors import ConfigError, DatasetError
from samunet.imageio import ImageReader, reader_for
from samunet.planning.extract import describes, extract_fingerprint
from samunet.planning.splits import SPLITS_FILE, add_new_cases, groups_from, new_cases

if TYPE_CHECKING:
    from samunet.checking.run import CheckReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """A dataset of nnUNet_raw, ready to be read."""

    folder: Path
    spec: DatasetSpec
    cases: tuple[Case, ...]
    reader: ImageReader


def open_dataset(workspace: Workspace, id_or_name: str | int) -> RawDataset:
    """Find a raw dataset by id or name and read its description; raises DatasetError when something is missing."""
    name = workspace.dataset_name(id_or_name)
    folder = workspace.raw / name
    spec = read_dataset_json(folder / "dataset.json")
    cases = training_cases(folder, spec)
    reader = reader_for(spec.file_ending, spec.reader, cases[0].images[0])
    return RawDataset(folder=folder, spec=spec, cases=cases, reader=reader)


def _as_it_is_now(workspace: Workspace, spec: DatasetSpec) -> DatasetSpec:
    """Return what the raw dataset's dataset.json says, where there is one; a preprocessed one's is older."""
    raw = workspace.raw / spec.name / "dataset.json"
    return read_dataset_json(raw) if raw.is_file() else spec


def groups_of(workspace: Workspace, spec: DatasetSpec, cases: Sequence[str]) -> dict[str, str] | None:
    """Return the group of every case by the raw dataset's dataset.json, or by `spec`; see `groups_from`."""
    return groups_from(_as_it_is_now(workspace, spec).raw.get("groups"), cases)


def refuse_proposals(workspace: Workspace, spec: DatasetSpec, cases: Sequence[str]) -> None:
    """Raise DatasetError where the label of one of some cases is a machine's proposal.

    Args:
        spec: of the preprocessed cases; what was a proposal then is stored as one.
    """
    proposed = [case for case in cases if case in _as_it_is_now(workspace, spec).proposals]
    if proposed:
        raise DatasetError(
            f"{spec.name}: the labels of {len(proposed)} of {counted(len(cases), 'case')} are proposals of "
            "samunet_fewshot, first "
            f"'{proposed[0]}'. Correct them and take their names out of '{PROPOSALS}' in {spec.name}/dataset.json, or "
            "train on them with --proposals."
        )
    if stored := [case for case in cases if case in spec.proposals]:
        raise DatasetError(
            f"{spec.name}: {len(stored)} of {counted(len(cases), 'case')} were preprocessed while their labels were "
            f"proposals, first '{stored[0]}'. Run first: samunet_preprocess -d {spec.name}"
        )


def keep_up_splits(workspace: Workspace, spec: DatasetSpec, cases: Sequence[str], *, add: bool = False) -> None:
    """Say which cases the splits file of a preprocessed dataset has in no fold, or put them into its folds.

    Args:
        add: put them in, groups kept together; see `add_new_cases`.
    """
    folder = workspace.preprocessed / spec.name
    in_no_fold = add_new_cases(folder, cases, groups_of(workspace, spec, cases)) if add else new_cases(folder, cases)
    if not in_no_fold:
        return
    what, file = f"{counted(len(in_no_fold), 'case')}, first '{in_no_fold[0]}'", folder / SPLITS_FILE
    if add:
        text = f"Put {what}, into the folds of {file}. Folds that are trained already have not seen them."
        logger.info("%s", text)
    else:
        text = f"{what}, in no fold of {file}: never trained on, never validated. To put them into the folds:"
        logger.warning("%s samunet_preprocess -d %s --add_new_cases", text, spec.name)


def check(workspace: Workspace, id_or_name: str | int, *, threads: int, quiet: bool = False) -> CheckReport:
    """Find everything that is wrong with a raw dataset, before anything of it is used."""
    from samunet.checking.run import check_dataset  # draws with matplotlib, which takes a while to load

    return check_dataset(workspace.raw / workspace.dataset_name(id_or_name), threads=threads, quiet=quiet)


def extract(
    workspace: Workspace, dataset: RawDataset, *, threads: int, clean: bool, quiet: bool = False
) -> Fingerprint:
    """Measure a dataset and keep the result; an existing fingerprint of the very same files is used unless `clean`."""
    path = workspace.preprocessed / dataset.spec.name / FINGERPRINT_FILE
    kept = None if clean else _kept_fingerprint(path, dataset, threads=threads, quiet=quiet)
    if kept is not None:
        return kept
    fingerprint = extract_fingerprint(dataset.spec, dataset.cases, dataset.reader, threads=threads, quiet=quiet)
    write_json(path, fingerprint)
    return fingerprint


def _kept_fingerprint(path: Path, dataset: RawDataset, *, threads: int, quiet: bool) -> Fingerprint | None:
    """Return a saved fingerprint if there is one of today's form and of the very same files."""
    if not path.is_file():
        return None
    try:
        fingerprint = decode(Fingerprint, read_json(path), path.name)
    except ConfigError:
        logger.info("%s does not fit this version of samunet; measuring the dataset again.", path)
        return None
    if not describes(fingerprint, dataset.spec, dataset.cases, dataset.reader, threads=threads, quiet=quiet):
        logger.info("The dataset has changed since %s was made; measuring again.", path)
        return None
    logger.info("Using the fingerprint %s (--clean measures again).", path)
    return fingerprint
