"""What a user gives to predict: files of any format that the readers know, folders of them, and trees of DICOM series,
as cases.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from samunet.core.dataset import CHANNEL_FILE, Case, DatasetSpec, channels_by_case
from samunet.core.names import check_case_name, in_utf8, listed
from samunet.core.units import counted
from samunet.errors import MOST_NAMES, DatasetError
from samunet.imageio import known_ending, output_ending, reader_of_image, stem_of
from samunet.imageio.dicom import is_dicom
from samunet.imageio.masks import channel_case, masks_among

logger = logging.getLogger(__name__)

BESIDE = (".json", ".csv", ".txt", ".npz", ".ctbl", ".html")  # what lies beside images as a matter of course


def cases_to_predict(
    sources: Path | Sequence[Path], spec: DatasetSpec, folder: Path, ending: str | None = None
) -> tuple[Case, ...]:
    """List the cases of one or more input folders or files, of any format that a reader knows.

    Images are named <case>_0000<ending> or, for one channel or where a file holds all, <case><ending>. A folder without
    images is one DICOM series, or a tree of folders of series: a case is named after its folders.

    Args:
        folder: for the segmentations.
        ending: of the segmentations; None for that of each input.

    Raises:
        DatasetError: an input is absent or holds no image, a name is none of a case, two cases are the same, or an
            image would be overwritten.
    """
    cases: dict[str, Case] = {}
    for source in [sources] if isinstance(sources, Path) else sources:
        for case in _cases_of(source, spec, folder):
            check_case_name(case.identifier, source)
            if (other := cases.setdefault(case.identifier, case)) != case:
                both = f"{other.images[0]} and {case.images[0]}"
                raise DatasetError(f"Two inputs are case '{case.identifier}': {both}; rename one.")
    for case in cases.values():
        target = folder / f"{case.identifier}{ending or output_ending(case.images[0], spec.file_ending)}"
        if target.resolve() in {path.resolve() for path in case.images}:
            raise DatasetError(
                f"The segmentation of '{case.identifier}' would overwrite its image {target}; give another output "
                "folder."
            )
    return tuple(cases.values())


def _cases_of(source: Path, spec: DatasetSpec, folder: Path) -> tuple[Case, ...]:
    if source.is_file():
        return (_case_of_file(source, spec),)
    if not source.is_dir():
        raise DatasetError(
            f"Input {source} does not exist; give a folder of images named <case>_0000{spec.file_ending}, or one such "
            "file."
        )
    grouped = _images_in(source, spec) or _series_in(source)
    if not grouped:
        form = f"such as <case>_0000{spec.file_ending}, the form this model was trained on"
        raise DatasetError(f"Input folder {source} holds no image, {form}.{_where(source)}")
    if source.resolve() == folder.resolve():
        raise DatasetError(f"Input and output are the same folder {source}; give another output folder.")
    return tuple(Case(identifier=name, images=files, label=None) for name, files in grouped.items())


def _case_of_file(source: Path, spec: DatasetSpec) -> Case:
    ending = known_ending(source)
    if not ending:
        what = "has an ending that no reader knows; convert it"
        if is_dicom(source):
            what = "is one DICOM file; give the folder of its series"
        raise DatasetError(f"Input {source} {what}, for example to {spec.file_ending}.")
    match = CHANNEL_FILE.fullmatch(_stem(source))
    files = [path for path in source.parent.iterdir() if known_ending(path) == ending] if match else []
    channels = {
        _stem(path): path
        for path in files
        if match and (other := CHANNEL_FILE.fullmatch(_stem(path))) and other["case"] == match["case"]
    }
    if match is None or f"{match['case']}_0000" not in channels:
        return Case(identifier=_stem(source), images=(source,), label=None)
    return Case(identifier=match["case"], images=tuple(channels[name] for name in sorted(channels)), label=None)


def _images_in(source: Path, spec: DatasetSpec) -> dict[str, tuple[Path, ...]]:
    """Return the images that lie directly in a folder by case; what else lies there is named once."""
    files = [path for path in sorted(source.iterdir()) if path.is_file() and not path.name.startswith(".")]
    masks = masks_among([path for path in files if known_ending(path)])
    _say_masks(source, masks)
    images = [path for path in files if known_ending(path) and path not in masks]
    numbered = {path for path in images if channel_case(path)}
    own = {path for path in images if known_ending(path) == spec.file_ending}
    # Where channels are numbered, other names are faults in the model's own format, and other things in others.
    taken = [path for path in images if not numbered or path in numbered or path in own]
    left = [path for path in files if path not in (*taken, *masks) and path.suffix.lower() not in BESIDE]
    if taken and left:
        reason = "no reader knows their ending, or their names lack _0000"
        logger.info("%s: not taken for images: %s (%s).", source, listed([path.name for path in left]), reason)
    named: dict[str, Path] = {}
    for path in taken:
        other = named.setdefault(_stem(path), path)
        if other != path:
            raise DatasetError(f"{other} and {path.name} would be one image; rename or remove one of them.")
    if numbered or (named and len(spec.channels) > 1 and not _holds_all_channels(taken[0], spec)):
        return channels_by_case(named, source, spec.file_ending)
    return {name: (path,) for name, path in named.items()}


def _say_masks(source: Path, masks: Mapping[Path, Path]) -> None:
    if masks:
        left, names = counted(len(masks), "file"), listed([path.name for path in masks])
        example, image = next(iter(masks.items()))
        why = f"they hold few whole numbers on the grid of an image of their name, as {example.name} of {image.name}"
        way_out = "A file that is given itself is always taken."
        logger.warning("%s: %s left out as masks: %s (%s). %s", source, left, names, in_utf8(why), way_out)


def _holds_all_channels(path: Path, spec: DatasetSpec) -> bool:
    try:
        return reader_of_image(path, spec.reader).peek(path).channels == len(spec.channels)
    except DatasetError:
        return False


def _series_in(source: Path) -> dict[str, tuple[Path, ...]]:
    """Folders of DICOM files by case, at any depth; nothing where there are none.

    Where some folders directly in `source` hold series and another does not, it is a case too, which then fails with
    its reason.
    """
    walked = [(Path(parent), names) for parent, _, names in os.walk(source)]
    series = [parent for parent, names in walked if any(is_dicom(parent / name) for name in names if name[0] != ".")]
    if not series:
        return {}
    if series == [source]:
        return {source.resolve().name: (source,)}
    folders = [path for path in sorted(source.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if all(CHANNEL_FILE.fullmatch(path.name) for path in folders):
        return channels_by_case({path.name: path for path in folders}, source, "")
    without = [folder for folder in folders if not any(path.is_relative_to(folder) for path in series)]
    empty = [folder for folder in without if not any(map(known_ending, folder.iterdir()))]
    case_folders = sorted({*series, *empty})
    return {"_".join(path.relative_to(source).parts) or source.resolve().name: (path,) for path in case_folders}


def _where(source: Path) -> str:
    """Say which folders below hold images, the nearest first."""
    with_images = [
        Path(parent).relative_to(source)
        for parent, _, names in os.walk(source)
        if any(known_ending(Path(name)) for name in names)
    ]
    nearest = sorted((path for path in with_images if path.parts), key=lambda path: (len(path.parts), path))
    if not nearest:
        return ""
    more = ", ..." if len(nearest) > MOST_NAMES else ""
    return f" Folders in it do: {', '.join(map(str, nearest[:MOST_NAMES]))}{more}; give one of them."


def _stem(path: Path) -> str:
    # Prediction refuses such a file, and goes on with the others.
    return in_utf8(stem_of(path))
