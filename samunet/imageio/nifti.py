"""Read a NIfTI file in one pass, its stream to the end, so that no damage passes; write one by a given header.

SimpleITK 2.5.7 returns zeros for the missing part of a truncated file, turns NaN and infinity into 0, and like nibabel
5.4.2 does not look at the checksum of a compressed stream; it also reads and decompresses a file more than once.
"""

from __future__ import annotations

import gzip
import math
import struct
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from samunet.core.codec import atomic_path
from samunet.errors import ImageFileError
from samunet.imageio.integrity import CHUNK, DEFLATE_RATIO, NIFTI_BYTES, naming_damage, refuse_absent
from samunet.imageio.reader import count_not_finite, refuse_not_finite

EXTENSION_FLAG = 4  # bytes between header and data
MAX_OFFSET = 1 << 31  # bytes; real files begin at 352, or later by the length of their header extensions
SCALED_AT_A_TIME = 1 << 17  # bytes that, as float64, stay within a core's own memory
UNSCALED = (1.0, 0.0)  # slope and intercept
SFORM = ("srow_x", "srow_y", "srow_z")
QFORM = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
# gzip's level; 6 makes segmentations a fifth smaller and takes a tenth longer, 1 makes them twice as large.
COMPRESSION = 4
HEADERS: dict[int, Any] = dict(zip(NIFTI_BYTES, (nibabel.Nifti1Header, nibabel.Nifti2Header), strict=True))


def is_nifti(path: Path) -> bool:
    """Tell by the name whether a file is NIfTI."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_nifti(path: Path) -> tuple[nibabel.Nifti1Header, np.ndarray]:
    """Read a plain or compressed NIfTI file to its end; raises ImageFileError where the file is absent, truncated or
    damaged, holds values that are not finite, or is of an unknown form.

    Returns:
        The header, and the voxels with the header's scaling applied, axes in reverse: (..., z, y, x).
    """
    refuse_absent(path)
    compressed = path.name.lower().endswith(".gz")
    with naming_damage(path), gzip.open(path, "rb") if compressed else path.open("rb") as file:
        header = _header(file.read(max(HEADERS)), path)
        offset, lengths, kind = _layout(header, path)
        size = math.prod(lengths) * kind.itemsize
        _refuse_impossible(path, offset + size)
        file.seek(offset)
        scaling = UNSCALED if kind.names else _scaling(header)
        array = np.empty(math.prod(lengths), _scaled_kind(kind, scaling))
        step, not_finite = SCALED_AT_A_TIME // kind.itemsize if scaling != UNSCALED else CHUNK // kind.itemsize, 0
        for first in range(0, len(array), step):  # the stored and the scaled numbers are never both in memory
            part = array[first : first + step]
            payload = file.read(len(part) * kind.itemsize)
            if len(payload) < len(part) * kind.itemsize:
                raise _truncated(path, offset + size, str(offset + first * kind.itemsize + len(payload)))
            stored = np.frombuffer(payload, kind)
            not_finite += count_not_finite(stored) if kind.kind == "f" else 0
            np.copyto(part, stored if scaling == UNSCALED else stored * scaling[0] + scaling[1], casting="same_kind")
        while compressed and file.read(CHUNK):  # the checksum stands at the end
            pass
    refuse_not_finite(not_finite, path)
    return header, array.reshape(lengths[::-1])


def _refuse_impossible(path: Path, promised: int) -> None:
    """Refuse a file that cannot hold the bytes that its header promises, before anything is allocated for them."""
    there, compressed = path.stat().st_size, path.name.lower().endswith(".gz")
    if promised > there * (DEFLATE_RATIO if compressed else 1):
        raise _truncated(path, promised, f"{there} compressed ones" if compressed else str(there))


def _truncated(path: Path, promised: int, there: str) -> ImageFileError:
    message = f"{path} is truncated: its header promises {promised} bytes, {there} are there; copy it again."
    return ImageFileError(message, "truncated")


def read_header(path: Path) -> nibabel.Nifti1Header:
    """Read the header of a NIfTI file as it stands, compressed or not, of either version; only affines are checked.
    Raises ImageFileError where the file is absent or does not begin with such a header.
    """
    refuse_absent(path)
    with naming_damage(path), gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
        return _header(file.read(max(HEADERS)), path)


def array_form(header: nibabel.Nifti1Header, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape (..., z, y, x) and number type of what `read_nifti` returns; raises ImageFileError."""
    offset, lengths, kind = _layout(header, path)
    _refuse_impossible(path, offset + math.prod(lengths) * kind.itemsize)
    return lengths[::-1], kind if kind.names else _scaled_kind(kind, _scaling(header))


def write_nifti(path: Path, header: nibabel.Nifti1Header, array: np.ndarray) -> None:
    """Write (z, y, x) or (y, x) integers under a header, all but its shape and number type kept; atomically."""
    header = header.as_byteswapped("<")
    lengths = array.shape[::-1]
    header["dim"] = [len(lengths), *lengths, *[1] * (7 - len(lengths))]
    header["pixdim"][4:] = 0  # a slice keeps its thickness
    header.set_data_dtype(array.dtype)
    header["vox_offset"] = header.sizeof_hdr + EXTENSION_FLAG
    header["magic"] = header.single_magic
    header["scl_slope"], header["scl_inter"], header["cal_max"], header["cal_min"] = 1, 0, 0, 0
    for name in ("intent_code", "intent_p1", "intent_p2", "intent_p3"):
        header[name] = 0
    header["intent_name"] = b""
    with atomic_path(path) as temporary, temporary.open("wb") as raw:
        compressed = path.name.lower().endswith(".gz")
        # No name and no time in the stream, so that equal segmentations give equal files.
        with gzip.GzipFile("", "wb", COMPRESSION, raw, mtime=0) if compressed else nullcontext(raw) as file:
            file.write(header.binaryblock + bytes(EXTENSION_FLAG))
            file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)


def _scaling(header: nibabel.Nifti1Header) -> tuple[float, float]:
    """Return slope and intercept as ITK takes them: a slope of 0 is 1, the intercept stays; what is no number is 0."""
    slope, intercept = (
        value if math.isfinite(value) else 0.0 for value in (float(header["scl_slope"]), float(header["scl_inter"]))
    )
    return slope if abs(slope) > np.finfo(float).eps else 1.0, intercept


def _scaled_kind(kind: np.dtype, scaling: tuple[float, float]) -> np.dtype:
    """Return the number type of scaled voxels: float32 where the stored numbers have no more digits, else float64."""
    if scaling == UNSCALED:
        return kind
    return np.dtype(np.float32 if kind.itemsize <= 2 or (kind.kind, kind.itemsize) == ("f", 4) else np.float64)


def _header(head: bytes, path: Path) -> nibabel.Nifti1Header:
    sizes = {struct.unpack(order + "i", head[:4])[0] for order in "<>"} if len(head) >= 4 else set()
    size = next(iter(sizes & set(HEADERS)), 0)
    if not 0 < size <= len(head):
        raise ImageFileError(
            f"{path} does not begin with a NIfTI header; it may be another format under this name; export it again.",
            "header",
        )
    header = HEADERS[size](head[:size], check=False)
    if header["magic"].item() not in (b"n+1", b"n+2"):
        raise ImageFileError(
            f"{path} is a NIfTI header whose data lie in another file; save header and data as one .nii.gz file.",
            "header",
        )
    for name in (*(SFORM if header["sform_code"] > 0 else ()), *(QFORM if header["qform_code"] > 0 else ())):
        if not np.isfinite(header[name]).all():  # ITK would look for axes without end
            raise ImageFileError(f"{path} has a {name} that is not a number; correct its header.", "header")
    return header


def _layout(header: nibabel.Nifti1Header, path: Path) -> tuple[int, tuple[int, ...], np.dtype]:
    """Return where a file's data begin, the lengths of its axes, and its number type."""
    axes = int(header["dim"][0])
    lengths = tuple(int(n) for n in header["dim"][1 : 1 + max(axes, 0)])
    if not 2 <= axes <= 7 or min(lengths) < 1:
        raise ImageFileError(
            f"{path} has {axes} axes of lengths {list(lengths)}, expected 2 to 7 axes of at least 1; export it again.",
            "header",
        )
    offset = float(header["vox_offset"])
    if not header.sizeof_hdr <= offset <= MAX_OFFSET:  # ITK and nibabel differ in what they read then
        raise ImageFileError(
            f"{path} does not say where its data begin (vox_offset is {offset}); export it again.", "header"
        )
    try:
        kind = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise ImageFileError(f"{path} has an unknown data type ({error}); export it again.", "header") from None
    if kind.itemsize == 0:
        raise ImageFileError(
            f"{path} has a data type that cannot be read (code {int(header['datatype'])}); export it again.", "header"
        )
    if kind.kind == "c":
        raise ImageFileError(
            f"{path} holds complex numbers, expected real ones; save magnitude and phase as two channels.",
            "number-type",
        )
    return int(offset), lengths, kind
