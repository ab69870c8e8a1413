"""Adaptation methods are found by the name of their module."""

from __future__ import annotations

import importlib

import pytest

from samunet.core import plugins
from samunet.core.plugins import load_variant, variant_names
from samunet.errors import ConfigError


def test_a_method_is_the_module_of_its_name():
    module = load_variant("sam_unet")
    assert module.__name__ == "samunet.variants.sam_unet" and callable(module.build)
    assert "sam_unet" in variant_names() and not any(name.startswith("_") for name in variant_names())
    assert list(variant_names()) == sorted(set(variant_names()))


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(
        ConfigError, match=r"There is no adaptation method 'sam_unit'\. Did you mean 'sam_unet'\? Known: .*sam_unet"
    ):
        load_variant("sam_unit")


@pytest.mark.parametrize("name", ["../errors", "samunet.errors", "os", "__init__", ""])
def test_only_methods_can_be_imported_by_name(name):
    with pytest.raises(ConfigError, match="There is no adaptation method"):
        load_variant(name)


def test_an_installed_package_adds_a_method(monkeypatch):
    class Point:
        name, value = "from_outside", "json"

    monkeypatch.setattr(plugins, "entry_points", lambda group: [Point] if group == "samunet.variants" else [])
    assert "from_outside" in variant_names() and load_variant("from_outside").__name__ == "json"


def test_loading_one_method_imports_no_other(monkeypatch):
    imported, real = [], importlib.import_module
    monkeypatch.setattr(plugins.importlib, "import_module", lambda name: imported.append(name) or real(name))
    load_variant("sam_unet")
    assert set(imported) == {"samunet.variants", "samunet.variants.sam_unet"}
