"""Videos as volumes: frames become slices along D, so that slabs are runs of neighboring frames, and predictions become frames again.

Source: MA-SAM treats surgical video that way (Chen et al., Medical Image Analysis 2024). Spacing is 1 on every axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from samunet.core.codec import atomic_path
from samunet.errors import DatasetError, ImageFileError
from samunet.imageio import reader_for
from samunet.importing.dataset import FoundCase, identifier_of

FRAME_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
CHANNELS = ("R", "G", "B")
VOLUME_ENDING = ".nii.gz"
READ_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def stack_clips(frames: Path, masks: Path, target: Path) -> list[FoundCase]:
    """Stack every clip's frames into one volume a color, and its masks into a label.

    Args:
        frames: a folder a clip, frames in the order of their names.
        masks: a folder a clip that has masks, files named as the frames; grey or palette images whose pixels are label values. A clip
            without masks becomes a test case.
        target: folder for the volumes.

    Raises:
        DatasetError: there is no clip, frames of a clip differ in size, or a clip has masks for some frames only.
    """
    clips = sorted(folder for folder in frames.iterdir() if folder.is_dir()) if frames.is_dir() else []
    if not clips:
        raise DatasetError(f"{frames} holds no folder of frames; it needs one folder a clip.")
    return [_stack_clip(clip, masks / clip.name, target) for clip in clips]


def write_frames(predictions: Path, frames: Path, target: Path) -> int:
    """Write predicted volumes as one PNG a frame, named as the frames; returns how many were written.

    Args:
        predictions: <clip>.nii.gz as `samunet_predict` writes them.
        frames: the folder that the clips were stacked from.
        target: gets a folder a clip.

    Raises:
        DatasetError: no prediction belongs to a clip, or a prediction has another number of frames than its clip.
    """
    clips = {identifier_of(folder.name): folder for folder in sorted(frames.iterdir()) if folder.is_dir()} if frames.is_dir() else {}
    reader, written = reader_for(VOLUME_ENDING), 0
    for path in sorted(predictions.glob(f"*{VOLUME_ENDING}")):
        clip = clips.get(path.name.removesuffix(VOLUME_ENDING))
        if clip is None:
            continue
        label, _ = reader.read_label(path)
        names = _frame_files(clip)
        if len(names) != len(label):
            raise DatasetError(f"{path} has {len(label)} frames, {clip} has {len(names)}; give the folder that the volumes were stacked from.")
        for plane, frame in zip(label, names, strict=True):
            with atomic_path(target / clip.name / f"{frame.stem}.png") as temporary:
                Image.fromarray(plane.astype(np.uint8 if plane.max() < 256 else np.uint16)).save(temporary, format="PNG")
            written += 1
    if not written:
        raise DatasetError(f"{predictions} holds no <clip>{VOLUME_ENDING} of a clip in {frames}.")
    return written


def _stack_clip(clip: Path, masks: Path, target: Path) -> FoundCase:
    files, name = _frame_files(clip), identifier_of(clip.name)
    if not files:
        raise DatasetError(f"{clip} holds no frame; frames end in {', '.join(FRAME_ENDINGS)}.")
    pixels = _stacked(files, "RGB")
    images = []
    for channel in range(len(CHANNELS)):
        images.append(target / f"{name}_{channel:04d}{VOLUME_ENDING}")
        _save(pixels[..., channel], images[-1])
    if not masks.is_dir():
        return FoundCase(identifier=name, images=tuple(images), label=None, training=False)
    found = {path.stem: path for path in _frame_files(masks)}
    lacking = [path.stem for path in files if path.stem not in found]
    if lacking:
        raise DatasetError(f"{masks} has no mask for {len(lacking)} of {len(files)} frames, first '{lacking[0]}'; every frame of a clip needs one.")
    labels = _stacked([found[path.stem] for path in files], None)
    if labels.ndim != 3 or labels.shape != pixels.shape[:3]:
        raise DatasetError(f"{masks}: masks have shape {labels.shape[1:]}, frames {pixels.shape[1:3]}; masks are grey images of the frames' size.")
    label = target / f"{name}{VOLUME_ENDING}"
    _save(labels, label)
    return FoundCase(identifier=name, images=tuple(images), label=label)


def _stacked(files: Sequence[Path], mode: str | None) -> np.ndarray:
    """Read images of one size as (T, H, W[, C]); `mode` None takes the stored values, of a palette its indices."""
    planes = []
    for path in files:
        try:
            with Image.open(path) as image:
                planes.append(np.asarray(image if mode is None else image.convert(mode)))
        except READ_ERRORS as error:
            raise ImageFileError(f"{path} cannot be read: {error}. Copy or export it again.") from None
        if planes[-1].shape != planes[0].shape:
            raise DatasetError(f"{path} has shape {planes[-1].shape}, {files[0]} has {planes[0].shape}; frames of a clip must share one size.")
    return np.stack(planes)


def _frame_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in FRAME_ENDINGS and not path.name.startswith("."))


def _save(volume: np.ndarray, path: Path) -> None:
    """Write (T, H, W) with W, H, T as the file's x, y, z, 1 mm each."""
    kind = np.uint8 if volume.dtype in (np.uint8, bool) else np.int16
    nibabel.save(nibabel.Nifti1Image(volume.T.astype(kind), np.diag([-1.0, -1.0, 1.0, 1.0])), path)
