"""Images and their labels found among any files, by words in the names of folders and files.

A file is a label where a word such as mask or seg says so. Its other words name the case; an image belongs to it where
its words are the same, but for some in a row, which name the channel: p1_mask and p1_T2, T2/p1 and masks/p1. Words in a
row that a label has more name its structure, and a case may have a mask for each: p1/ct and p1/segmentations/liver.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from samunet.core.units import counted
from samunet.errors import MOST_NAMES, DatasetError
from samunet.importing.dataset import FoundCase, identifier_of
from samunet.importing.files import (
    SEPARATORS,
    File,
    Reading,
    Words,
    ending_of_copy,
    list_files,
    parts_of,
    told_by_content,
)

KINDS = "images|labels|masks"
TESTS = re.compile(f"({KINDS})?[-_ ]?([Tt]ests?|[Tt]esting|TEST(S|ING)?|Ts)([-_ ]?(set|{KINDS}))?")
"""Folders of test cases by their whole names: imagesTs, test, test_images."""


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Cases with labels and without, and what became of the other files."""

    cases: tuple[FoundCase, ...]
    channels: tuple[str, ...]
    """What names say of each channel: a word, a number, or nothing."""
    structure: str
    """What all label files name beside the case, as "liver" of p1_liver_mask; may be empty."""
    left_out: Mapping[str, tuple[Path, ...]]
    """Files that become nothing, by the reason."""

    def leaving(self, left_out: Mapping[str, Sequence[Path]]) -> Matches:
        """Return these with more files that become nothing."""
        more = {reason: tuple(paths) for reason, paths in left_out.items() if paths}
        return replace(self, left_out={**self.left_out, **more})


def match_files(folder: Path) -> Matches:
    """Find cases among all files below a folder; those in folders of tests become test cases where others are not.

    Raises:
        DatasetError: there is no image, no label or no pair of them of one ending, or a case has several labels whose
            names tell no structures.
    """
    files = list(list_files(folder))
    if not files:
        raise DatasetError(f"{folder} holds no image that a reader knows; give the folder of images and labels.")
    if not any(file.label for file in files):
        files = told_by_content(files)
    if not any(file.label for file in files):
        raise DatasetError(
            f"{folder} holds {counted(len(files), 'image')} and nothing that looks like a label, by a folder such as "
            "labels or an "
            "ending such as _seg or _mask; rename the labels, or name the folders: samunet_import folders --help"
        )
    kept, predictions = _without_predictions(files)
    best = _best(kept)
    if predictions and not best.images:
        kept, predictions, best = files, [], _best(files)
    if not best.images:
        _refuse_other_endings(folder, files)
        first = next(file.path for file in files if file.label)
        raise DatasetError(
            f"No image in {folder} belongs to a label by its name, e.g. to {first.relative_to(folder)}; name them "
            "alike, or list them in a table: samunet_import csv --help"
        )
    return _with_test_cases(folder, _assembled(folder, kept, best).leaving({"in folders of predictions": predictions}))


def _best(files: Sequence[File]) -> _Groups:
    """Try all ways of giving images to labels; return the best one."""
    of_labels = sorted({ending_of_copy(file.path) for file in files if file.label})
    alike = [[file for file in files if ending_of_copy(file.path) == ending] for ending in of_labels]
    tried = [_match(part, own) for part in alike for own in (False, True)]
    best = max(tried, key=_Groups.quality)
    if len(best.images) < sum(file.label for file in files):  # p1_liver_mask beside p1_T2
        tried += [
            _match(part, own, extra) for part in alike for own in (False, True) for extra in _said_by_all(part, own)
        ]
        best = max(tried, key=_Groups.quality)
        for least in (2, 1):  # p1/segmentations/liver and p1/segmentations/spleen beside p1/ct
            if len(best.images) == len(best.untold):
                tried += [_match(part, own, channels=least) for part in alike for own in (False, True)]
                best = max(tried, key=_Groups.quality)
    return best


@dataclass(frozen=True)
class _Groups:
    """Which files belong together."""

    labels: dict[Words, list[tuple[File, Reading]]]
    """By case."""
    images: dict[Words, dict[str, File]]
    """Of cases with a label, by the rest of their words in lower case."""
    alone: list[File]
    """Images without a label."""
    spelled: dict[str, str]
    """Those rests as they are spelled."""
    own: bool
    """By the words of names alone, without those of folders."""

    def quality(self) -> tuple[int, int, int]:
        """Return how well this explains the files: by cases with labels, images without, words that are no case's."""
        return len(self.images) - len(self.untold), -len(self.alone), -sum(map(bool, self.spelled))

    @functools.cached_property
    def untold(self) -> list[Words]:
        """Cases with labels whose names do not tell which structure each is, where any case has several."""
        if all(len(self.labels[case]) == 1 for case in self.images):
            return []
        masks = {case: self.masks(case) for case in self.images}
        counts = Counter(name.lower() for named in masks.values() for name in named or ())
        if len(masks) > 1 and max(counts.values(), default=0) == 1:
            return list(masks)  # p1_x and p1_y beside p1, p2_z beside p2: what is in no second case is no structure
        return [case for case, named in masks.items() if named is None]

    def masks(self, case: Words) -> dict[str, File] | None:
        """Return the labels of a case by what their names say beside it; None where that names no structures."""
        named = {file.structure(reading.rest_words): file for file, reading in self.labels[case]}
        told = len({name.lower() for name in named}) == len(self.labels[case])
        return named if told and not any(name == "" or name.isdecimal() for name in named) else None


def _without_predictions(files: list[File]) -> tuple[list[File], list[Path]]:
    """Return the files without those in folders of predictions, and these; all where no images with labels are left, or
    such folders hold both themselves, as those of a study's results may.
    """
    kept, predicted = ([file for file in files if file.predicted == wanted] for wanted in (False, True))
    if {file.label for file in kept} < {True, False} or len({file.label for file in predicted}) > 1:
        return files, []
    return kept, [file.path for file in predicted]


def _refuse_other_endings(folder: Path, files: Sequence[File]) -> None:
    """Raise DatasetError where images belong to labels of another ending."""
    groups = max((_match(files, own) for own in (False, True)), key=_Groups.quality)
    if not groups.images:
        return
    of_images = {ending_of_copy(file.path) for images in groups.images.values() for file in images.values()}
    of_labels = {ending_of_copy(file.path) for case in groups.images for file, _ in groups.labels[case]}
    raise DatasetError(
        f"The images in {folder} end in {', '.join(sorted(of_images))}, their labels in "
        f"{', '.join(sorted(of_labels))}; all files must share one ending. Convert them to one format, e.g. .nii.gz."
    )


def _said_by_all(files: Sequence[File], own: bool) -> set[str]:
    """Return the words in a row that every label has; a number alone is none, but part of what names the case."""
    rests = [{reading.rest for reading in file.readings(own)} for file in files if file.label]
    return {rest for rest in set[str].intersection(*rests) if rest and not rest.isdecimal()}


def _match(files: Sequence[File], own: bool, extra: str | None = None, channels: int | None = None) -> _Groups:
    """Give images to labels.

    Args:
        extra: what all labels say beside the case, where that is known.
        channels: a label says a case and more also where an image does, with words that so many images have; more than
            a number, which is of another case: 3 of c3 beside c1 and c2.
    """
    images = [file for file in files if not file.label]
    names, begun = {next(file.readings(own)).case for file in images}, set[Words]()
    if channels is not None:
        said = [(reading.rest.lower(), reading.case) for file in images for reading in file.readings(own)]
        counts = Counter(rest for rest, _ in said)
        begun = {case for rest, case in said if counts[rest] >= channels}
    groups = _Groups(defaultdict(list), defaultdict(dict), [], {}, own)
    for file in files:
        whole = next(file.readings(own))
        if file.label and whole.case:
            # p1_liver_mask beside p1: what the label says more is its structure.
            fits = (
                reading
                for reading in file.readings(own)
                if extra == reading.rest
                or reading.case in names
                or (reading.case in begun and not reading.rest.isdecimal())
            )
            reading = next(fits, whole)
            groups.labels[reading.case].append((file, reading))
    for file in images:
        fitting = next((reading for reading in file.readings(own) if reading.case in groups.labels), None)
        if fitting is None or groups.images[fitting.case].setdefault(fitting.rest.lower(), file) is not file:
            groups.alone.append(file)
        else:
            groups.spelled.setdefault(fitting.rest.lower(), fitting.rest)
    return groups


def _assembled(folder: Path, files: Sequence[File], groups: _Groups) -> Matches:
    labels = {case: groups.labels[case] for case in groups.images}
    references = _references(folder, groups)
    channels = _channels(folder, groups)
    found: list[tuple[list[File], File, range, Mapping[str, File]]] = []
    lacking: list[Path] = []
    for case, images in groups.images.items():
        wanted = [images.get(name) for name in channels] if channels else list(images.values())
        there, (label, reading) = [file for file in wanted if file is not None], labels[case][0]
        if len(there) < len(wanted):
            lacking += [file.path for file in (*images.values(), *references[case].values())]
        else:
            found.append((there, label, reading.rest_words, references[case]))
    tests: dict[Words, dict[str, tuple[File, range]]] = defaultdict(dict)
    for file in groups.alone:
        for reading in file.readings(groups.own):
            if reading.rest.lower() in (channels or ("",)):
                tests[reading.case].setdefault(reading.rest.lower(), (file, reading.rest_words))
                break
    for by_channel in tests.values():
        if set(by_channel) == set(channels or ("",)):
            there = [by_channel[name][0] for name in channels or ("",)]
            found.append((there, *next(iter(by_channel.values())), {}))
    used = {file.path for images, named, _, own in found for file in (*images, named, *own.values())}
    rest = [file.path for file in files if file.path not in used and file.path not in lacking]
    ending = ending_of_copy(next(iter(labels.values()))[0][0].path)
    structures = {reading.rest for readings in labels.values() for _, reading in readings}
    matches = Matches(
        cases=tuple(_named(found)),
        channels=tuple(groups.spelled[name] for name in channels) or ("",),
        structure=structures.pop() if len(structures) == 1 else "",
        left_out={},
    )
    return matches.leaving(
        {
            "whose case lacks a channel": lacking,
            "that belong to no label or channel": [path for path in rest if ending_of_copy(path) == ending],
            f"of another ending than {ending}, which the labels have": [
                path for path in rest if ending_of_copy(path) != ending
            ],
        }
    )


def _with_test_cases(folder: Path, matches: Matches) -> Matches:
    """Take the labels from cases in folders of tests, unless no other case has one."""
    tests = [
        any(TESTS.fullmatch(name) for name in case.images[0].relative_to(folder).parts[:-1]) for case in matches.cases
    ]
    if not any(case.training and not test for case, test in zip(matches.cases, tests, strict=True)):
        return matches
    labels = [path for case, test in zip(matches.cases, tests, strict=True) if test for path in case.references]
    cases = tuple(
        replace(case, label=None, masks={}) if test else case for case, test in zip(matches.cases, tests, strict=True)
    )
    return replace(matches, cases=cases).leaving({"with labels of test cases": labels})


def _references(folder: Path, groups: _Groups) -> dict[Words, dict[str, File]]:
    """Return for each case the masks by structure, in alphabetical order, or its one label file under an empty name."""
    if all(len(groups.labels[case]) == 1 for case in groups.images):
        return {case: {"": groups.labels[case][0][0]} for case in groups.images}
    if groups.untold:
        several = [case for case in groups.untold if len(groups.labels[case]) > 1] or groups.untold
        names = sorted(str(file.path.relative_to(folder)) for file, _ in groups.labels[several[0]])
        raise DatasetError(
            f"{counted(len(several), 'case')} of {folder} have several label files, whose names tell no structures, "
            f"first {', '.join(names[:MOST_NAMES])}; needed is one file with a value for each structure, or one for "
            "each under its name, the same in all cases. Rename them, or move the others away."
        )
    masks = {case: groups.masks(case) or {} for case in groups.images}
    spelled: dict[str, str] = {}
    for name in sorted(itertools.chain(*masks.values())):
        spelled.setdefault(name.lower(), name)
    return {
        case: {spelled[name.lower()]: named[name] for name in sorted(named, key=str.lower)}
        for case, named in masks.items()
    }


def _channels(folder: Path, groups: _Groups) -> tuple[str, ...]:
    """Return the rests of words that half of the cases have, in order; () where each case has one of its own."""
    names = Counter(name for images in groups.images.values() for name in images)
    if len(names) == len(groups.images) == names.total() > 1:
        return ()
    common = [name for name in names if 2 * names[name] >= len(groups.images)]
    if not any(set(common) <= set(images) for images in groups.images.values() if common):
        raise DatasetError(
            f"The images in {folder} beside one label have no names in common with those beside others, of which most "
            f"are {', '.join(repr(name) for name, _ in names.most_common(MOST_NAMES))}; list them in a table: "
            "samunet_import csv --help"
        )
    return tuple(sorted(common, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)))


def _named(found: Sequence[tuple[list[File], File, range, Mapping[str, File]]]) -> Iterator[FoundCase]:
    """Name cases by their labels, or their images without the channel; by folders too where names alone are equal."""
    for own in (True, False):
        names = [
            _as_written([*images, *references.values()], file.case_name(rest, own))
            for images, file, rest, references in found
        ]
        if len({name.casefold() for name in names}) == len(names) and all(names):
            break
    for name, (images, _, _, references) in sorted(zip(names, found, strict=True), key=lambda pair: pair[0]):
        paths = tuple(image.path for image in images)
        name = f"case_{name}" if name.isdecimal() else name  # 0001_0000 would read as two channels
        masks = {structure: file.path for structure, file in references.items()}
        yield FoundCase(identifier=identifier_of(name), images=paths, label=masks.pop("", None), masks=masks)


def _as_written(files: Sequence[File], name: str) -> str:
    """Return the name of a case as its files begin with it, where they do: scan_1 of scan_1_T2 and scan_1_seg, whose
    words that tell images from labels `name` lacks.
    """
    wanted = [word.lower() for part in parts_of(name) for word in part]
    first, *others = (file.stem for file in files)
    for end in range(len(first), 0, -1):
        begins = all(stem.startswith(first[:end]) and stem[end : end + 1] in ("", *SEPARATORS) for stem in others)
        if not begins or first[end - 1] in SEPARATORS or (end < len(first) and first[end] not in SEPARATORS):
            continue
        if [word.lower() for part in parts_of(first[:end]) for word in part] == wanted:
            return first[:end]
    return name
