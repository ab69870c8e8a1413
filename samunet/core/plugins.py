"""The names of adaptation methods: a method's name is its module's."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from importlib.metadata import entry_points

from samunet.errors import ConfigError, did_you_mean

PACKAGE = "samunet.variants"
SHARED = frozenset({"method", "network"})  # modules of the package that are no method


@functools.cache
def installed_methods() -> dict[str, str]:
    """Return where installed packages offer methods, as "module:attribute" by name; looked up once: it takes 20 ms."""
    return {point.name: point.value for point in entry_points(group=PACKAGE)}


def variant_names() -> tuple[str, ...]:
    """Return the names of all adaptation methods: modules of samunet.variants and installed entry points."""
    package = importlib.import_module(PACKAGE)
    own = {module.name for module in pkgutil.iter_modules(package.__path__)} - SHARED
    return tuple(sorted(own | set(installed_methods())))


def refuse_unknown_variant(name: str) -> None:
    """Raise ConfigError, with the nearest name, unless an adaptation method has the name."""
    if name not in variant_names():
        from samunet.core.plan import ALIASES  # numpy comes with it, which only listing names needs not load

        raise ConfigError(f"There is no adaptation method '{name}'.{did_you_mean(name, {*variant_names(), *ALIASES})}")
