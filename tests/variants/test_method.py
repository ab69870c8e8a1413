"""Methods are loaded by their name, and read the options of a plan."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from dataclasses import dataclass, replace
from types import ModuleType

import pytest

from samunet.core import plugins
from samunet.errors import ConfigError
from samunet.models.rules import PromptSimulation
from samunet.variants import full, ma_sam, ma_sam_prompted, med_sa_prompted, method
from samunet.variants.method import Method, load_variant


def test_a_method_is_that_of_the_module_of_its_name():
    assert load_variant("full") is full.METHOD and load_variant("sam_unet").starts_as == "unet"


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(
        ConfigError, match=r"There is no adaptation method 'sam_unit'\. Did you mean 'sam_unet'\? Known: .*sam_unet"
    ):
        load_variant("sam_unit")


@pytest.mark.parametrize("name", ["../errors", "samunet.errors", "os", "__init__", "", "method", "network"])
def test_only_methods_can_be_imported_by_name(name):
    with pytest.raises(ConfigError, match="There is no adaptation method"):
        load_variant(name)


def test_loading_one_method_imports_no_other(monkeypatch):
    imported, real = [], importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: imported.append(name) or real(name))
    load_variant("sam_unet")
    assert set(imported) == {"samunet.variants", "samunet.variants.sam_unet"}


@pytest.fixture
def installed(monkeypatch):
    """Stands for an installed package whose entry point has a value that the test gives."""
    module = ModuleType("outside_package")
    module.METHOD, module.OTHER, module.nothing = full.METHOD, ma_sam.METHOD, 3
    monkeypatch.setitem(sys.modules, "outside_package", module)

    def install(value: str) -> None:
        for place in (plugins, method):
            monkeypatch.setattr(place, "installed_methods", lambda: {"outside": value})

    return install


@pytest.mark.parametrize(
    ("value", "expected"), [("outside_package", full.METHOD), ("outside_package:OTHER", ma_sam.METHOD)]
)
def test_an_installed_package_offers_a_method(installed, value, expected):
    installed(value)
    assert load_variant("outside") is expected


@pytest.mark.parametrize("value", ["json", "outside_package:nothing"])
def test_an_installed_package_without_a_method_is_refused(installed, value):
    installed(value)
    with pytest.raises(ConfigError, match=rf"'outside' as {value}, which gives no .*Update the package, or remove it"):
        load_variant("outside")


def test_options_of_all_parts_stand_side_by_side():
    config = med_sa_prompted.METHOD.read({"ratio": 0.5, "points": 7, "compat": "official"}, "options")
    assert config.adapters.ratio == 0.5 and config.simulation.points == 7 and config.compat == "official"
    assert config.simulation == PromptSimulation(points=7)


def test_parts_keep_the_defaults_that_the_method_gives_them():
    config = ma_sam_prompted.METHOD.read({"box_relaxation": 2}, "options")
    assert config.simulation == PromptSimulation(prompts="box", box_overlap=1.0, box_relaxation=2)
    assert ma_sam_prompted.METHOD.read({}, "options") == ma_sam_prompted.Config()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ration": 0.5}, r"plan: unknown key 'ration'\. Did you mean 'ratio'\?"),
        ({"adapters": {}}, r"plan: unknown key 'adapters'"),
        ({"points": "x"}, r"plan\.points: expected a whole number"),
        ({"compat": 3}, r"plan\.compat: expected text"),
        ({"compat": "x"}, r"plan\.compat: expected one of paper, official, official_2025"),
        ({"prompts": "x"}, r"plan\.prompts: expected one of points, iterative, box, mixed"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_their_place(options, message):
    with pytest.raises(ConfigError, match=message):
        med_sa_prompted.METHOD.read(options, "plan")


def test_the_checks_of_a_flat_configuration_name_their_place_too():
    @dataclass(frozen=True)
    class Config:
        size: int = 1

        def __post_init__(self) -> None:
            if self.size < 1:
                raise ConfigError("size must be 1 or more")

    some: Method[Config] = replace(full.METHOD, config=Config)
    assert some.read({"size": 2}, "plan") == Config(2)
    with pytest.raises(ConfigError, match="plan: size must be 1 or more"):
        some.read({"size": 0}, "plan")


def numbers(config):
    """Names of the options of a method that are numbers, those of its parts too."""
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(field.default):
            yield from numbers(type(field.default))
        elif type(field.default) in (int, float):
            yield field.name


@pytest.mark.parametrize("name", plugins.variant_names())
def test_no_number_of_a_methods_options_is_without_bounds(name):
    """A plan from a stranger could ask for a network of any size."""
    known = load_variant(name)
    for option in numbers(known.config):
        for number in (10**12, -(10**12)):
            with pytest.raises(ConfigError, match=option):
                known.read({option: number}, "plan")
