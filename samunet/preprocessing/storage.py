"""Preprocessed cases on disk: nnU-Net's Blosc2 layout, with JSON and npz where nnU-Net pickles.

<case>.b2nd              (C, D, H, W) float32
<case>_seg.b2nd          (1, D, H, W) int16
<case>.json              what the case was made from, its SpatialHistory, and the SHA-256 of the other three and of
itself <case>_locations.npz     sampled (N, 3) voxel indices of each class or region, by its position among the
foreground;
                         of annotated voxels too, where the dataset has an ignore label
samunet_cases.json       names of the cases that were stored; nothing else in the folder is ever removed
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from samunet.core.codec import atomic_path, decode, digest, file_sha256, read_json, write_json
from samunet.core.history import SpatialHistory
from samunet.core.labels import Labels
from samunet.core.names import check_case_name
from samunet.core.parts import is_part
from samunet.core.preprocessed import PreprocessedCase
from samunet.core.values import SAMPLING_SEED
from samunet.errors import DatasetError, SamunetError

BLOCK_BYTES = 128 * 1024  # nnU-Net's, about an L2 cache
CHUNK_BYTES = 6 * 1024 * 1024  # nnU-Net's, about a core's share of L3
MOST_LOCATIONS, LEAST_SHARE = 10_000, 0.01  # nnU-Net's: this many voxels per class, or 1 % of a large one
ANNOTATED = "annotated"
CASES = "samunet_cases.json"
LABEL, IMAGE, LOCATIONS = "_seg.b2nd", ".b2nd", "_locations.npz"
SUFFIXES = (LABEL, IMAGE, LOCATIONS, ".json")  # of a case's files; the record last


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a stored case was made from."""

    settings: str
    """Hash of everything but the files."""
    files: str
    """Hash of the content of its files."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a stored case besides its voxels."""

    origin: Origin
    history: SpatialHistory
    sha256: dict[str, str]
    """Checksums of the other files, by the endings of their names."""
    own_sha256: str = ""
    """Checksum of everything above."""

    @property
    def sealed(self) -> Record:
        """The same with its own hash."""
        bare = replace(self, own_sha256="")
        return replace(self, own_sha256=digest(bare))


@dataclass(frozen=True, kw_only=True)
class Locations:
    """Sampled voxels of one case, as (N, 3) int32 arrays of (D, H, W) indices."""

    classes: tuple[np.ndarray, ...]
    """One array a foreground class or region; empty where it is absent."""
    annotated: np.ndarray | None
    """Voxels without the ignore label; None where the dataset has none."""


def save_case(
    folder: Path, identifier: str, case: PreprocessedCase, labels: Labels, patch_size: Sequence[int], origin: Origin
) -> None:
    """Write one labelled case; the record comes last, so a case that has it is whole. Raises DatasetError where the
    case has no label.
    """
    if case.label is None:
        raise DatasetError(f"Case '{identifier}' has no label; only labelled cases are stored.")
    locations = sample_locations(case.label, labels)
    arrays: dict[str, Any] = {str(i): voxels for i, voxels in enumerate(locations.classes)}
    if locations.annotated is not None:
        arrays[ANNOTATED] = locations.annotated
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    sha256 = {
        IMAGE: _save(folder / f"{identifier}{IMAGE}", _packed(case.image, patch_size)),
        LABEL: _save(folder / f"{identifier}{LABEL}", _packed(case.label.astype(np.int16)[None], patch_size)),
        LOCATIONS: _save(folder / f"{identifier}{LOCATIONS}", packed.getvalue()),
    }
    write_json(folder / f"{identifier}.json", Record(origin=origin, history=case.history, sha256=sha256).sealed)


def check_arrays(folder: Path, identifier: str, record: Record) -> None:
    """Compare a stored case's image and label with their checksums; raises DatasetError that names the file."""
    for ending in (IMAGE, LABEL):
        path = folder / f"{identifier}{ending}"
        try:
            _compare(path, file_sha256(path), record.sha256.get(ending))
        except OSError as error:
            raise _unreadable(path, error) from None


def is_whole(folder: Path, identifier: str) -> bool:
    """Tell whether all files of a stored case are there and as they were written."""
    try:
        record = load_record(folder, identifier)
        load_locations(folder, identifier, record)
        check_arrays(folder, identifier, record)
    except SamunetError:
        return False
    return True


def open_array(path: Path) -> blosc2.NDArray:
    """Open a stored array for reading parts of it; raises DatasetError when it is absent or broken."""
    try:
        return blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        raise _unreadable(path, error) from None


def read_part(path: Path, part: tuple[int | slice, ...]) -> np.ndarray:
    """Read a part of a stored array; raises DatasetError when the file is absent or broken."""
    try:
        return open_array(path)[part]
    except RuntimeError as error:  # blosc2 finds damage inside a file only when it decodes it
        raise _unreadable(path, error) from None


def load_record(folder: Path, identifier: str) -> Record:
    """Read what preprocessing did to a stored case, and to what.

    Raises:
        ConfigError: the file is absent or of another form.
        DatasetError: it does not fit its own checksum.
    """
    path = folder / f"{identifier}.json"
    record = decode(Record, read_json(path), path.name)
    _compare(path, record.sealed.own_sha256, record.own_sha256)
    return record


def load_locations(folder: Path, identifier: str, record: Record) -> Locations:
    """Read a stored case's sampled voxels; raises DatasetError when the file is absent, broken or changed."""
    path = folder / f"{identifier}{LOCATIONS}"
    try:
        content = path.read_bytes()
        _compare(path, hashlib.sha256(content).hexdigest(), record.sha256.get(LOCATIONS))
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            classes = tuple(stored[str(i)] for i in range(len(stored.files) - (ANNOTATED in stored.files)))
            return Locations(classes=classes, annotated=stored[ANNOTATED] if ANNOTATED in stored.files else None)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from None


def file_names(identifier: str) -> tuple[str, ...]:
    """Names of the files that a case is stored in, in the order in which they are written."""
    return tuple(f"{identifier}{suffix}" for suffix in SUFFIXES)


def remove_case(folder: Path, identifier: str) -> None:
    """Remove a stored case, or what there is of it; the record goes first, so that the rest never looks whole."""
    for name in reversed(file_names(identifier)):
        (folder / name).unlink(missing_ok=True)


def listed_cases(folder: Path) -> tuple[str, ...] | None:
    """Return the cases that were stored in a folder, by its list; None without one.

    Raises SamunetError when it is no list of names.
    """
    path = folder / CASES
    if not path.is_file():
        return None
    names = decode(tuple[str, ...], read_json(path), str(path))
    for name in names:
        check_case_name(name, path)
    return names


def remove_all_but(folder: Path, cases: Sequence[str]) -> None:
    """Remove what was stored of cases on the folder's list but not among these, and list these; other files stay."""
    for case in set(listed_cases(folder) or ()).difference(cases):
        remove_case(folder, case)
    write_json(folder / CASES, sorted(cases))


def stored_cases(folder: Path) -> tuple[str, ...]:
    """List the whole cases of a preprocessed folder, sorted; those that its list does not name are none."""
    stored = {path.name.removesuffix("_seg.b2nd") for path in folder.glob("*_seg.b2nd") if not is_part(path)}
    listed = listed_cases(folder)
    return tuple(
        sorted(
            name
            for name in (stored if listed is None else stored.intersection(listed))
            if (folder / f"{name}.json").is_file()
        )
    )


def sample_locations(label: np.ndarray, labels: Labels) -> Locations:
    """Draw voxels of every foreground class or region, and annotated ones, without replacement (nnU-Net's numbers)."""
    random = np.random.RandomState(SAMPLING_SEED)

    def draw(mask: np.ndarray) -> np.ndarray:
        indices = np.flatnonzero(mask)
        count = min(len(indices), max(MOST_LOCATIONS, math.ceil(LEAST_SHARE * len(indices))))
        drawn = random.choice(indices, count, replace=False) if count else indices
        return np.stack(np.unravel_index(drawn, label.shape), axis=1).astype(np.int32)

    classes = tuple(draw(np.isin(label, values)) for _, values in labels.foreground)
    return Locations(classes=classes, annotated=None if labels.ignore is None else draw(label != labels.ignore))


def _unreadable(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"Preprocessed file {path} cannot be read ({error}); preprocess the dataset again.")


def _compare(path: Path, actual: str, expected: str | None) -> None:
    if actual != expected:
        raise DatasetError(
            f"Preprocessed file {path} is not as it was written, by its checksum; preprocess the dataset again."
        )


def _packed(array: np.ndarray, patch_size: Sequence[int]) -> bytes:
    chunks, blocks = chunk_and_block(array.shape, patch_size, array.itemsize)
    # Level 5 would take five times as long for files 3 % smaller, and decode no faster.
    packed = blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=chunks,
        blocks=blocks,
        cparams={"codec": blosc2.Codec.LZ4HC, "clevel": 1, "nthreads": 1},
    )
    return packed.to_cframe()


def _save(path: Path, content: bytes) -> str:
    """Write a file whole or not at all; returns its SHA-256."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def chunk_and_block(
    shape: Sequence[int], patch_size: Sequence[int], itemsize: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Choose chunks and blocks so that reading a patch decodes little beyond it (nnU-Net's rule).

    Args:
        shape: (C, D, H, W).
        patch_size: (D, H, W).
        itemsize: bytes per value.

    Returns:
        Chunk shape and block shape, both (1, D, H, W)-like with one channel.
    """
    size = np.array(shape[1:])
    patch = np.array(patch_size)
    target = np.minimum(size, np.floor(1.5 * patch).astype(int))
    block = np.minimum([1 << (int(edge) - 1).bit_length() for edge in patch], size)
    while np.prod(block) * itemsize > BLOCK_BYTES:
        ratio = np.where(block > 1, block / np.maximum(target, 1), 0)
        axis = 2 - int(np.argmax(ratio[::-1]))
        block[axis] = 1 << ((int(block[axis]) - 1).bit_length() - 1)
    chunk = block.copy()
    growing = {axis for axis in range(3) if patch[axis] > 1}
    while growing:
        axis = min(growing, key=lambda a: (chunk[a] / max(target[a], 1), -size[a], a))
        larger = chunk.copy()
        larger[axis] = min(chunk[axis] + block[axis], target[axis])
        if larger[axis] <= chunk[axis] or np.prod(larger) * itemsize > CHUNK_BYTES:
            growing.discard(axis)
        else:
            chunk = larger
    return (1, *map(int, chunk)), (1, *map(int, block))
