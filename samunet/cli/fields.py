"""Options of a command from the fields of a dataclass: type, default and help live there and nowhere else.

A field with its help below it

    threads: Annotated[int, "-np N"] = 8
    \"\"\"Cases measured at a time.\"\"\"

is the option `-np N`, whose help ends with the default. The annotation holds names and metavar as a usage line shows
them, and may hold a text for fields without one below. Without annotation `lesions: bool = False` is `--lesions`; a
metavar alone means a word by its place; "" means that a field is no option. A field without a default is required.
Types say the rest:

    bool                    a switch, away from its default; help to one that is on says "do not"
    Literal["mixed", ...]   one of these words
    tuple[T, ...]           one or more; with "..." after the metavar, an option that may be given several times
    tuple[T, T, T]          three
    T | None                T, where nothing given is None
    another dataclass       its fields, under a heading that is the first line of its text

A function in the annotation reads the word. A dataclass in the annotation of a mapping stands for those of its fields
that were given, and leaves their defaults to others.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

from samunet.errors import ConfigError, did_you_mean

Options = TypeVar("Options")


class _Option(typing.NamedTuple):
    """A field as an option."""

    field: dataclasses.Field[Any]
    type: Any
    """Without its annotation, and without None."""
    marks: tuple[Any, ...]
    """What annotates the type."""
    group: type | None
    """The dataclass whose fields are meant instead."""
    place: str
    """Where its value is among parsed arguments, in which fields of several dataclasses may have one name."""


def _options(kind: type[Any]) -> Iterator[_Option]:
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        marks = getattr(hint, "__metadata__", ())
        hint = hint.__origin__ if marks else hint
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            (hint,) = set(typing.get_args(hint)) - {types.NoneType}
        group = next(
            (part for part in (hint, *marks) if isinstance(part, type) and dataclasses.is_dataclass(part)), None
        )
        if "" not in marks:
            yield _Option(field, hint, marks, group, f"{kind.__name__}.{field.name}")


def add_options(group: argparse._ActionsContainer, kind: type[Any], *, only_given: bool = False) -> None:
    """Add the fields of a dataclass as options.

    Args:
        only_given: leave out of the parsed arguments what is not given; switches then have a --no- form.
    """
    texts = field_texts(kind)
    for option in _options(kind):
        if option.group is not None:
            title = (option.group.__doc__ or "").partition("\n")[0].rstrip(".")
            inner = group if isinstance(group, argparse._ArgumentGroup) else group.add_argument_group(title)
            add_options(inner, option.group, only_given=option.type is not option.group)
        else:
            _add_option(group, option, texts.get(option.field.name), only_given=only_given)


def _add_option(group: argparse._ActionsContainer, option: _Option, text: str | None, *, only_given: bool) -> None:
    default = option.field.default
    spelling, *shared = [mark for mark in option.marks if isinstance(mark, str)] or [f"--{option.field.name}"]
    words, text = spelling.split(), text or " ".join(shared)
    flags, metavars = [word for word in words if word[0] == "-"], [word for word in words if word[0] != "-"]
    required = default is dataclasses.MISSING
    settings: dict[str, Any] = {"dest": option.place, "required": required} if flags else {}
    settings["default"] = argparse.SUPPRESS if only_given else None if required else default
    if option.type is bool:
        switch = "store_false" if default else "store_true"
        if default and not only_given:
            text = f"Do not {text[:1].lower()}{text[1:]}"
        settings["action"] = argparse.BooleanOptionalAction if only_given else switch
    else:
        settings |= _value(option, metavars[0] if metavars else None, any_number=not flags and not required)
        if "..." in metavars:
            settings |= {"nargs": None, "action": "append", "default": []}
    if only_given or not (required or option.type is bool or default in (None, ())):
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text = f"{text} (default: {'none' if shown == '' else shown})"
    group.add_argument(*(flags or [option.place]), help=text.replace("%", "%%"), **settings)


def _value(option: _Option, metavar: str | None, *, any_number: bool) -> dict[str, Any]:
    """Return what argparse is told of a value: how many words, how each is read, which are allowed."""
    kind, parts, nargs = option.type, typing.get_args(option.type), None
    if typing.get_origin(kind) is Literal:
        return {"choices": parts, "metavar": metavar}
    if typing.get_origin(kind) is tuple:
        kind, nargs = parts[0], len(parts) if parts[-1] is not Ellipsis else "*" if any_number else "+"
    reader = next((mark for mark in option.marks if inspect.isfunction(mark)), kind)
    return {"type": reader, "nargs": nargs, "metavar": metavar or kind.__name__.upper()}


def options_from(arguments: argparse.Namespace, kind: type[Options]) -> Options:
    """Return the dataclass that the parsed arguments of `add_options` give."""
    values = {}
    for option in _options(kind):
        name = option.field.name
        if option.group is None:
            value = getattr(arguments, option.place)
            values[name] = tuple(value) if isinstance(value, list) else value
        elif option.type is option.group:
            values[name] = options_from(arguments, option.group)
        else:
            given = [part for part in _options(option.group) if hasattr(arguments, part.place)]
            values[name] = {part.field.name: getattr(arguments, part.place) for part in given}
    return kind(**values)


def parse_assignment(text: str, *kinds: type) -> tuple[str, Any]:
    """Turn "key=value" into a field of one of some dataclasses and a value of its type; raises ConfigError where there
    is no such field (the nearest is named), or the value is not of its type.
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
    """Return the string literal below each field of a dataclass, inherited fields included; none where the source is
    not at hand.
    """
    texts = {}
    for part in reversed([part for part in kind.__mro__ if dataclasses.is_dataclass(part)]):
        body = _bodies(part.__module__).get(part.__name__, [])
        for field, text in zip(body, body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts


@functools.cache
def _bodies(module: str) -> dict[str, list[ast.stmt]]:
    """Read the statements of a module's classes from its source, once for all of them."""
    try:
        source = inspect.getsource(sys.modules[module])
    except (OSError, TypeError):  # of a program in one file, or of `python -c`
        return {}
    return {node.name: node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
