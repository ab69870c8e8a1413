"""Read the headers of MetaImage, NRRD and GIPL files strictly, before ITK sees them.

ITK's parsers trust what a header says of itself: with SimpleITK 2.5.7, 300 words in an NRRD's `kinds` overrun the
stack, `NDims = 100` of a MetaImage corrupts the heap, an origin of NaN becomes 0, and the voxels may lie in any file of
the machine. What passes here has 2 to 4 axes of bounded length, as many words as axes, finite numbers, and its voxels
in the file itself or in one beside it.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from samunet.errors import ImageFileError

DIMENSIONS = (2, 4)  # of space and time
MAX_LENGTH = 1 << 20  # voxels on one axis
MAX_BYTES = 1 << 42  # of all voxels
MAX_LINES = 5000  # Slicer's sequences and diffusion images have one or two lines per image
MAX_LINE = 4096  # bytes of a line that ITK keeps as text
MAX_FIELD = 1024  # bytes of a line that ITK takes apart; real ones have some 300
MAX_WORD = 64  # bytes of a number
MAX_NAME = 200  # letters of a file's name; systems take 255 bytes
GIPL_HEADER = 256  # bytes
GIPL_MAGIC = (719555000, 4026526128)
GIPL_BYTES = {7: 1, 8: 1, 15: 2, 16: 2, 31: 4, 32: 4, 64: 4, 65: 8}  # bytes per voxel by GIPL's image type
MHA_BYTES = {
    f"MET_{name}": size
    for size, names in {
        1: ("CHAR", "UCHAR"),
        2: ("SHORT", "USHORT"),
        4: ("INT", "UINT", "LONG", "ULONG", "FLOAT"),
        8: ("LONG_LONG", "ULONG_LONG", "DOUBLE"),
    }.items()
    for name in names
}
NRRD_BYTES = {
    name: size
    for size, names in {
        1: ("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"),
        2: ("short", "short int", "signed short", "signed short int", "int16", "int16_t")
        + ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
        4: ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"),
        8: ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t")
        + ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t", "double"),
    }.items()
    for name in names
}
"""Bytes per number by the type names of MetaImage and NRRD headers."""

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
MHA_LINE = re.compile(r"([A-Za-z_0-9][\w.\[\]|-]{0,79}) *= *(.*)")  # ITK keeps dim[0] of NIfTI and 0008|0060 of DICOM
MHA_SPACING = ("ElementSpacing", "ElementSize")
MHA_VECTORS = ("DimSize", *MHA_SPACING, "Offset", "Origin", "Position", "CenterOfRotation")  # one number per axis
MHA_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
MHA_NUMBERS = (
    *("NDims", "ElementNumberOfChannels", "HeaderSize", "CompressedDataSize", "CompressionLevel", "ElementMin"),
    *("ElementMax", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "ID", "ParentID"),
)
MHA_FLAGS = ("BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData")
NRRD_MAGIC = re.compile(r"NRRD000[1-5]")
NRRD_LINE = re.compile(r"([A-Za-z][A-Za-z ]*): (.*)")
NRRD_VECTORS = re.compile(r"\s*(none|\([^()]*\))")
NRRD_QUOTED = re.compile(r'\s*"[^"\\]*"')
NRRD_SYNONYMS = {
    name.replace(" ", ""): name for name in ("data file", "line skip", "byte skip", "axis mins", "axis maxs")
}
NRRD_SYNONYMS |= {"centerings": "centers"}
NRRD_PER_AXIS = ("spacings", "thicknesses", "axis mins", "axis maxs")
NRRD_SPACES = {"3D-right-handed": 3, "3D-left-handed": 3, "scanner-xyz": 3, "RAS": 3, "LAS": 3, "LPS": 3}
NRRD_SPACES |= {f"{side}-{front}-superior": 3 for side in ("left", "right") for front in ("anterior", "posterior")}
NRRD_SPACES |= {f"{name}{'T' if len(name) == 3 else '-time'}": 4 for name in NRRD_SPACES}
# Kinds of axes that are axes of the grid; any other holds a voxel's components.
NRRD_DOMAIN = ("domain", "space", "time", "???")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a header says of its voxels."""

    size: tuple[int, ...]
    """Voxels on each axis of the grid, x first; two to four."""
    spacing: tuple[float, ...]
    """Distance of voxels on each axis, in mm, positive."""
    components: int
    """Numbers per voxel."""
    num_bytes: int
    """Bytes of all voxels, unpacked."""
    packed: str
    """"zlib", "gzip", or an empty string for voxels as they are."""
    data: Path
    """The file with the voxels: the one with the header, or one beside it."""
    offset: int
    """Byte at which the voxels begin in it; -1: they are the last `num_bytes` of the file."""


def read_header(path: Path) -> Header:
    """Read and check the header of a .mha, .mhd, .nrrd, .nhdr or .gipl file.

    Raises:
        ImageFileError: the ending is none of these, or the header breaks a rule of its format or a limit above; the
            message says which.
    """
    read = FORMATS.get(path.suffix.lower())
    if read is None:
        readable = f".nii, .nii.gz, {', '.join(FORMATS)} or a folder with a DICOM series"
        raise ImageFileError(
            f"{path} has an ending that cannot be read, expected {readable}; convert it to .nii.gz.", "pixel-form"
        )
    try:
        with path.open("rb") as file:
            return read(file, path)
    except _Refusal as refusal:
        raise ImageFileError(
            f"{path} has a header that cannot be read: {refusal}; export it again.", "header"
        ) from None


class _Refusal(Exception):
    """Says what is wrong, without the file's name."""


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _Refusal(otherwise)


def _line(file: BinaryIO) -> str | None:
    """Return the next line without its end; None where the file ends."""
    content = file.readline(MAX_LINE + 1)
    _require(len(content) <= MAX_LINE, f"a line is longer than {MAX_LINE} bytes")
    text = content.decode("latin-1").rstrip("\r\n")
    _require(not any(ord(letter) < 32 and letter != "\t" for letter in text), "a line holds control characters")
    return text if content else None


def _numbers(text: str, count: int, name: str) -> tuple[float, ...]:
    words = text.split()
    _require(len(words) == count, f"{name} has {len(words)} numbers, expected {count}")
    for word in words:
        _require(
            len(word) <= MAX_WORD and NUMBER.fullmatch(word) is not None and math.isfinite(float(word)),
            f"{name} holds {word[:20]!r}",
        )
    return tuple(float(word) for word in words)


def _whole(text: str, count: int, name: str) -> tuple[int, ...]:
    numbers = _numbers(text, count, name)
    _require(
        all(number.is_integer() and abs(number) < MAX_BYTES for number in numbers),
        f"{name} is {text[:40]!r}, expected whole numbers",
    )
    return tuple(int(number) for number in numbers)


def _lengths(sizes: Sequence[int]) -> None:
    _require(
        all(1 <= size <= MAX_LENGTH for size in sizes),
        f"its axes have lengths {list(sizes)}, expected 1 to {MAX_LENGTH}",
    )


def _bytes(sizes: Sequence[int], each: int) -> int:
    _require(
        math.prod(sizes) * each <= MAX_BYTES, f"it promises {math.prod(sizes) * each} bytes, allowed are {MAX_BYTES}"
    )
    return math.prod(sizes) * each


def _spacing(numbers: Sequence[float]) -> tuple[float, ...]:
    _require(all(numbers), f"its spacing is {list(numbers)} mm, expected numbers other than 0")
    return tuple(abs(number) for number in numbers)  # ITK turns the axis of a negative one


def _beside(name: str, path: Path) -> Path:
    """Return the data file that a header names; it must be a plain name, so that no other folder is read."""
    name = os.fsdecode(name.encode("latin-1"))  # as lines are read
    plain = 0 < len(name) <= MAX_NAME and not set(name) & set("/\\%:\0") and name not in (".", "..")
    _require(
        plain and name.split()[:1] != ["LIST"],
        f"it names the data file {name[:80]!r}, expected one file in its own folder",
    )
    data = path.with_name(name)
    if not os.path.isfile(data):  # False, not an error, where the system takes no such name
        raise ImageFileError(
            f"{path} keeps its voxels in {name}, and {data} does not exist; copy that file too.", "missing-file"
        )
    _require(not data.samefile(path), "it names itself as its data file")
    return data


def _mha_fields(file: BinaryIO) -> dict[str, str]:
    """Return the fields of a MetaImage header up to ElementDataFile, which ends it."""
    fields: dict[str, str] = {}
    for _ in range(MAX_LINES):
        line = _line(file)
        _require(line is not None, "it has no ElementDataFile")
        match = MHA_LINE.fullmatch(line or "")
        _require(
            match is not None and len(line or "") <= MAX_FIELD,
            f"its line {(line or '')[:40]!r} is no short 'key = value'",
        )
        key, value = match.groups()  # type: ignore[union-attr]
        _require(key not in fields, f"it gives {key} twice")
        fields[key] = value.strip()
        if key == "ElementDataFile":
            return fields
        _require("NDims" in fields or key not in (*MHA_VECTORS, *MHA_MATRICES), f"it gives {key} before NDims")
    raise _Refusal(f"it has more than {MAX_LINES} lines")


def _read_mha(file: BinaryIO, path: Path) -> Header:
    fields = _mha_fields(file)
    _require(fields.get("ObjectType", "Image") == "Image", "its ObjectType is not Image")
    missing = [name for name in ("NDims", "DimSize", "ElementType") if name not in fields]
    _require(not missing, f"it has no {' and no '.join(missing)}")
    (dimensions,) = _whole(fields["NDims"], 1, "NDims")
    _require(
        DIMENSIONS[0] <= dimensions <= DIMENSIONS[1],
        f"NDims is {dimensions}, expected {DIMENSIONS[0]} to {DIMENSIONS[1]}",
    )
    counts = dict.fromkeys(MHA_NUMBERS, 1) | dict.fromkeys(MHA_VECTORS, dimensions) | {"Color": 4}
    counts |= dict.fromkeys(MHA_MATRICES, dimensions**2)
    for name, value in fields.items():
        if name in counts:
            _numbers(value, counts[name], name)
        elif name in MHA_FLAGS:
            _require(value.lower() in ("true", "false"), f"{name} is {value[:20]!r}, expected True or False")
    flags = {name: fields[name].lower() == "true" for name in MHA_FLAGS if name in fields}
    _require(flags.get("BinaryData", True), "its voxels are text, expected BinaryData = True")
    sizes = _whole(fields["DimSize"], dimensions, "DimSize")
    _lengths(sizes)
    (channels,) = _whole(fields.get("ElementNumberOfChannels", "1"), 1, "ElementNumberOfChannels")
    _lengths([channels])
    kind = fields["ElementType"].removesuffix("_ARRAY")
    _require(kind in MHA_BYTES, f"its ElementType {kind[:20]!r} is unknown")
    spacing = next(
        (_spacing(_numbers(fields[name], dimensions, name)) for name in MHA_SPACING if name in fields),
        (1.0,) * dimensions,
    )
    (skipped,) = _whole(fields.get("HeaderSize", "0"), 1, "HeaderSize")
    packed = "zlib" if flags.get("CompressedData") else ""
    own = fields["ElementDataFile"] in ("LOCAL", "Local", "local")
    _require(skipped == 0 or (not own and not packed and skipped >= -1), f"HeaderSize is {skipped}, expected 0 or none")
    header = Header(
        size=sizes,
        spacing=spacing,
        components=channels,
        num_bytes=_bytes((*sizes, channels), MHA_BYTES[kind]),
        packed=packed,
        data=path if own else _beside(fields["ElementDataFile"], path),
        offset=file.tell() if own else skipped,
    )
    (promised,) = _whole(fields.get("CompressedDataSize", "0"), 1, "CompressedDataSize")  # ITK reads no more than that
    there = header.data.stat().st_size - header.offset
    _require(not packed or promised in (0, there), f"CompressedDataSize is {promised}, {there} bytes are there")
    return header


def _nrrd_fields(file: BinaryIO) -> dict[str, str]:
    """Return an NRRD header's fields up to the empty line or the file's end, without comments and key/value pairs."""
    magic = _line(file)
    _require(
        magic is not None and NRRD_MAGIC.fullmatch(magic) is not None, "it does not begin with NRRD0001 to NRRD0005"
    )
    fields: dict[str, str] = {}
    for _ in range(MAX_LINES):
        line = _line(file)
        if not line:
            _require(line == "" or "data file" in fields, "it does not end with an empty line")
            return fields
        if line.startswith("#") or re.match("[^:]+:=", line):
            continue
        match = NRRD_LINE.fullmatch(line)
        _require(match is not None and len(line) <= MAX_FIELD, f"its line {line[:40]!r} is no short 'field: value'")
        key, value = match.groups()  # type: ignore[union-attr]
        key = NRRD_SYNONYMS.get(key.lower(), key.lower())
        _require(key not in fields, f"it gives {key!r} twice")
        fields[key] = value.strip()
    raise _Refusal(f"it has more than {MAX_LINES} lines")


def _nrrd_vectors(text: str, count: int, length: int, name: str) -> list[tuple[float, ...] | None]:
    """Parse `count` vectors such as (1,0,0), or none, of `length` numbers."""
    vectors = NRRD_VECTORS.findall(text)
    _require(
        len(vectors) == count and not NRRD_VECTORS.sub("", text).strip(),
        f"{name!r} has {len(vectors)} vectors, expected {count}",
    )
    return [
        None if vector == "none" else _numbers(vector[1:-1].replace(",", " "), length, repr(name)) for vector in vectors
    ]


def _nrrd_axes(fields: dict[str, str], dimension: int) -> list[int]:
    """Check what an NRRD header says once per axis; returns the axes of the grid, as against components'."""
    kinds = fields.get("kinds", " ".join(["domain"] * dimension)).split()
    for name, words in {"kinds": kinds, "centers": fields.get("centers", "none " * dimension).split()}.items():
        _require(
            len(words) == dimension and max(map(len, words)) <= MAX_WORD,
            f"{name!r} has {len(words)} words, expected {dimension}",
        )
    for name in ("labels", "units"):
        if name in fields:
            count = len(NRRD_QUOTED.findall(fields[name]))
            rest = NRRD_QUOTED.sub("", fields[name]).strip()
            _require(count == dimension and not rest, f"{name!r} has {count} words in quotes, expected {dimension}")
    grid = [axis for axis, kind in enumerate(kinds) if kind.lower() in NRRD_DOMAIN]
    _require(
        DIMENSIONS[0] <= len(grid) <= DIMENSIONS[1],
        f"it has {len(grid)} axes of space, expected {DIMENSIONS[0]} to {DIMENSIONS[1]}",
    )
    _require(dimension - len(grid) <= 1, f"it has {dimension - len(grid)} axes of components, expected one at most")
    for name in NRRD_PER_AXIS:
        words = fields.get(name, "0 " * dimension).split()
        _require(len(words) == dimension, f"{name!r} has {len(words)} numbers, expected {dimension}")
        for axis in grid:
            if name == "spacings" or words[axis].lower() != "nan":  # which says elsewhere that the number is not known
                _numbers(words[axis], 1, repr(name))
    return grid


def _nrrd_spacing(fields: dict[str, str], dimension: int, grid: list[int]) -> tuple[float, ...]:
    """Check space, origin and directions; returns the distance of voxels on each axis of the grid."""
    space = fields.get("space")
    names = {name.lower(): count for name, count in NRRD_SPACES.items()}
    _require(space is None or space.lower() in names, f"its space {str(space)[:40]!r} is unknown")
    _require(space is None or "space dimension" not in fields, "it gives both 'space' and 'space dimension'")
    (inside,) = _whole(fields.get("space dimension", "0"), 1, "'space dimension'")
    inside = inside if space is None else names[space.lower()]
    _require(0 <= inside <= DIMENSIONS[1], f"'space dimension' is {inside}")
    vectors_of = {"space directions": dimension, "space origin": 1, "measurement frame": inside}
    spatial = [name for name in (*vectors_of, "space units") if name in fields]
    _require(inside > 0 or not spatial, f"it gives {spatial} without a space")
    given = {name: _nrrd_vectors(fields[name], n, inside, name) for name, n in vectors_of.items() if name in fields}
    if "space units" in fields:
        _require(
            len(NRRD_QUOTED.findall(fields["space units"])) == inside, f"'space units' needs {inside} words in quotes"
        )
    if (vectors := given.get("space directions")) is not None:
        _require("spacings" not in fields, "it gives both 'spacings' and 'space directions'")
        _require(
            all((vectors[axis] is not None) == (axis in grid) for axis in range(dimension)),
            "'space directions' do not fit 'kinds'",
        )
        return _spacing([math.hypot(*vector) for vector in vectors if vector is not None])
    words = fields.get("spacings", "1 " * dimension).split()
    return _spacing([float(words[axis]) for axis in grid])


def _read_nrrd(file: BinaryIO, path: Path) -> Header:
    fields = _nrrd_fields(file)
    missing = [name for name in ("type", "dimension", "sizes", "encoding") if name not in fields]
    _require(not missing, f"it has no {' and no '.join(missing)}")
    (dimension,) = _whole(fields["dimension"], 1, "'dimension'")
    _require(
        DIMENSIONS[0] <= dimension <= DIMENSIONS[1] + 1,
        f"'dimension' is {dimension}, expected {DIMENSIONS[0]} to {DIMENSIONS[1] + 1}",
    )
    sizes = _whole(fields["sizes"], dimension, "'sizes'")
    _lengths(sizes)
    grid = _nrrd_axes(fields, dimension)
    kind = fields["type"].lower()
    _require(kind in NRRD_BYTES, f"its type {kind[:20]!r} is unknown")
    encoding = fields["encoding"].lower()
    _require(encoding in ("raw", "gzip", "gz"), f"its encoding is {encoding[:20]!r}, expected raw or gzip")
    packed = "" if encoding == "raw" else "gzip"
    _require(
        fields.get("endian", "little").lower() in ("little", "big"), f"its endian is {fields.get('endian', '')[:20]!r}"
    )
    (lines,), (skipped,) = (_whole(fields.get(name, "0"), 1, repr(name)) for name in ("line skip", "byte skip"))
    own = "data file" not in fields
    _require(
        lines == 0 and (skipped == 0 or (not own and not packed and skipped >= -1)),
        "it skips lines or bytes of its data",
    )
    return Header(
        size=tuple(sizes[axis] for axis in grid),
        spacing=_nrrd_spacing(fields, dimension, grid),
        components=math.prod(sizes[axis] for axis in range(dimension) if axis not in grid),
        num_bytes=_bytes(sizes, NRRD_BYTES[kind]),
        packed=packed,
        data=path if own else _beside(fields["data file"].removeprefix("./"), path),
        offset=file.tell() if own else skipped,
    )


def _read_gipl(file: BinaryIO, path: Path) -> Header:
    head = file.read(GIPL_HEADER)
    if len(head) < GIPL_HEADER:
        raise ImageFileError(
            f"{path} is truncated: a GIPL header has {GIPL_HEADER} bytes, {len(head)} are there; copy it again.",
            "truncated",
        )
    *lengths, kind = struct.unpack(">5H", head[:10])
    spacing, origin = struct.unpack(">4f", head[10:26]), struct.unpack(">4d", head[204:236])
    _require(struct.unpack(">I", head[252:])[0] in GIPL_MAGIC, "it does not end with GIPL's magic number")
    _require(all(map(math.isfinite, (*spacing, *origin))), "its spacing or origin is not a number")
    _require(kind in GIPL_BYTES, f"its image type {kind} is unknown")
    sizes = tuple(lengths) if lengths[3] > 1 else tuple(lengths[:3])
    _lengths(sizes)
    return Header(
        size=sizes,
        spacing=_spacing(spacing[: len(sizes)]),
        components=1,
        num_bytes=_bytes(sizes, GIPL_BYTES[kind]),
        packed="",
        data=path,
        offset=GIPL_HEADER,
    )


FORMATS = {".mha": _read_mha, ".mhd": _read_mha, ".nrrd": _read_nrrd, ".nhdr": _read_nrrd, ".gipl": _read_gipl}
