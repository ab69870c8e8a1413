"""Image files below a folder as words: labels told from images, and what their names say beside that."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from samunet.core.names import PREDICTION, role_of, words_in
from samunet.imageio import stem_of
from samunet.imageio.dicom import is_dicom
from samunet.imageio.masks import masks_among
from samunet.importing.dataset import SERIES_ENDING, ending_of

SEPARATORS = "_-. "
FOREIGN = "__MACOSX"  # what a Mac leaves in zip files

Words = tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """The words of a file as those of its case and some in a row that say something else."""

    case: Words
    """In lower case."""
    rest: str
    rest_words: range
    """Which words they are, of all that the file's folders and name have."""


@dataclass(frozen=True)
class File:
    """An image file, or a folder with the files of a DICOM series."""

    path: Path
    label: bool
    predicted: bool
    """In a folder of predictions."""
    folders: tuple[Words, ...]
    """Words of each part of the names of its folders between separators, without those that tell images from labels."""
    name: tuple[Words, ...]
    """Likewise of its own name."""
    stem: str
    """Its own name, without ending."""

    def readings(self, own: bool) -> Iterator[Reading]:
        """Give all of them: first with all words as the case's, then with few others, those at the end first.

        Args:
            own: by the words of the name alone, without those of folders.
        """
        skipped = sum(map(len, self.folders)) if own else 0
        words = [word for part in (*self.folders, *self.name) for word in part][skipped:]
        for length in range(max(1, len(words))):
            for start in range(len(words) - length, -1, -1) if length else [len(words)]:
                case = tuple(word.lower() for word in words[:start] + words[start + length :])
                rest = range(skipped + start, skipped + start + length)
                yield Reading(case, "".join(words[start : start + length]), rest)

    def case_name(self, rest: range, own: bool) -> str:
        """Return its name without some of its words, and without its folders where own."""
        names = self._spelled(lambda number: number not in rest)
        return "_".join(filter(None, names[len(self.folders) if own else 0 :]))

    def structure(self, rest: range) -> str:
        """Return some of its words: kidney_left of p1_kidney_left_mask."""
        return "_".join(filter(None, self._spelled(lambda number: number in rest)))

    def _spelled(self, wanted: Callable[[int], bool]) -> list[str]:
        numbered = itertools.count()
        return ["".join(word for word in part if wanted(next(numbered))) for part in (*self.folders, *self.name)]


def list_files(folder: Path) -> Iterator[File]:
    """List image files and folders of DICOM series below a folder, labels told from images."""
    found = list(_walk(folder))
    above = [[role_of(words_in(part)) for part in reversed(path.relative_to(folder).parts[:-1])] for path in found]
    by_folder = [next(filter(None, roles), "") for roles in above]
    sure = {"label", "image"} <= set(by_folder)  # then an image may be called frame_label_3
    for path, nearest in zip(found, by_folder, strict=True):
        relative = path.relative_to(folder)
        stem = path.name if path.is_dir() else stem_of(path)
        label = nearest == "label" or (not (sure and nearest) and role_of(words_in(stem)) == "label")
        folders = tuple(part for name in relative.parent.parts for part in parts_of(name))
        yield File(path, label, _is_predicted(relative), folders, parts_of(stem), stem)


def _is_predicted(relative: Path) -> bool:
    """Tell whether the nearest folder that says what its files are says predictions: predictions/c1, or preds_mask/c1,
    but not results/masks/c1.
    """
    for part in reversed(relative.parts[:-1]):
        words = words_in(part)
        if any(PREDICTION.fullmatch(word.lower()) for word in words):
            return True
        if role_of(words):
            return False
    return False


def told_by_content(files: Sequence[File]) -> list[File]:
    """Take for labels what goes on where an image's name ends and holds a mask of it: case_01_liver beside case_01."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        if file.path.is_file():
            by_folder[file.path.parent].append(file.path)
    masks = set[Path]().union(*(masks_among(folder, unsaid=True) for folder in by_folder.values()))
    return [replace(file, label=file.path in masks) for file in files]


def _walk(folder: Path) -> Iterator[Path]:
    seen = set()  # links to folders are followed, but not in a circle
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != FOREIGN)
        if os.path.realpath(root) in seen:
            folders[:] = names = []
        seen.add(os.path.realpath(root))
        files = [Path(root, name) for name in sorted(names) if not name.startswith(".")]
        images = [path for path in files if ending_of(path)]
        if not images and files and Path(root) != folder and is_dicom(files[0]):
            yield Path(root)
        yield from images


def parts_of(name: str) -> tuple[Words, ...]:
    """Return the words of each part of a name between separators, without those that tell images from labels."""
    for separator in SEPARATORS[1:]:
        name = name.replace(separator, SEPARATORS[0])
    return tuple(
        tuple(word for word in words_in(part) if not role_of([word])) for part in name.split(SEPARATORS[0]) if part
    )


def ending_of_copy(path: Path) -> str:
    """Return the ending that the copy of a file, or of a folder with a DICOM series, gets."""
    return SERIES_ENDING if path.is_dir() else ending_of(path)
