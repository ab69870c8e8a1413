"""What a model sees in the planes of a volume, in memory and on disk; bound to the image and the model by their hashes.

A folder of embeddings holds embeddings.json, and for each axis and feature map one file axis<A>_<name>.b2nd of
(planes, ...) float16, a chunk for each plane.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np
import torch

from samunet.core.codec import atomic_path, decode, encode, read_json, write_json
from samunet.core.lock import held
from samunet.core.volume import Volume
from samunet.errors import CheckpointError
from samunet.interaction.slices import Features, PlaneModel

HEADER = "embeddings.json"
IN_MEMORY = 48  # planes, and parts of them

Window = tuple[tuple[int, int], tuple[int, int]]
"""Of a plane: first and one past the last row, and column."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What embeddings are of, and made with."""

    image: str
    model: str
    axes: tuple[int, ...]
    maps: tuple[str, ...]


def image_sha256(volume: Volume) -> str:
    """Return the SHA-256 of a volume's voxels and grid."""
    grid = volume.geometry
    digest = hashlib.sha256(repr((volume.array.shape, grid.spacing, grid.origin, grid.direction)).encode())
    digest.update(np.ascontiguousarray(volume.array).data)
    return digest.hexdigest()


def plane_of(array: np.ndarray, axis: int, index: int) -> np.ndarray:
    """Return a view of one plane of an array whose last axes are (D, H, W)."""
    return np.moveaxis(array, array.ndim - 3 + axis, 0)[index]


def plane_spacing(volume: Volume, axis: int) -> tuple[float, float]:
    """Return the spacing within planes across an axis, in mm."""
    first, second = (step for side, step in enumerate(volume.geometry.spacing) if side != axis)
    return first, second


class Embeddings:
    """Features of a volume's planes: the last ones in memory, all that were made beforehand in a folder.

    Args:
        image: SHA-256 of the volume.
        folder: of embeddings; None without one, or where it is still to be filled.

    Raises:
        CheckpointError: the folder is of another image or model.
    """

    def __init__(self, volume: Volume, model: PlaneModel, image: str, folder: Path | None = None) -> None:
        self.volume, self.model, self.image, self.folder = volume, model, image, folder
        self._recent: OrderedDict[tuple[int, int, Window | None], Features] = OrderedDict()
        self._files: dict[tuple[int, str], blosc2.NDArray] = {}
        self._maps: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._look()

    def of(self, axis: int, index: int, window: Window | None = None) -> Features:
        """Return the features of a plane, or of a part of it seen by itself, as half precision holds them."""
        with self._lock:
            place = axis, index, window
            if place not in self._recent:
                kept = self._read(axis, index) if window is None else None
                self._recent[place] = kept or self._make(*place)
                if len(self._recent) > IN_MEMORY:
                    self._recent.popitem(last=False)
            self._recent.move_to_end(place)
            return self._recent[place]

    def missing(self, axes: Sequence[int]) -> tuple[int, ...]:
        """Return those of some axes whose planes are not in the folder."""
        return tuple(axis for axis in axes if (axis, next(iter(self._maps), "")) not in self._files)

    def size(self, axes: Sequence[int]) -> int:
        """Return how many bytes the embeddings of all planes across some axes are, before compression."""
        count = self.volume.geometry.shape
        return sum(2 * count[axis] * sum(math.prod(part.shape) for part in self.of(axis, 0).values()) for axis in axes)

    def fill(self, axes: Sequence[int], progress: Callable[[int, int], bool] = lambda done, of: True) -> None:
        """Encode all planes across some axes into the folder, those that another process has put there meanwhile not
        again. An axis is there when all of it is.

        Args:
            progress: told after each plane how many are done, of how many; False ends the work.

        Raises:
            CheckpointError: no folder was named, or it is of another image or model.
            InUseError: another process encodes into it.
        """
        if self.folder is None:
            raise CheckpointError("Embeddings are kept in a folder; name one.")
        with held(self.folder), suppress(_Stopped):
            self._look()
            axes, done = self.missing(axes), 0
            count = sum(self.volume.geometry.shape[axis] for axis in axes)
            for axis in axes:
                with ExitStack() as files:
                    maps: dict[str, blosc2.NDArray] = {}
                    for index in range(self.volume.geometry.shape[axis]):
                        self._put(self.folder, files, maps, axis, index)
                        done += 1
                        if not progress(done, count):
                            raise _Stopped
                filled = tuple(sorted({axis, *(other for other, _ in self._files)}))
                header = Header(image=self.image, model=self.model.sha256, axes=filled, maps=tuple(maps))
                write_json(self.folder / HEADER, encode(header))
                self._look()

    def _put(self, folder: Path, files: ExitStack, maps: dict[str, blosc2.NDArray], axis: int, index: int) -> None:
        """Encode a plane into the files of an axis, which the first one opens and the stack closes."""
        for name, part in self.of(axis, index).items():
            if name not in maps:
                path, form = files.enter_context(atomic_path(_file(folder, axis, name))), tuple(part.shape)
                planes = self.volume.geometry.shape[axis]
                maps[name] = blosc2.empty((planes, *form), np.float16, urlpath=str(path), mode="w", chunks=(1, *form))
            maps[name][index] = part.numpy()

    def _make(self, axis: int, index: int, window: Window | None) -> Features:
        rows, columns = (slice(None), slice(None)) if window is None else (slice(*side) for side in window)
        plane = np.ascontiguousarray(plane_of(self.volume.array, axis, index)[:, rows, columns])
        features = self.model.encode(plane, plane_spacing(self.volume, axis))
        return {name: part.to("cpu", torch.float16) for name, part in features.items()}

    def _look(self) -> None:
        """Open what is in the folder by now; nothing where it is not filled yet."""
        folder = self.folder
        if folder is None or not (folder / HEADER).is_file():
            return
        header = decode(Header, read_json(folder / HEADER), str(folder / HEADER))
        for what, ours, theirs in (("image", self.image, header.image), ("model", self.model.sha256, header.model)):
            if ours != theirs:
                raise CheckpointError(
                    f"The embeddings in {folder} are of another {what} (SHA-256 {_short(theirs)}, here "
                    f"{_short(ours)}). Name another folder, or remove it, and make them again with samunet_embed."
                )
        names = [(axis, name) for axis in header.axes for name in header.maps]
        try:
            files = {(axis, name): blosc2.open(str(_file(folder, axis, name)), mode="r") for axis, name in names}
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreadable(folder, error) from None
        for (_, name), planes in files.items():
            wanted = self.model.channels.get(name)
            if wanted is not None and planes.shape[2:3] != (wanted,):
                raise CheckpointError(
                    f"Map '{name}' of the embeddings in {folder} has the shape {planes.shape[1:]}, where {wanted} "
                    f"channels are {self.model.name}'s; remove the folder, and make them again with samunet_embed."
                )
        self._maps, self._files = header.maps, files  # at once: another thread may be reading

    def _read(self, axis: int, index: int) -> Features | None:
        if self.missing((axis,)) or self.folder is None:
            return None
        try:
            return {name: torch.from_numpy(self._files[axis, name][index : index + 1][0]) for name in self._maps}
        except RuntimeError as error:  # blosc2 finds damage inside a file only when it decodes it
            raise _unreadable(self.folder, error) from None


class _Stopped(Exception):
    """Leaves the axis that is being encoded as it was."""


def _file(folder: Path, axis: int, name: str) -> Path:
    return folder / f"axis{axis}_{name}.b2nd"


def _short(sha256: str) -> str:
    """Return the beginning of a SHA-256, and what follows its 64 digits."""
    return sha256[:12] + sha256[64:]


def _unreadable(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"The embeddings in {folder} cannot be read ({error}); remove it, and make them again with samunet_embed."
    )
