"""Refuse damaged files before a library reads them as if they were whole.

SimpleITK 2.5.7 returns zeros for the missing part of a truncated GIPL file and does not look at the checksum of a
compressed stream. Headers are read by `samunet.imageio.headers`, and here the file to its end. NIfTI is checked while
it is read, see `samunet.imageio.nifti`.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from samunet.errors import ImageFileError
from samunet.imageio.headers import Header, read_header

CHUNK = 1 << 20
NIFTI_BYTES = (348, 540)  # lengths of NIfTI-1's and NIfTI-2's header
GZIP_MAGIC = b"\x1f\x8b"
FAULTS = ((EOFError, "truncated"), (zlib.error, "corrupted"), (gzip.BadGzipFile, "checksum"))
DEFLATE_RATIO = 1032  # no stream unpacks to more times its length


def check_file(path: Path) -> Header:
    """Read a file's header and compare the voxels' length, unpacked to their checksum, with what it promises.

    Covers MetaImage, NRRD and GIPL.

    Returns:
        The header.

    Raises:
        ImageFileError: the file is absent, truncated, longer than it says, or fails its checksum; or as `read_header`.
    """
    refuse_absent(path)
    header = read_header(path)
    with naming_damage(header.data), header.data.open("rb") as file:
        there = header.data.stat().st_size - max(header.offset, 0)
        if header.packed:
            _compare_length(header, there * DEFLATE_RATIO, exact=False)
            file.seek(header.offset)
            there = _unpacked_length(file, header)
        _compare_length(header, there, exact=header.offset >= 0)
    return header


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
        raise ImageFileError(
            f"{path} has a header that cannot be read ({error!r}); export it again.", "header"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        if path.name.lower().endswith(".gz"):
            _check_begins_as_gzip(path)
        code = next(code for kind, code in FAULTS if isinstance(error, kind))
        what = f"its compressed data end early or fail their checksum ({error})"
        raise ImageFileError(f"{path} is damaged, {what}; copy or export it again.", code) from None


def _unpacked_length(file: BinaryIO, header: Header) -> int:
    """Read a compressed stream to its end, or to where it goes beyond what the header promises."""
    length = 0
    if header.packed == "gzip":
        with gzip.GzipFile(fileobj=file) as packed:
            while length <= header.num_bytes and (chunk := packed.read(CHUNK)):
                length += len(chunk)
        return length
    stream = zlib.decompressobj()
    while length <= header.num_bytes and (chunk := file.read(CHUNK)):
        while chunk:
            length += len(stream.decompress(chunk, CHUNK))
            chunk = stream.unconsumed_tail
    length += len(stream.flush())
    if length <= header.num_bytes and not stream.eof:
        raise EOFError("the stream has no end")
    return length


def _compare_length(header: Header, there: int, *, exact: bool) -> None:
    promised = f"{header.num_bytes} bytes of data"
    if there < header.num_bytes:
        message = (
            f"{header.data} is truncated: its header promises {promised}, {there} are there; copy or export it again."
        )
        raise ImageFileError(message, "truncated")
    if exact and there > header.num_bytes:
        message = f"{header.data} is longer than its header says, which promises {promised}; export it again."
        raise ImageFileError(message, "header")


def _check_begins_as_gzip(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == GZIP_MAGIC:
        return
    if len(head) == 4 and any(struct.unpack(order + "i", head)[0] in NIFTI_BYTES for order in "<>"):
        raise ImageFileError(
            f"{path} is not compressed, although its name says so; compress it with gzip.", "not-gzip"
        ) from None
    message = (
        f"{path} is no gzip file, it begins with {head!r}; it may be a placeholder or another format under this name; "
        "copy it again."
    )
    raise ImageFileError(message, "header") from None
