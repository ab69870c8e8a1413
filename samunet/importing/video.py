"""Turn videos into volumes, with frames as slices along D, so that slabs are neighboring frames, and back.

Source: MA-SAM treats surgical video that way (Chen et al., Medical Image Analysis 2024). Spacing is 1 on every axis.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from samunet.core.codec import atomic_path
from samunet.core.units import counted
from samunet.errors import DatasetError
from samunet.imageio import reader_for
from samunet.imageio.natural import NaturalImage2DIO
from samunet.importing.dataset import FoundCase, identifier_of

FRAME_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
CHANNELS = ("R", "G", "B")
VOLUME_ENDING = ".nii.gz"


def stack_clips(frames: Path, masks: Path, target: Path) -> list[FoundCase]:
    """Stack every clip's frames into one volume a color, and its masks into a label.

    Args:
        frames: a folder per clip, frames in the order of the numbers in their names; a grey frame gives three equal
            channels.
        masks: a folder per clip that has masks, files named as the frames; grey or palette images whose pixels are
            label values. A clip without masks becomes a test case.
        target: folder for the volumes.

    Raises:
        DatasetError: there is no clip, frames of a clip differ in size, frames and masks do not belong together one to
            one, or a file cannot be read as it is.
    """
    clips = _folders(frames)
    if not clips:
        raise DatasetError(f"{frames} holds no folder of frames; it needs one folder per clip.")
    if strangers := sorted({folder.name for folder in _folders(masks)} - {clip.name for clip in clips}):
        raise DatasetError(
            f"{masks} holds {len(strangers)} folders without a clip in {frames}, first '{strangers[0]}'; rename them."
        )
    return [_stack_clip(clip, masks / clip.name, target) for clip in clips]


def write_frames(predictions: Path, frames: Path, target: Path) -> int:
    """Write predicted volumes as one PNG per frame, named as the frames; returns how many were written.

    Args:
        predictions: <clip>.nii.gz as `samunet_predict` writes them.
        frames: the folder that the clips were stacked from.
        target: gets a folder per clip.

    Raises:
        DatasetError: no prediction belongs to a clip, a prediction has another number of frames than its clip, or a
            file to write exists.
    """
    reader, predicted = reader_for(VOLUME_ENDING), []
    for clip in _folders(frames):
        volume = predictions / f"{identifier_of(clip.name)}{VOLUME_ENDING}"
        if volume.is_file():
            predicted.append((volume, clip, [target / clip.name / f"{name}.png" for name in _frames(clip)]))
    if not predicted:
        raise DatasetError(f"{predictions} holds no <clip>{VOLUME_ENDING} of a clip in {frames}.")
    if existing := next((path for _, _, paths in predicted for path in paths if path.exists()), None):
        raise DatasetError(f"{existing} exists already; give a folder without frames.")
    for volume, clip, paths in predicted:
        label, _ = reader.read_label(volume)
        if len(paths) != len(label):
            raise DatasetError(
                f"{volume} has {len(label)} frames, {clip} has {len(paths)}; give the folder that the volumes were "
                "stacked from."
            )
        for plane, path in zip(label, paths, strict=True):
            with atomic_path(path) as temporary:
                Image.fromarray(plane.astype(np.uint8 if plane.max() < 256 else np.uint16)).save(
                    temporary, format="PNG"
                )
    return sum(len(paths) for _, _, paths in predicted)


def _stack_clip(clip: Path, masks: Path, target: Path) -> FoundCase:
    files, name, reader = _frames(clip), identifier_of(clip.name), NaturalImage2DIO()
    if not files:
        raise DatasetError(f"{clip} holds no frame; frames end in {', '.join(FRAME_ENDINGS)}.")
    pixels = _stacked(list(files.values()), lambda path: reader.load(path)[0][:, 0])  # (T, C, H, W)
    images = []
    for channel in range(len(CHANNELS)):
        images.append(target / f"{name}_{channel:04d}{VOLUME_ENDING}")
        _save(pixels[:, min(channel, pixels.shape[1] - 1)], images[-1])
    if not masks.is_dir():
        return FoundCase(identifier=name, images=tuple(images), label=None)
    mask_of = _frames(masks)
    for folder, other, what in ((masks, clip, "frame"), (clip, masks, "mask")):
        if alone := sorted(set(_frames(folder)) - set(_frames(other))):
            raise DatasetError(
                f"{other} has no {what} for {counted(len(alone), 'file')} of {folder}, first '{alone[0]}'; every "
                "frame of a clip needs a mask."
            )
    labels = _stacked([mask_of[frame] for frame in files], lambda path: reader.read_label(path)[0][0])
    if labels.shape[1:] != pixels.shape[2:]:
        raise DatasetError(
            f"{masks}: masks have shape {labels.shape[1:]}, frames {pixels.shape[2:]}; masks have the frames' size."
        )
    label = target / f"{name}{VOLUME_ENDING}"
    _save(labels, label)
    return FoundCase(identifier=name, images=tuple(images), label=label)


def _stacked(files: Sequence[Path], read: Callable[[Path], np.ndarray]) -> np.ndarray:
    """Read images of one size and stack them along a new first axis."""
    planes = []
    for path in files:
        planes.append(read(path))
        if planes[-1].shape != planes[0].shape:
            raise DatasetError(
                f"{path} has shape {planes[-1].shape}, {files[0]} has {planes[0].shape}; frames of a clip must share "
                "one size."
            )
    return np.stack(planes)


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def _frames(folder: Path) -> dict[str, Path]:
    """Map names without ending to images of a folder; numbers in names count as numbers: frame 10 follows frame 9."""
    by_name: dict[str, Path] = {}
    for path in sorted(
        folder.iterdir(),
        key=lambda path: [part.zfill(20) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)],
    ):
        if path.suffix.lower() in FRAME_ENDINGS and not path.name.startswith("."):
            other = by_name.setdefault(path.stem, path)
            if other != path:
                raise DatasetError(f"{other} and {path.name} would be one frame; rename or remove one of them.")
    return by_name


def _save(volume: np.ndarray, path: Path) -> None:
    """Write (T, H, W) with W, H, T as the file's x, y, z, 1 mm each; values stay as they are."""
    smallest = (
        np.result_type(np.min_scalar_type(volume.min()), np.min_scalar_type(volume.max()))
        if volume.dtype.kind in "iu"
        else volume.dtype
    )
    kind = np.uint8 if volume.dtype == bool else smallest
    nibabel.save(nibabel.Nifti1Image(volume.T.astype(kind), np.diag([-1.0, -1.0, 1.0, 1.0])), path)
