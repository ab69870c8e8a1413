"""nnU-Net's three folders, and datasets by id or name. The only library module that reads the environment."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from samunet.errors import ConfigError, DatasetError, did_you_mean

PURPOSE = {
    "nnUNet_raw": "the raw datasets",
    "nnUNet_preprocessed": "plans and preprocessed cases",
    "nnUNet_results": "trained models",
}
WEIGHTS_VARIABLE = "SAMUNET_WEIGHTS"
FINGERPRINT_FILE = "samunet_fingerprint.json"  # beside the plans


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Folders of raw data, preprocessed data and results; one is only demanded when it is used."""

    raw_folder: Path | None = None
    preprocessed_folder: Path | None = None
    results_folder: Path | None = None
    weights_folders: tuple[Path, ...] = ()
    """Folders in which SAM's checkpoints are looked for; new ones go to the first."""

    @property
    def raw(self) -> Path:
        return _demand(self.raw_folder, "nnUNet_raw")

    @property
    def preprocessed(self) -> Path:
        return _demand(self.preprocessed_folder, "nnUNet_preprocessed")

    @property
    def results(self) -> Path:
        return _demand(self.results_folder, "nnUNet_results")

    def dataset_name(self, name_or_id: str | int) -> str:
        """Turn an id (4, "4", "004"), a full name or what follows the number in it (Hippocampus) into DatasetXXX_Name.

        Raises:
            DatasetError: no dataset, or more than one, has the id or name; the candidates are listed.
        """
        names = self._dataset_names()
        text = str(name_or_id)
        number = int(text) if text.isdecimal() else None
        matches = [text] if text in names else []
        if not matches:
            matches = sorted(
                name
                for name in names
                if name.partition("_")[2] == text or (number is not None and dataset_id(name) == number)
            )
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise DatasetError(
                f"Dataset {text if number is None else f'id {text}'} is ambiguous: {', '.join(matches)}. Give the full "
                "name, or rename one of them."
            )
        folders = [f"{folder}{'' if folder.is_dir() else ' (which does not exist)'}" for folder in self._folders()]
        message = f"Dataset '{text}' is not in {', '.join(folders) or 'any folder'}"
        if number is None and dataset_id(text) is None:
            message += ", and this is no id or name of one, such as 4 or Dataset004_Hippocampus"
        # Ids have no neighbors.
        hint = did_you_mean(text, names) if number is None else f" Known: {', '.join(sorted(names)) or 'none'}."
        if not folders:
            hint += " Set the environment variable nnUNet_raw to the folder that holds your DatasetXXX_Name folders."
        raise DatasetError(f"{message}.{hint}")

    def free_id(self, first: int) -> int:
        """Return the lowest id from `first` on that no dataset has."""
        taken = {dataset_id(name) for name in self._dataset_names()}
        return next(number for number in itertools.count(first) if number not in taken)

    def _folders(self) -> list[Path]:
        folders = (self.raw_folder, self.preprocessed_folder, self.results_folder)
        return [folder for folder in folders if folder is not None]

    def _dataset_names(self) -> set[str]:
        entries = [entry for folder in self._folders() if folder.is_dir() for entry in folder.iterdir()]
        return {entry.name for entry in entries if entry.is_dir() and dataset_id(entry.name) is not None}


def workspace_from_environment(environment: Mapping[str, str] | None = None) -> Workspace:
    """Read nnUNet_raw, nnUNet_preprocessed and nnUNet_results once; unset ones raise only when used. Raises ConfigError
    where a folder begins with ~ and there is no such home folder.

    SAM's checkpoints lie in the folder SAMUNET_WEIGHTS, where it is set, and in the user's cache. A leading ~, which a
    shell leaves in quotes and other programs always, is the home folder.
    """
    values = os.environ if environment is None else environment
    raw, preprocessed, results = (_folder(values, name) for name in PURPOSE)
    # Stays as it is where there is no home.
    cache = Path(values.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    own = _folder(values, WEIGHTS_VARIABLE)
    weights = (*([own] if own else []), cache / "samunet")
    return Workspace(raw_folder=raw, preprocessed_folder=preprocessed, results_folder=results, weights_folders=weights)


def _folder(values: Mapping[str, str], name: str) -> Path | None:
    if not values.get(name):
        return None
    folder = os.path.expanduser(values[name])
    if folder.startswith("~"):
        raise ConfigError(f"{name} is '{folder}', and there is no such home folder; give the whole path.")
    return Path(folder)


def environment_of_commands(**variables: str) -> dict[str, str]:
    """Return this process's environment with some variables replaced, for a program that it starts."""
    return {**os.environ, **variables}


def expand_path(text: str) -> Path:
    """Replace $VARIABLE and a leading ~ in a path of dataset.json, as nnU-Net does; an unset variable stays."""
    return Path(os.path.expanduser(os.path.expandvars(text)))  # Path's own raises where there is no such user


def dataset_id(name: str) -> int | None:
    """Return the number of DatasetXXX_Name; None for another name."""
    match = re.fullmatch(r"Dataset(\d{3,})_.+", name)
    return int(match[1]) if match else None


def _demand(folder: Path | None, variable: str) -> Path:
    if folder is None:
        raise ConfigError(
            f"The environment variable {variable} is not set; it names the folder for {PURPOSE[variable]}. "
            f"Set it first, for example: export {variable}=$HOME/samunet/{variable}"
        )
    return folder
