"""What a zip of a trained model holds: a list of its files with their SHA-256, read and held against the zip before
anything is unpacked.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from samunet.checkpoints.model_card import SCORES
from samunet.core.codec import decode, file_sha256, parse_json
from samunet.core.names import DEFAULT_TRAINER, LONGEST_FILE_NAME, fault_of_name
from samunet.core.plan import PLANS_NAME
from samunet.core.ranges import Sha256, Within
from samunet.core.workspace import dataset_id
from samunet.errors import CheckpointError, ConfigError

ZIP_FORMAT = 1
MANIFEST, PACKED_CARD = "samunet_model.json", "MODEL_CARD.md"
WEIGHTS = "weights"  # folder of frozen weights within the zip
OF_FOLD = ("config.json", "log.jsonl", "progress.png")  # what names no path of the machine
PLAN, POSTPROCESSING, CHECKPOINT_ENDING = "plans.json", "postprocessing.json", ".safetensors"
DESCRIPTION = "dataset.json"
OF_MODEL = (DESCRIPTION, POSTPROCESSING)
OF_ITS_CASES = ("dataset", "groups", "proposals")
"""Keys of the description that name files and patients of this machine; they stay here."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Names that it keeps for itself, or changes.
OF_WINDOWS = re.compile(r"(CON|PRN|AUX|NUL|(COM|LPT)[0-9¹²³])(\..*)?|.*\.", re.IGNORECASE)
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a zip."""

    sha256: Sha256
    size: Annotated[int, Within(0, 2**62)]
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a zip holds."""

    format: int
    samunet: str
    """Version that wrote it."""
    model: str
    """Path of the model's folder below nnUNet_results."""
    license: str
    weights: str | None
    """File name of the frozen weights below the model; None without."""
    weights_sha256: Sha256 | None
    files: dict[str, Entry]
    """What each path of the zip holds; the manifest itself is not among them."""

    @property
    def packed(self) -> str | None:
        """Path of the frozen weights in the zip; None where they are not packed."""
        path = f"{WEIGHTS}/{self.weights}"
        return path if self.weights is not None and path in self.files else None

    def needs(self, path: str) -> bool:
        """Tell whether a path in the zip has a place in a model."""
        inner = path.removeprefix(f"{self.model}/")
        fold, _, file = inner.partition("/")
        of_fold = file in (*OF_FOLD, SCORES) or (file.endswith(CHECKPOINT_ENDING) and "/" not in file)
        of_model = inner != path and (inner in (PLAN, *OF_MODEL) or (fold.startswith("fold_") and of_fold))
        return of_model or path in (PACKED_CARD, self.packed)


@contextmanager
def opened(source: Path) -> Iterator[zipfile.ZipFile]:
    """Give an open zip file; raises CheckpointError where it is none, or damaged."""
    if not source.is_file():
        raise CheckpointError(f"{source} does not exist; give the zip file of a model.")
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        UnicodeDecodeError,
        RuntimeError,
    ) as error:  # the last of encrypted files
        raise CheckpointError(f"{source} is no zip file, or damaged ({error}); copy or download it again.") from None


def read_manifest(archive: zipfile.ZipFile, source: Path) -> Manifest:
    """Read the manifest, and refuse a zip that holds anything else than what it lists."""
    infos = {info.filename: info for info in archive.infolist()}
    for info in archive.infolist():
        _refuse_path(info.orig_filename, source)  # zipfile ends names at a NUL
        if info.filename != info.orig_filename or info.compress_type not in METHODS:
            raise CheckpointError(
                f"{source} stores {info.filename!r} in a way that samunet does not; do not use this file."
            )
    if MANIFEST not in infos or infos[MANIFEST].file_size > CHUNK:
        raise CheckpointError(f"{source} is not a model of samunet; it has no {MANIFEST}.")
    try:
        manifest = decode(Manifest, parse_json(archive.read(MANIFEST), MANIFEST), MANIFEST)
    except ConfigError as error:
        raise CheckpointError(
            f"{source} has a manifest that cannot be read ({error}); export the model again."
        ) from None
    if manifest.format != ZIP_FORMAT:
        raise CheckpointError(
            f"{source} has format {manifest.format}; this version of samunet reads format {ZIP_FORMAT}."
        )
    _refuse_path(manifest.model, source)
    if not _is_model(manifest.model):
        raise CheckpointError(
            f"{source} names the model folder {manifest.model!r}, expected "
            f"DatasetXXX_Name/{DEFAULT_TRAINER}__<plans>__<configuration>."
        )
    if set(infos) != {MANIFEST, *manifest.files} or len(infos) != len(archive.infolist()):
        others = sorted(set(infos) ^ {MANIFEST, *manifest.files})
        raise CheckpointError(
            f"{source} does not hold what its manifest lists, first {others[:3] or 'a file that is there twice'}."
        )
    for path, entry in manifest.files.items():
        if not manifest.needs(path):
            raise CheckpointError(f"{source} holds {path}, which belongs to no model, or not to this one.")
        mode = infos[path].external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise CheckpointError(f"{source} holds a link or a device, {path}; a model holds plain files only.")
        if infos[path].file_size != entry.size:
            raise CheckpointError(
                f"{source}: {path} has {infos[path].file_size} bytes, its manifest says {entry.size}."
            )
    lacking = [name for name in (PLAN, DESCRIPTION) if f"{manifest.model}/{name}" not in manifest.files]
    lacking += (
        []
        if any(path.endswith(CHECKPOINT_ENDING) and path != manifest.packed for path in manifest.files)
        else ["fold with a checkpoint"]
    )
    if lacking:
        raise CheckpointError(f"{source} holds no {lacking[0]} of its model; export the model again.")
    return manifest


def _is_model(folder: str) -> bool:
    """Tell whether a folder has the form <dataset>/<trainer>__<plans>__<configuration>, and is not of nnU-Net."""
    dataset, *rest = folder.split("/")
    parts = rest[0].split("__") if len(rest) == 1 else []
    return (
        dataset_id(dataset) is not None
        and len(parts) == 3
        and parts[0] == DEFAULT_TRAINER
        and PLANS_NAME.fullmatch(parts[1]) is not None
    )


def _refuse_path(path: str, source: Path) -> None:
    parts = path.split("/")
    if not parts[0] or ".." in parts or "\\" in path or ":" in path:
        raise CheckpointError(f"{source} holds the path {path!r}, which leads elsewhere; do not use this file.")
    for part in parts:
        fault = fault_of_name(part, LONGEST_FILE_NAME) or ("is one of Windows" if OF_WINDOWS.fullmatch(part) else None)
        if fault is not None:
            raise CheckpointError(f"{source} holds the path {path!r}, of which {part!r} {fault}; do not use this file.")


def extract(archive: zipfile.ZipFile, path: str, entry: Entry, target: Path, source: Path) -> None:
    """Unpack one file and verify it; zipfile gives no more than the size that was compared with the manifest."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(path) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file, CHUNK)
        file.flush()
        os.fsync(file.fileno())
    if file_sha256(target) != entry.sha256:
        raise CheckpointError(
            f"{source}: {path} is not the file that the manifest lists; copy or download the zip again."
        )
