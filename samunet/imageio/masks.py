"""Masks that lie beside the images they were drawn on, told from them by name and content; in doubt a file is none."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from samunet.core.dataset import CHANNEL_FILE
from samunet.core.memory import is_free
from samunet.core.names import MASK, role_of, words_in
from samunet.core.values import distinct
from samunet.errors import DatasetError
from samunet.imageio import reader_of_image, stem_of
from samunet.imageio.reader import FLOAT_BYTES, same_spacing

MOST_VALUES = 200  # of a mask; more are numbers of objects, or intensities
MOST_UNSAID = 32  # of a mask whose name does not say that it is one

Words = tuple[str, ...]


def masks_among(files: Sequence[Path], *, unsaid: bool = False) -> dict[Path, Path]:
    """Return which files of a folder are masks, and the image each of them belongs to; reads what may be one.

    A mask is called so (mask, seg, label, gt and the like), its name without such words is an image's or goes on with
    words where that ends (case_01_liver_mask beside case_01 or case_01_0000), and it holds few whole numbers from 0 up
    on that image's grid. Other numbers in its name than the image's, a channel's among them, are of another case.

    Args:
        unsaid: take for masks also what is not called so but goes on with words where an image's name ends
            (case_01_liver), where its values are fewer than the image's; for what somebody looks at before it counts.
    """
    said = {path for path in files if any(MASK.fullmatch(word.lower()) for word in words_in(stem_of(path)))}
    images: dict[Words, list[Path]] = defaultdict(list)
    for path in files:
        if path not in said:
            for stem in {stem_of(path), channel_case(path) or stem_of(path)}:
                images[_words(stem)].append(path)
    few = functools.cache(lambda path: holds_labels(path, MOST_UNSAID))  # one image, many masks
    found: dict[Path, Path] = {}
    for path in files:
        if not unsaid and path not in said:
            continue
        words = _words(stem_of(path))
        numbers = (place for place, word in enumerate(words, 1) if word.isdigit() and path in said)
        fewest, most = max(numbers, default=min(1, len(words))), len(words) - (path not in said)
        near = (image for end in range(most, fewest - 1, -1) for image in images.get(words[:end], ()))
        image = next((image for image in near if _share_grid(path, image)), None)
        if image is not None and (holds_labels(path) if path in said else few(path) and not few(image)):
            found[path] = image
    return found


def channel_case(path: Path) -> str | None:
    """Return the case that a file named <case>_<4-digit channel> is of; None for other names."""
    match = CHANNEL_FILE.fullmatch(stem_of(path))
    return match["case"] if match is not None else None


def _words(stem: str) -> Words:
    """Return the words of a file's name that tell its case, in lower case."""
    return tuple(word.lower() for word in words_in(stem) if not role_of([word]))


def _share_grid(path: Path, image: Path) -> bool:
    """Tell whether a file of one channel has an image's grid, as far as headers tell."""
    try:
        own, other = (reader_of_image(one, None).peek(one) for one in (path, image))
    except (DatasetError, OSError):
        return False
    if own.channels != 1 or own.geometry.shape != other.geometry.shape:
        return False
    measured = own.geometry.measured and other.geometry.measured
    return not measured or same_spacing(own.geometry, other.geometry)


def holds_labels(path: Path, most: int = MOST_VALUES) -> bool | None:
    """Tell whether a file holds few whole numbers from 0 up (True), or fractions or many numbers below 0 too (False).

    None is in doubt: what cannot be read, memory does not hold, has several channels, or is neither of the two.
    """
    try:
        reader = reader_of_image(path, None)
        peek = reader.peek(path)
        if not is_free(peek.loading + FLOAT_BYTES * math.prod(peek.geometry.shape)):
            return None
        values = distinct(reader.read_label(path)[0])
    except (DatasetError, OSError) as error:
        return False if isinstance(error, DatasetError) and error.code == "label-fraction" else None
    few, from_0 = len(values) <= most, values[0] >= 0
    return few if few == from_0 else None
