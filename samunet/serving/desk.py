"""Cases to annotate, one of them open at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samunet.core.geometry import REFUSE_VOXELS, Geometry
from samunet.core.names import check_case_name
from samunet.core.units import counted
from samunet.core.volume import Volume
from samunet.errors import ConfigError, DatasetError, InUseError, SamunetError, did_you_mean, in_words
from samunet.imageio import known_ending, reader_of_image, stem_of
from samunet.imageio.masks import channel_case
from samunet.imageio.natural import JPEG
from samunet.interaction.embeddings import Embeddings
from samunet.interaction.session import Session
from samunet.interaction.slices import PlaneModel
from samunet.interaction.state import Thing
from samunet.interaction.volumes import VolumeModel
from samunet.serving.table import CASE, effort, put_row, read_table

logger = logging.getLogger(__name__)

TABLE = "annotation.csv"
"""Of what each case took, beside the labels or in the dataset's folder."""
PICTURES = (".png", ".bmp")
MEANT: ContextVar[str] = ContextVar("MEANT", default="")
"""The case that a request is meant for; empty for whichever is open."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A case to annotate."""

    name: str
    images: tuple[Path, ...]
    """One file for each channel."""
    output: Path
    start: Path | None = None
    """Label file to begin with."""


class Desk:
    """What a server annotates.

    Args:
        works: cases that may be opened by their names.
        model: for all of them.
        objects: what is annotated.
        cache: folder of embeddings, one folder a case; missing ones are made while people work.
        folder: where labels of images go that programs send; None takes none.
        table: CSV file of what each case took; None for none.

    Raises:
        DatasetError: the table's file is none.
    """

    def __init__(
        self,
        works: Sequence[Work],
        model: PlaneModel | VolumeModel,
        *,
        objects: Sequence[Thing] = (),
        cache: Path | None = None,
        folder: Path | None = None,
        table: Path | None = None,
    ) -> None:
        self.works = {work.name: work for work in works}
        self.model, self.objects, self.cache, self.folder, self.table = model, objects, cache, folder, table
        self.encoded = (0, 0)
        self.fault: SamunetError | None = None
        """Why planes of the open case are not encoded beforehand; a click encodes its own all the same."""
        if table is not None:
            read_table(table)
        self._opened: tuple[str, Session] | None = None
        """Case and session, which change together."""
        self._filling: threading.Thread | None = None
        self._ending = threading.Event()
        self.lock = threading.RLock()

    @property
    def case(self) -> str:
        """Name of the open case; empty where there is none."""
        return "" if self._opened is None else self._opened[0]

    @property
    def session(self) -> Session:
        """The open session; raises ConfigError where there is none, InUseError where it is not of the case `MEANT`."""
        case, session = self._opened or ("", None)
        if MEANT.get() not in ("", case):
            raise InUseError(f"Another page opened {case or 'no case'} meanwhile; open your case again here.")
        if session is None:
            raise ConfigError("No image is open; set one first.")
        return session

    def open_first(self) -> None:
        """Open the first case without a label, or the first; those that cannot be opened are named and passed over.

        Raises:
            SamunetError, OSError: there is one case only, or none can be opened; of the first.
        """
        failed: list[Exception] = []
        for work in sorted(self.works.values(), key=lambda work: work.output.is_file()):
            try:
                return self.open(work.name)
            except Exception as error:  # whatever is wrong with this one, others may be whole
                failed.append(error)
                if len(self.works) > 1:
                    logger.warning("Case '%s' is passed over: %s", work.name, in_words(error))
        raise failed[0]

    def open(self, name: str) -> None:
        """Open a case, in place of the one that is open, which stays where this fails.

        Raises:
            ConfigError: there is no such case.
            DatasetError, InUseError: as reading its files and `Session` do.
        """
        if name not in self.works:
            raise ConfigError(f"There is no case {name!r:.80}.{did_you_mean(name, self.works)}")
        work = self.works[name]
        volume = reader_of_image(work.images[0], None).read_image(work.images)
        self._begin(name, volume, work.output, work.start)

    def open_array(self, name: str, volume: Volume) -> None:
        """Open an image that a program sent; raises ConfigError where such images are not taken."""
        if self.folder is None:
            raise ConfigError("This server annotates the images that it was started with; open one by its name.")
        check_case_name(name, self.folder)
        output = self.folder / f"{name}.nii.gz"
        self._begin(name, volume, output, output if output.is_file() else None)

    def _begin(self, name: str, volume: Volume, output: Path, file: Path | None) -> None:
        start = None if file is None else _labels_of(file, volume.geometry)
        ending, slices = known_ending(output), volume.geometry.shape[0]
        if ending in JPEG or (ending in PICTURES and slices > 1):  # said before the work, not when it is saved
            raise ConfigError(f"{output} cannot hold labels of {counted(slices, 'slice')}; name it case.nii.gz or so.")
        with self.lock:
            if self._opened is not None and self._opened[1].output == output:
                self.close()
            cache = None if self.cache is None else self.cache / name
            session = Session(volume, self.model, output, start=start, objects=self.objects, embeddings=cache)
            self.close()
            self._opened, looks = (name, session), session.looks
            if cache is not None and looks is not None and (axes := looks.missing((0,))):
                self._ending.clear()
                self._filling = threading.Thread(target=self._fill, args=(looks, axes), daemon=True)
                self._filling.start()

    def _fill(self, looks: Embeddings, axes: Sequence[int]) -> None:
        try:
            looks.fill(axes, self._tell)
        except Exception as error:  # nobody waits for this thread; whoever asks for its progress is told
            kind = InUseError if isinstance(error, InUseError) else SamunetError
            self.fault = kind(f"Planes are encoded as you click, and not beforehand: {in_words(error)}")
            logger.warning("Case '%s': %s", self.case, self.fault)

    def _tell(self, done: int, of: int) -> bool:
        self.encoded = done, of
        return not self._ending.is_set()

    def save(self) -> Path:
        """Write the labels, and what the case took into the table."""
        with self.lock:
            session = self.session
            path = session.save()
            if self.table is not None:
                try:
                    put_row(self.table, {CASE: self.case, **effort(session)})
                except (SamunetError, OSError) as error:
                    said = f"The labels are saved to {path}, but not what they took: {in_words(error)}"
                    raise DatasetError(said) from None
            return path

    def close(self) -> None:
        """End the open session, where there is one."""
        with self.lock:
            if self._filling is not None:
                self._ending.set()
                self._filling.join()
            if self._opened is not None:
                self._opened[1].close()
            self._opened, self._filling, self.fault, self.encoded = None, None, None, (0, 0)


def _labels_of(path: Path, grid: Geometry) -> np.ndarray:
    """Read labels to begin with; raises DatasetError where they lie elsewhere than the image."""
    labels, own = reader_of_image(path, None).read_label(path)
    if own.shape == grid.shape and grid.voxels_apart(own) >= REFUSE_VOXELS:
        raise DatasetError(
            f"The labels {path} and the image lie {grid.apart(own)} apart at a corner; they must share one grid. "
            "Resample the labels, or correct their header."
        )
    return labels


def case_name(image: Path) -> str:
    """Return the name of an image's case: that of its file, without ending and channel."""
    return channel_case(image) or stem_of(image)


def cases_in(inputs: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    """Map the names of cases to their images, one file for each channel.

    Args:
        inputs: image files, or folders of them.

    Raises:
        DatasetError: there is no image, a path is none, or images that are no channels of one have the same case.
    """
    cases: dict[str, list[Path]] = {}
    for path in inputs:
        files = sorted(path.iterdir()) if path.is_dir() and known_ending(path) == "" else [path]
        for file in files:
            if known_ending(file) and file.is_file():
                of_case = cases.setdefault(case_name(file), [])
                if file not in of_case:
                    of_case.append(file)
            elif not path.is_dir():
                raise DatasetError(f"{path} is no image file and no folder of images; correct the path.")
    if not cases:
        raise DatasetError(f"No image is in {', '.join(map(str, inputs))}; name files, or a folder that holds some.")
    for name, (first, *others) in cases.items():
        for other in others:
            if (
                other.parent != first.parent
                or known_ending(other) != known_ending(first)
                or not (channel_case(other) and channel_case(first))
            ):
                raise DatasetError(
                    f"{first} and {other} would be one case, '{name}'; rename one, or take them in turn."
                )
    return {name: tuple(files) for name, files in cases.items()}
