"""Options from the fields of a dataclass: the default and its help live there and nowhere else."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import typing
from typing import Any

from samunet.errors import ConfigError, did_you_mean


def add_fields(group: argparse._ArgumentGroup, kind: type) -> None:
    """Add `--<field>` for every field; the help is the text below the field in the class."""
    texts = field_texts(kind)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        default = field.default if field.default != "" else "none"
        text = f"{texts.get(field.name, '')} (default: {default})".replace("%", "%%").strip()
        if hints[field.name] is bool:
            group.add_argument(
                f"--{field.name}", action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
            )
        else:
            group.add_argument(
                f"--{field.name}",
                type=hints[field.name],
                default=argparse.SUPPRESS,
                metavar=hints[field.name].__name__.upper(),
                help=text,
            )


def given_fields(kind: type, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a dataclass that were given as options."""
    return {
        field.name: getattr(arguments, field.name)
        for field in dataclasses.fields(kind)
        if hasattr(arguments, field.name)
    }


def parse_assignment(text: str, *kinds: type) -> tuple[str, Any]:
    """Turn "key=value" into a field of one of some dataclasses and a value of its type.

    Raises:
        ConfigError: there is no such field (the nearest is named), or the value is not of its type.
    """
    hints = {name: hint for kind in kinds for name, hint in typing.get_type_hints(kind).items()}
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set takes KEY=VALUE; got '{text}'.")
    if name not in hints:
        raise ConfigError(f"There is no training setting '{name}'.{did_you_mean(name, hints)}")
    truths = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return name, truths[value.lower()] if hints[name] is bool else hints[name](value)
    except (KeyError, ValueError):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[hints[name]]
        raise ConfigError(f"--set {name}={value}: expected {expected}.") from None


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
