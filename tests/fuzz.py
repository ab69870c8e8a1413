"""Damaged copies of small sound files, and what must hold of each: it is refused by name, or read as an independent
program reads it.
"""

from __future__ import annotations

import gzip
import random
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import tifffile
from hostile import HOSTILE, reader_named, values, write_sound
from PIL import Image
from torchvision.io import ImageReadMode, decode_png

from samunet.errors import SamunetError
from samunet.imageio import ImageReader
from samunet.imageio.headers import read_header

NUMBERS = [
    b"nan",
    b"-inf",
    b"inf",
    b"0",
    b"-1",
    b"-4",
    b"1",
    b"2",
    b"5",
    b"100",
    b"65536",
    b"999999999",
    b"1e999",
    b"9" * 400,
    b"1.5",
    b"",
]
WORDS = [
    b"/etc/passwd",
    b"../x",
    b"LIST",
    b"%d",
    b"none",
    b"()",
    b"\0",
    b"\n",
    b"\n\n",
    b" ",
    b"a" * 300,
    b"1 " * 300,
    b"True",
    b"False",
]
BINARY = [
    b"\0\0",
    b"\xff\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\x80\xff",
    b"\0\0\xc0\x7f",
    b"\x01\0",
    b"\x7f\xff",
]
NUMBER = re.compile(rb"-?\d+\.?\d*")


@dataclass(frozen=True)
class Format:
    """A format under test."""

    reader: ImageReader
    file: str
    """Name of the damaged file."""
    sound: tuple[bytes, ...]
    """Contents of sound files, one of which is damaged."""
    head: int
    """Bytes that most damage goes to."""
    oracle: Callable[[Path, np.ndarray], np.ndarray | None]
    """Voxels (C, D, H, W) as another program reads the file, None where it does not; it is given ours for what it needs
    to be told."""
    beside: tuple[tuple[str, bytes], ...] = ()
    """Other files of the same image, whose folder is then what is read."""

    def place(self, folder: Path, content: bytes) -> Path:
        """Write a damaged file; returns what is read."""
        for name, other in self.beside:
            (folder / name).write_bytes(other)
        (folder / self.file).write_bytes(content)
        return folder if self.beside else folder / self.file

    def damaged(self, draw: random.Random) -> bytes:
        content = draw.choice(self.sound)
        packed = self.file.endswith(".gz") and draw.random() < 0.8  # else the compressed stream itself
        content = damage(gzip.decompress(content) if packed else content, draw, self.head)
        return gzip.compress(content, 1) if packed else content


def damage(content: bytes, draw: random.Random, head: int) -> bytes:
    """Change a file in one to three places."""
    for _ in range(draw.randint(1, 3)):
        end = min(len(content), head) if draw.random() < 0.9 else len(content)
        start = draw.randrange(max(1, end))
        stop = start + draw.randint(1, 8)
        found = [match for match in NUMBER.finditer(content[:end]) if match.start() >= start][:1]
        kind = draw.choice(("bit", "number", "word", "binary", "delete", "repeat", "cut", "bytes"))
        if kind == "bit" and start < len(content):
            content = content[:start] + bytes([content[start] ^ 1 << draw.randrange(8)]) + content[start + 1 :]
        elif kind == "number" and found:
            content = content[: found[0].start()] + draw.choice(NUMBERS) + content[found[0].end() :]
        elif kind == "word":
            content = content[:start] + draw.choice(WORDS) + content[start:]
        elif kind == "binary":
            new = draw.choice(BINARY)
            content = content[: start & ~1] + new + content[(start & ~1) + len(new) :]
        elif kind == "delete":
            content = content[:start] + content[stop:]
        elif kind == "repeat":
            content = content[:stop] + content[start:stop] * draw.randint(1, 40) + content[stop:]
        elif kind == "cut" and draw.random() < 0.3:
            content = content[:start]
        else:
            content = content[:start] + draw.randbytes(stop - start) + content[stop:]
    return content


def outcome(format: Format, content: bytes) -> str:
    """Read one damaged file.

    Returns:
        "refused", by name; "contained", where ITK crashed on it or ran without end; "equal", read as another program
        reads it; or "alone", read where the other program does not.

    Raises:
        AssertionError: an error does not name the file, or another program reads other voxels.
    """
    with tempfile.TemporaryDirectory() as text:
        path = format.place(Path(text), content)
        found = None
        for attempt in (lambda: format.reader.peek(path), lambda: format.reader.read_image([path]).array):
            try:
                found = attempt()
            except SamunetError as error:
                assert path.name in str(error), f"the error does not name the file: {error}"
                refusal: str | None = str(error)
            else:
                refusal = None
        if refusal is not None:
            return "contained" if "the process that read it" in refusal or "reading it took" in refusal else "refused"
        assert isinstance(found, np.ndarray) and found.dtype == np.float32 and np.isfinite(found).all()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = format.oracle(path, found)
        if expected is None:
            return "alone"
        np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-6)
        return "equal"


def tally(format: Format, count: int, seed: int) -> Counter[str]:
    """Count the outcomes of damaged files."""
    draw = random.Random(seed)
    return Counter(outcome(format, format.damaged(draw)) for _ in range(count))


def attempted(read: Callable[[Path, np.ndarray], np.ndarray]) -> Callable[[Path, np.ndarray], np.ndarray | None]:
    """Return None where a program refuses a file."""

    def oracle(path: Path, ours: np.ndarray) -> np.ndarray | None:
        try:
            return read(path, ours)
        except Exception:  # whatever a damaged file makes it raise
            return None

    return oracle


def by_nibabel(path: Path, ours: np.ndarray) -> np.ndarray | None:
    """None where samunet follows ITK instead: a slope of nearly nothing is 1."""
    image = nibabel.load(path)
    if abs(image.dataobj.slope) <= np.finfo(float).eps:
        return None
    array = np.asanyarray(image.dataobj).T
    return np.stack([array[name] for name in array.dtype.names]) if array.dtype.names else array


def by_numpy(path: Path, ours: np.ndarray) -> np.ndarray | None:
    """Decode the last bytes of an uncompressed file in the number type and byte order that its header names."""
    header, text = read_header(path), path.read_bytes()
    if header.packed:
        return None
    data = header.data.read_bytes()[-header.num_bytes :]
    size = header.num_bytes // ours.size
    big = path.suffix == ".gipl" or re.search(rb"(MSB *= *True|endian: *big)", text, re.IGNORECASE) is not None
    kind = re.search(rb"(?:ElementType *= *MET_|\ntype: *)([\w ]+)", text)
    code = {b"gipl": "i"}.get(
        path.suffix[1:].encode(), "f" if kind and re.search(rb"float|double", kind[1], re.IGNORECASE) else "i"
    )
    if path.suffix == ".gipl":
        code = {7: "i", 15: "i", 8: "u", 16: "u", 31: "u", 32: "i", 64: "f", 65: "f"}[int.from_bytes(text[8:10], "big")]
    elif kind and re.match(rb"u|unsigned", kind[1], re.IGNORECASE):
        code = "u"
    array = np.frombuffer(data, f"{'>' if big else '<'}{code}{size}")
    components_first = header.components > 1 and re.search(rb"\nkinds: (domain|space)", text, re.IGNORECASE) is None
    return array.reshape(*header.size[::-1], -1).transpose(-1, *range(len(header.size))) if components_first else array


def by_pillow(path: Path, ours: np.ndarray) -> np.ndarray:
    with Image.open(path) as image:
        array = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    return np.moveaxis(array, -1, 0)[: len(ours)] if array.ndim == 3 else array


def by_tifffile(path: Path, ours: np.ndarray) -> np.ndarray | None:
    """Colors that are stored last come first here; None where tifffile takes several images for one, or palettes are
    looked up.
    """
    array = tifffile.imread(path)
    if len(ours) > 1 and array.ndim == 3 and array.shape[-1] in (len(ours), len(ours) + 1):
        array = np.moveaxis(array, -1, 0)[: len(ours)]
    return array if array.size == ours.size else None


def by_torchvision(path: Path, ours: np.ndarray) -> np.ndarray:
    import torch

    content = path.read_bytes()
    mode = ImageReadMode.RGB if len(ours) == 3 else ImageReadMode.UNCHANGED
    array = decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode).numpy()[: len(ours)]
    return array // 255 if content[24:26] == b"\x01\0" else array  # it shows black and white as 0 and 255


def by_pydicom(path: Path, ours: np.ndarray) -> np.ndarray:
    slices = sorted(
        (pydicom.dcmread(file) for file in path.iterdir()), key=lambda data: float(data.ImagePositionPatient[2])
    )
    scaled = [
        data.pixel_array * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
        for data in slices
    ]
    return np.stack(scaled)


def written(ending: str, **options: bool) -> bytes:
    with tempfile.TemporaryDirectory() as text:
        return write_sound(Path(text) / f"x{ending}", **options).read_bytes()


def hostile_copies(ending: str) -> tuple[bytes, ...]:
    """A sound file and, as seeds, the short ones of the hostile."""
    sound = written(ending)
    changed = [change(sound) for change in HOSTILE[ending].values()]
    return (*[sound] * len(changed), *(content for content in changed if len(content) < 5000))


def drawn(save: Callable[[Path], object], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as text:
        save(Path(text) / name)
        return (Path(text) / name).read_bytes()


def dicom_slices() -> list[tuple[str, bytes]]:
    import SimpleITK as sitk

    files = []
    with tempfile.TemporaryDirectory() as text:
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        for index, plane in enumerate(values((3, 5, 6))):
            image = sitk.GetImageFromArray(plane)
            tags = {
                "0020|000e": "1.2.3",
                "0020|000d": "1.2",
                "0008|0018": f"1.2.3.{index + 1}",
                "0020|0037": "1\\0\\0\\0\\1\\0",
            }
            tags["0028|0030"] = "1\\1"
            for key, value in (tags | {"0020|0032": f"0\\0\\{2 * index}"}).items():
                image.SetMetaData(key, value)
            writer.SetFileName(f"{text}/{index}.dcm")
            writer.Execute(image)
            files.append((f"{index}.dcm", Path(text, f"{index}.dcm").read_bytes()))
    return files


def formats() -> dict[str, Format]:
    """Every format, with small sound files of its kinds."""
    medical, pictures, stacks = (reader_named(name) for name in ("SimpleITKIO", "NaturalImage2DIO", "Tiff3DIO"))
    nifti, oracle = hostile_copies(".nii"), attempted(by_numpy)
    grey, color = (np.arange(30 * channels, dtype=np.uint8).reshape(5, 6, channels).squeeze() for channels in (1, 3))
    images = [
        Image.fromarray(grey),
        Image.fromarray(color),
        Image.fromarray(grey).convert("P"),
        Image.fromarray(grey > 9),
    ]
    pngs, bmps = (tuple(drawn(image.save, f"x{ending}") for image in images) for ending in (".png", ".bmp"))
    tiffs = tuple(drawn(lambda path, array=array: tifffile.imwrite(path, array), "x.tif") for array in (grey, color))
    tiffs += (drawn(lambda path: tifffile.imwrite(path, grey, compression="zlib"), "x.tif"),)
    stack = values((3, 5, 6))
    stacked = tuple(
        drawn(lambda path, how=how: tifffile.imwrite(path, stack, photometric="minisblack", compression=how), "x.tif")
        for how in (None, "zlib")
    )
    (name, slice_), *others = dicom_slices()
    return {
        ".nii": Format(medical, "x.nii", nifti, 352, attempted(by_nibabel)),
        ".nii.gz": Format(
            medical, "x.nii.gz", tuple(gzip.compress(content, 1) for content in nifti), 352, attempted(by_nibabel)
        ),
        ".mha": Format(
            medical, "x.mha", (*hostile_copies(".mha"), *[written(".mha", compressed=True)] * 5), 420, oracle
        ),
        ".nrrd": Format(
            medical, "x.nrrd", (*hostile_copies(".nrrd"), *[written(".nrrd", compressed=True)] * 5), 420, oracle
        ),
        ".gipl": Format(medical, "x.gipl", hostile_copies(".gipl"), 256, oracle),
        "DICOM": Format(medical, name, (slice_,), 1100, attempted(by_pydicom), beside=tuple(others)),
        ".png": Format(pictures, "x.png", pngs, 60, attempted(by_torchvision)),
        ".bmp": Format(pictures, "x.bmp", bmps, 60, attempted(by_pillow)),
        ".tif": Format(pictures, "x.tif", tiffs, 300, attempted(by_tifffile)),
        ".tif stack": Format(stacks, "x.tif", stacked, 400, attempted(by_tifffile)),
    }
