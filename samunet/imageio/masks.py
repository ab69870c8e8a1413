"""Masks that lie beside the images they were drawn on, told from them by name and content."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from samunet.core.dataset import CHANNEL_FILE
from samunet.core.memory import is_free
from samunet.core.names import role_of, words_in
from samunet.core.values import distinct
from samunet.errors import DatasetError
from samunet.imageio import known_ending, reader_of_image
from samunet.imageio.reader import FLOAT_BYTES, same_spacing

MOST_VALUES = 200  # of a file whose name says mask; more are numbers of objects, or intensities
MOST_UNSAID = 32  # of a file whose name only continues an image's
HIGHEST_UNSAID = 255  # value in such a file, as pictures of masks have

Words = tuple[str, ...]


def masks_among(files: Sequence[Path]) -> dict[Path, Path]:
    """Return which files of a folder are masks, and the image each of them belongs to; reads what may be one.

    A file is a mask where its name is an image's with a word such as mask or seg, or goes on where an image's ends
    (case_01_liver beside case_01; case_01 beside case_01_0000), and where it holds few small whole numbers on that
    image's grid. Of the second kind are only those whose image holds other numbers. What cannot be read is none.
    """
    named: dict[Words, list[Path]] = defaultdict(list)
    said = {path for path in files if role_of(words_in(_stem(path))) == "label"}
    channels = {path: case for path in files if (case := channel_case(path)) is not None}
    for path in files:
        if path not in said:
            for stem in {_stem(path), channels.get(path, _stem(path))}:
                named[_words(stem)].append(path)
    few = functools.cache(lambda path: holds_labels(path, MOST_UNSAID, HIGHEST_UNSAID))  # one image, many masks
    found: dict[Path, Path] = {}
    for path in files:
        if path in channels and path not in said:
            continue  # a channel is an image
        words = _words(_stem(path))
        for length in range(len(words), -1, -1):
            others = [other for other in named.get(words[:length], ()) if other != path]
            if path not in said and length == len(words):
                others = [other for other in others if other in channels]
            image = next((other for other in others if _is_mask(path, other, few, said=path in said)), None)
            if image is not None:
                found[path] = image
            if others:
                break
    return found


def channel_case(path: Path) -> str | None:
    """Return the case that a file named <case>_<4-digit channel> is of; None for other names."""
    match = CHANNEL_FILE.fullmatch(_stem(path))
    return match["case"] if match is not None else None


def case_of(mask: Path, image: Path) -> str:
    """Return the name of the case that a mask and its image are of."""
    whole = _stem(image)
    return whole if _stem(mask).startswith(whole) else channel_case(image) or whole


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(known_ending(path))]


def _words(stem: str) -> Words:
    """Return the words of a file's name that tell its case, in lower case."""
    return tuple(word.lower() for word in words_in(stem) if not role_of([word]))


def _is_mask(path: Path, image: Path, few: Callable[[Path], bool], *, said: bool) -> bool:
    """Tell whether a file is a mask on an image's grid; `said`: its name says so, else `few` its values and not the
    image's.
    """
    try:
        own, other = (reader_of_image(one, None).peek(one) for one in (path, image))
        if own.channels != 1 or own.geometry.shape != other.geometry.shape:
            return False
        if own.geometry.measured and other.geometry.measured and not same_spacing(own.geometry, other.geometry):
            return False
    except (DatasetError, OSError):
        return False
    if said:
        return holds_labels(path, MOST_VALUES)
    return few(path) and not few(image)


def holds_labels(path: Path, most: int = MOST_VALUES, highest: float = math.inf) -> bool:
    """Tell whether a file holds few whole numbers from 0 up; one that memory does not hold does not."""
    try:
        reader = reader_of_image(path, None)
        peek = reader.peek(path)
        if not is_free(peek.loading + FLOAT_BYTES * math.prod(peek.geometry.shape)):
            return False
        values = distinct(reader.read_label(path)[0])
    except (DatasetError, OSError):
        return False
    return len(values) <= most and values[0] >= 0 and values[-1] <= highest
