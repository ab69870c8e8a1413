"""Strict JSON to and from frozen dataclasses, and files that are written whole or not at all."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import stat
import sys
import types
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from samunet.core import parts
from samunet.errors import ConfigError, SamunetError, did_you_mean

T = TypeVar("T")
MOST_LEVELS = 100  # of lists and objects within each other; what samunet and nnU-Net write has fewer than ten
LARGEST = 2**63 - 1  # whole number in a file
MOST_FLOAT = sys.float_info.max


def encode(value: Any) -> Any:
    """Turn dataclasses, tuples and dicts into what json can write; field order is kept."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def decode(kind: type[T], raw: Any, where: str) -> T:
    """Build a value of type `kind` from parsed JSON and refuse anything that does not fit.

    Args:
        kind: a dataclass, `tuple[...]`, `dict[str, ...]`, `X | None`, or a JSON scalar type.
        raw: parsed JSON.
        where: path of the value for messages, e.g. "samunetPlans.json: configurations.3d_adapter".

    Raises:
        ConfigError: a key is unknown (the nearest is named) or missing, or a value has the wrong type or does not
            follow a rule of `samunet.core.ranges`.
    """
    return typing.cast(T, _decode(kind, raw, where))


def _decode(kind: Any, raw: Any, where: str) -> Any:
    if kind is Any:
        return raw
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast(type, kind), raw, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:  # with rules of samunet.core.ranges
        value = _decode(arguments[0], raw, where)
        for rule in arguments[1:]:
            expected = rule.expected if isinstance(raw, str) else f"a number {rule.expected}"
            _require(rule.fits(value), where, expected, raw)
        return value
    if origin in (typing.Union, types.UnionType):
        if raw is None and type(None) in arguments:
            return None
        return _decode(next(option for option in arguments if option is not type(None)), raw, where)
    if origin is tuple:
        return _decode_tuple(arguments, raw, where)
    if origin is dict:
        _require(isinstance(raw, dict), where, "an object", raw)
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in raw.items()}
    if kind is float:
        number = isinstance(raw, int | float) and not isinstance(raw, bool)
        _require(number and -MOST_FLOAT <= raw <= MOST_FLOAT, where, "a number", raw)
        return float(raw)
    if kind is int:
        _require(isinstance(raw, int) and not isinstance(raw, bool), where, "a whole number", raw)
        return raw
    if kind in (str, bool):
        _require(isinstance(raw, kind), where, {str: "text", bool: "true or false"}[kind], raw)
        return raw
    raise ConfigError(f"{where}: values of type {kind} are not supported.")


def _decode_dataclass(kind: type, raw: Any, where: str) -> Any:
    _require(isinstance(raw, dict), where, "an object", raw)
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in raw:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key '{key}'.{did_you_mean(key, fields)}")
    values = {}
    for name, field in fields.items():
        if name in raw:
            values[name] = _decode(hints[name], raw[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(
                f"{where}: key '{name}' is missing; add it, or write the file again with the command that made it."
            )
    try:
        return kind(**values)
    except SamunetError as error:  # of its own checks, which do not know the file
        raise ConfigError(f"{where}: {error}") from None


def _decode_tuple(arguments: tuple[Any, ...], raw: Any, where: str) -> tuple[Any, ...]:
    _require(isinstance(raw, (list, tuple)), where, "a list", raw)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = arguments[:1] * len(raw)
    _require(len(raw) == len(arguments), where, f"a list of {len(arguments)} values", raw)
    parts = enumerate(zip(arguments, raw, strict=True))
    return tuple(_decode(part, item, f"{where}[{i}]") for i, (part, item) in parts)


def _require(fits: bool, where: str, expected: str, raw: Any) -> None:
    if not fits:
        raise ConfigError(f"{where}: expected {expected}; got {json.dumps(raw)[:80]}.")


def read_json(path: Path) -> Any:
    """Read a JSON file; raises ConfigError that names the file when it is absent or `parse_json` refuses it."""
    try:
        return parse_json(path.read_bytes(), f"File {path}")
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"File {path} does not exist.") from None


def parse_json(text: str | bytes, what: str) -> Any:
    """Read JSON that is no file of its own; raises ConfigError where it is not JSON, gives a key twice, holds a whole
    number beyond 64 bits, or lists and objects more than MOST_LEVELS deep.

    Args:
        text: bytes are UTF-8, a byte order mark before it or not.
        what: it is, for the message, e.g. "File /x/plans.json" or "log.jsonl, line 3".
    """
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"), object_pairs_hook=_object)
        _refuse_extremes(value)
    except RecursionError:
        raise ConfigError(f"{what} holds lists or objects too deep within each other; write it again.") from None
    except ValueError as error:
        fault = str(error).partition(";")[0]
        raise ConfigError(f"{what} is not valid JSON: {fault}. Correct it, or write it again.") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its keys and values; Python's own reader keeps the last of two equal keys without a word."""
    members = dict(pairs)
    if len(members) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"it holds the key {twice[:80]!r} twice in one object")
    return members


def _refuse_extremes(value: Any) -> None:
    """Raise ValueError for what JSON allows and later steps cannot take: depth, giant numbers, halves of characters."""
    level, levels = [value], 0
    while level:
        for part in level:
            if isinstance(part, int) and not -LARGEST <= part <= LARGEST:
                raise ValueError("it holds a whole number of more than 64 bits")
            if isinstance(part, str) and not part.isascii():
                part.encode()  # a UnicodeEncodeError is a ValueError
        level = _parts(level)
        levels += 1
        if levels > MOST_LEVELS:
            raise ValueError(f"it holds lists or objects more than {MOST_LEVELS} deep")


def _parts(level: Iterable[Any]) -> list[Any]:
    """Keys, values and items of the objects and lists of one level."""
    inner: list[Any] = []
    for item in level:
        if isinstance(item, dict):
            inner += item.keys()
            inner += item.values()
        elif isinstance(item, list):
            inner += item
    return inner


def write_json(path: Path, value: Any) -> None:
    """Write a value (see `encode`) as indented JSON, atomically."""
    write_text(path, json.dumps(encode(value), indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table atomically, commas between cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is synced to disk and renamed, on failure it is removed.
    Raises OSError where names `path` where the disk is full, whatever the library that writes says.

    The temporary name keeps the file's ending, since image libraries choose the format by it. Parent folders are made,
    and what killed processes left in the folder is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    parts.remove_dead_parts_once(path.parent.absolute())
    temporary = path.parent / parts.part_name("".join(path.suffixes[-2:]))
    parts.begin_part(temporary)
    try:
        with parts.naming(path, temporary):
            # Not mkstemp: its files are private, and asking for the umask means changing it, for every thread.
            handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            permissions = stat.S_IMODE(os.fstat(handle).st_mode)
            os.close(handle)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(permissions)
            os.replace(temporary, path)
    finally:
        parts.end_part(temporary)


def digest(value: Any) -> str:
    """Return the SHA-256 of a value as `encode` makes it; the order of keys does not count."""
    return hashlib.sha256(json.dumps(encode(value), sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
