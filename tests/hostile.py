"""Small sound files of every format, and hostile ones made from them: headers that lie, name other files, or hold what
is no number.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from samunet.imageio import READERS, ImageReader

Change = Callable[[bytes], bytes]
SHAPE = (2, 3, 4)  # (D, H, W)


def reader_named(name: str) -> ImageReader:
    return next(reader for reader in READERS if reader.name == name)


def values(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.arange(1, np.prod(shape) + 1, dtype=np.int16).reshape(shape)


def write_sound(path: Path, *, compressed: bool = False) -> Path:
    """Write a small image that every reader takes; its grid is turned and shifted where the format can tell."""
    if path.suffix in (".nii", ".gz"):
        affine = np.diag([2.0, 3.0, 4.0, 1.0])
        affine[:3, 3] = 5, 6, 7
        image = nibabel.Nifti1Image(values().T, affine)
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        nibabel.save(image, path)
        return path
    image = sitk.GetImageFromArray(values())
    image.SetSpacing((2.0, 3.0, 4.0))
    image.SetOrigin((5.0, 6.0, 7.0))
    if path.suffix != ".gipl":
        image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    sitk.WriteImage(image, str(path), useCompression=compressed)
    return path


def swap(old: bytes, new: bytes) -> Change:
    """Replace a text that must be there."""

    def change(content: bytes) -> bytes:
        if old not in content:
            raise ValueError(f"{old!r} is not in the file")
        return content.replace(old, new, 1)

    return change


def put(offset: int, form: str, *numbers: float) -> Change:
    """Overwrite numbers at a place."""
    return lambda content: content[:offset] + struct.pack(form, *numbers) + content[offset + struct.calcsize(form) :]


def line(text: bytes, before: bytes) -> Change:
    return swap(before, text + b"\n" + before)


MHA = {
    "NDims 100": swap(b"NDims = 3", b"NDims = 100"),
    "NDims 1": swap(b"NDims = 3", b"NDims = 1"),
    "NDims negative": swap(b"NDims = 3", b"NDims = -3"),
    "NDims no number": swap(b"NDims = 3", b"NDims = three"),
    "NDims missing": swap(b"NDims = 3\n", b""),
    "NDims twice": line(b"NDims = 3", b"DimSize"),
    "size negative": swap(b"DimSize = 4 3 2", b"DimSize = -4 3 2"),
    "size 0": swap(b"DimSize = 4 3 2", b"DimSize = 4 0 2"),
    "size huge": swap(b"DimSize = 4 3 2", b"DimSize = 999999999 999999999 999999999"),
    "size beyond the data": swap(b"DimSize = 4 3 2", b"DimSize = 1000000 1000 1000"),
    "size smaller than the data": swap(b"DimSize = 4 3 2", b"DimSize = 4 3 1"),
    "too few sizes": swap(b"DimSize = 4 3 2", b"DimSize = 4 3"),
    "too many sizes": swap(b"DimSize = 4 3 2", b"DimSize = 4 3 2" + b" 1" * 300),
    "spacing NaN": swap(b"ElementSpacing = 2 3 4", b"ElementSpacing = nan 3 4"),
    "spacing 0": swap(b"ElementSpacing = 2 3 4", b"ElementSpacing = 0 3 4"),
    "origin NaN": swap(b"Offset = 5 6 7", b"Offset = nan 6 7"),
    "origin infinite": swap(b"Offset = 5 6 7", b"Offset = 1e999 6 7"),
    "matrix of two words": swap(b"TransformMatrix = 0 1 0", b"TransformMatrix = 0 1"),
    "data in /etc/passwd": swap(b"ElementDataFile = LOCAL", b"ElementDataFile = /etc/passwd"),
    "data in another folder": swap(b"ElementDataFile = LOCAL", b"ElementDataFile = ../other.raw"),
    "data in a list": swap(b"ElementDataFile = LOCAL", b"ElementDataFile = LIST"),
    "data in a series": swap(b"ElementDataFile = LOCAL", b"ElementDataFile = other%d.raw 1 2 1"),
    "data in a file of an endless name": swap(b"ElementDataFile = LOCAL", b"ElementDataFile = " + b"a" * 300),
    "data in no file": swap(b"ElementDataFile = LOCAL", b"ElementDataFile = absent.raw"),
    "data nowhere": swap(b"ElementDataFile = LOCAL\n", b""),
    "line of 100,000 letters": line(b"Comment = " + b"a" * 100_000, b"ElementType"),
    "key of 300 letters": line(b"a" * 300 + b" = 1", b"ElementType"),
    "10,000 lines": line(b"\n".join(b"Key%d = 1" % index for index in range(10_000)), b"ElementType"),
    "control characters": line(b"Comment = a\x00b", b"ElementType"),
    "a billion channels": line(b"ElementNumberOfChannels = 1000000000", b"ElementType"),
    "no channel": line(b"ElementNumberOfChannels = 0", b"ElementType"),
    "unknown type": swap(b"MET_SHORT", b"MET_WORD"),
    "data as text": swap(b"BinaryData = True", b"BinaryData = False"),
    "data far behind": line(b"HeaderSize = 1000000", b"ElementType"),
    "compressed, but for the name": swap(b"CompressedData = False", b"CompressedData = True"),
    "end missing": lambda content: content[:-3],
}
NRRD = {
    "300 kinds": swap(b"kinds: domain", b"kinds: " + b"domain " * 298 + b"domain"),
    "dimension 100": swap(b"dimension: 3", b"dimension: 100"),
    "dimension 0": swap(b"dimension: 3", b"dimension: 0"),
    "dimension negative": swap(b"dimension: 3", b"dimension: -3"),
    "dimension twice": line(b"dimension: 3", b"sizes"),
    "size negative": swap(b"sizes: 4 3 2", b"sizes: 4 -3 2"),
    "size 0": swap(b"sizes: 4 3 2", b"sizes: 0 3 2"),
    "size huge": swap(b"sizes: 4 3 2", b"sizes: 999999999 999999999 999999999"),
    "size beyond the data": swap(b"sizes: 4 3 2", b"sizes: 1000000 1000 1000"),
    "too few sizes": swap(b"sizes: 4 3 2", b"sizes: 4 3"),
    "300 sizes": swap(b"sizes: 4 3 2", b"sizes: 4 3 2" + b" 1" * 297),
    "direction NaN": swap(b"(0,2,0)", b"(0,nan,0)"),
    "direction of nothing": swap(b"(0,2,0)", b"(0,0,0)"),
    "direction of two numbers": swap(b"(0,2,0)", b"(0,2)"),
    "direction missing": swap(b"(0,2,0)", b"none"),
    "origin NaN": swap(b"origin: (5,6,7)", b"origin: (nan,6,7)"),
    "origin infinite": swap(b"origin: (5,6,7)", b"origin: (inf,6,7)"),
    "unknown space": swap(b"left-posterior-superior", b"nowhere"),
    "two axes of components": swap(b"kinds: domain domain", b"kinds: vector vector"),
    "data in /etc/passwd": line(b"data file: /etc/passwd", b"encoding"),
    "data in another folder": line(b"data file: ../other.raw", b"encoding"),
    "data in a list": line(b"data file: LIST", b"encoding"),
    "data in a series": line(b"data file: other%d.raw 1 2 1", b"encoding"),
    "unknown type": swap(b"type: short", b"type: block"),
    "data as text": swap(b"encoding: raw", b"encoding: ascii"),
    "lines skipped": line(b"line skip: 1000000", b"encoding"),
    "line of 100,000 letters": line(b"content: " + b"a" * 100_000, b"encoding"),
    "100,000 labels": line(b"labels: " + b'"" ' * 300, b"encoding"),
    "10,000 lines": line(b"\n".join(b"key%d:=1" % index for index in range(10_000)), b"encoding"),
    "end of the header missing": lambda content: content.split(b"\n\n")[0] + b"\n",
    "end missing": lambda content: content[:-3],
}
GIPL = {
    "size 0": put(0, ">H", 0),
    "sizes of 65,535": put(0, ">4H", 65535, 65535, 65535, 65535),
    "size smaller than the data": put(0, ">H", 1),
    "unknown type": put(8, ">H", 999),
    "spacing NaN": put(10, ">f", np.nan),
    "spacing 0": put(10, ">f", 0),
    "origin NaN": put(204, ">d", np.nan),
    "origin infinite": put(204, ">d", np.inf),
    "no magic number": put(252, ">I", 1),
    "half a header": lambda content: content[:128],
    "end missing": lambda content: content[:-3],
}
NII = {
    "one axis": put(40, "<8h", 1, 4, 0, 0, 0, 0, 0, 0),
    "no axis": put(40, "<h", 0),
    "100 axes": put(40, "<h", 100),
    "size negative": put(42, "<h", -4),
    "size 0": put(42, "<h", 0),
    "size huge": put(42, "<3h", 32767, 32767, 32767),
    "sform -inf": put(280, "<f", -np.inf),
    "sform NaN": put(292, "<f", np.nan),
    "qform NaN": put(256, "<f", np.nan),
    "qform origin infinite": put(268, "<f", np.inf),
    "spacing NaN": put(80, "<f", np.nan),
    "spacing 0": put(80, "<f", 0),
    "unknown type": put(70, "<h", 999),
    "data in the header": put(108, "<f", 0),
    "data before the file": put(108, "<f", -1e30),
    "data nowhere": put(108, "<f", np.nan),
    "data far behind": put(108, "<f", 1e9),
    "data in another file": put(344, "<4s", b"ni1\0"),
    "half a header": lambda content: content[:128],
    "end missing": lambda content: content[:-3],
}
HOSTILE: dict[str, dict[str, Change]] = {".mha": MHA, ".nrrd": NRRD, ".gipl": GIPL, ".nii": NII}
"""By ending, what is wrong with the file, and how it is made of a sound one."""
