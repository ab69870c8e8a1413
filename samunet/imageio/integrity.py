"""Refuse damaged files before a library reads them as if they were whole.

SimpleITK 2.5.7 returns zeros for the missing part of a truncated GIPL file and does not look at the checksum of a compressed
stream. Each check here reads the header itself and then the file to its end. NIfTI is checked while it is read, see
`samunet.imageio.nifti`.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samunet.errors import ImageFileError

CHUNK = 1 << 20
NIFTI_BYTES = (348, 540)  # lengths of NIfTI-1's and NIfTI-2's header
MHA_BYTES = {
    f"MET_{name}".encode(): size
    for size, names in {1: ("CHAR", "UCHAR"), 2: ("SHORT", "USHORT"), 4: ("INT", "UINT", "FLOAT"), 8: ("DOUBLE",)}.items()
    for name in names
}
NRRD_BYTES = {
    name.encode(): size
    for size, names in {
        1: ("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"),
        2: ("short", "short int", "signed short", "int16", "int16_t", "ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
        4: ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"),
        8: ("double", "longlong", "long long", "int64", "int64_t", "ulonglong", "unsigned long long", "uint64", "uint64_t"),
    }.items()
    for name in names
}
"""Bytes a voxel by the type names of MetaImage and NRRD headers."""
GZIP_MAGIC = b"\x1f\x8b"
GIPL_HEADER = 256  # bytes
GIPL_BYTES = {7: 1, 8: 1, 15: 2, 16: 2, 31: 4, 32: 4, 64: 4, 65: 8}  # bytes a voxel by GIPL's image type


def check_file(path: Path) -> None:
    """Read a file's header and compressed stream and compare its length with what the header promises.

    Covers MetaImage, NRRD and GIPL.

    Raises:
        ImageFileError: the file is absent, truncated, or fails its checksum.
    """
    refuse_absent(path)
    check = {".mha": _check_mha, ".nrrd": _check_nrrd, ".gipl": _check_gipl}.get(path.suffix.lower())
    if check is not None:
        with naming_damage(path):
            check(path)


def refuse_absent(path: Path) -> None:
    """Raise ImageFileError unless there is a file."""
    if not path.is_file():
        raise ImageFileError(f"Image file {path} does not exist.", "missing-file")


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turn what headers and compressed streams raise into an ImageFileError that names the file."""
    try:
        yield
    except (KeyError, ValueError) as error:
        raise ImageFileError(f"{path} has a header that cannot be read ({error!r}); export it again.", "header") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        if path.name.lower().endswith(".gz"):
            _check_begins_as_gzip(path)
        code = "truncated" if isinstance(error, EOFError) else "corrupted" if isinstance(error, zlib.error) else "checksum"
        message = f"{path} is damaged, its compressed data end early or fail their checksum ({error}); copy or export it again."
        raise ImageFileError(message, code) from None


def _check_mha(path: Path) -> None:
    with path.open("rb") as file:
        header: dict[bytes, bytes] = {}
        for _ in range(1000):  # a MetaImage header has some 20 lines and ends with ElementDataFile
            key, _, value = file.readline(65536).partition(b"=")
            header[key.strip()] = value.strip()
            if key.strip() == b"ElementDataFile":
                break
        if header.get(b"CompressedData", b"").lower() != b"true" or header.get(b"ElementDataFile") != b"LOCAL":
            return
        stream, length = zlib.decompressobj(), 0
        while chunk := file.read(CHUNK):
            while chunk:
                length += len(stream.decompress(chunk, CHUNK))
                chunk = stream.unconsumed_tail
        length += len(stream.flush())
        if not stream.eof:
            raise EOFError("the stream has no end")
    size = MHA_BYTES.get(header.get(b"ElementType", b""))
    if size is not None:
        channels = int(header.get(b"ElementNumberOfChannels", b"1"))
        _compare_length(path, length, math.prod(map(int, header[b"DimSize"].split())) * channels * size)


def _check_nrrd(path: Path) -> None:
    """Read the compressed stream of an NRRD file to its checksum; uncompressed data ITK compares with the header itself."""
    with path.open("rb") as file:
        fields: dict[bytes, bytes] = {}
        while (line := file.readline(65536)).strip():
            key, _, value = line.partition(b":")
            fields[key.strip().lower()] = value.strip()
        if fields.get(b"encoding", b"").lower() not in (b"gzip", b"gz") or b"data file" in fields or b"datafile" in fields:
            return
        with gzip.GzipFile(fileobj=file) as stream:
            length = 0
            while chunk := stream.read(CHUNK):
                length += len(chunk)
    size = NRRD_BYTES.get(fields.get(b"type", b"").lower())
    if size is not None:
        _compare_length(path, length, math.prod(map(int, fields[b"sizes"].split())) * size)


def _compare_length(path: Path, there: int, needed: int) -> None:
    if there < needed:
        raise ImageFileError(
            f"{path} is truncated: its header promises {needed} bytes of data, {there} are there; copy or export it again.", "truncated"
        )


def _check_gipl(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(GIPL_HEADER)
    if len(head) < GIPL_HEADER:
        raise ImageFileError(f"{path} is truncated: a GIPL header has {GIPL_HEADER} bytes, {len(head)} are there; copy it again.", "truncated")
    *lengths, kind = struct.unpack(">5H", head[:10])
    needed = GIPL_HEADER + math.prod(max(n, 1) for n in lengths) * GIPL_BYTES.get(kind, 0)
    if path.stat().st_size < needed:
        there = path.stat().st_size
        raise ImageFileError(f"{path} is truncated: its header promises {needed} bytes, {there} are there; copy or export it again.", "truncated")


def _check_begins_as_gzip(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == GZIP_MAGIC:
        return
    if len(head) == 4 and any(struct.unpack(order + "i", head)[0] in NIFTI_BYTES for order in "<>"):
        raise ImageFileError(f"{path} is not compressed, although its name says so; compress it with gzip.", "not-gzip") from None
    message = f"{path} is no gzip file, it begins with {head!r}; it may be a placeholder or another format under this name; copy it again."
    raise ImageFileError(message, "header") from None
