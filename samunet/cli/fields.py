"""Options from the fields of a dataclass: the default and its help live there and nowhere else."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import typing
from typing import Any, TypeVar

T = TypeVar("T")


def add_fields(group: argparse._ArgumentGroup, kind: type) -> None:
    """Add `--<field>` for every field; the help is the text below the field in the class."""
    texts = field_texts(kind)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        text = f"{texts.get(field.name, '')} (default: {field.default})".replace("%", "%%").strip()
        group.add_argument(f"--{field.name}", type=hints[field.name], default=field.default, metavar=hints[field.name].__name__.upper(), help=text)


def from_arguments(kind: type[T], arguments: argparse.Namespace) -> T:
    """Build the dataclass from parsed options; its own checks raise ConfigError."""
    values: dict[str, Any] = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(typing.cast(Any, kind))}
    return kind(**values)


def field_texts(kind: type) -> dict[str, str]:
    """Return the string literal below each field of a dataclass, inherited fields included."""
    texts = {}
    for part in reversed([part for part in kind.__mro__ if dataclasses.is_dataclass(part)]):
        body = typing.cast(ast.ClassDef, ast.parse(inspect.getsource(part)).body[0]).body
        for field, text in zip(body, body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts
