"""Adaptation methods are found by the name of their module."""

from __future__ import annotations

from samunet.core import plugins
from samunet.core.plugins import variant_names


def test_methods_are_modules_and_folders_and_nothing_that_they_share():
    names = variant_names()
    assert {"sam_unet", "samed", "full"} <= set(names) and not {"method", "network", "__init__"} & set(names)
    assert list(names) == sorted(set(names))


def test_an_installed_package_adds_a_name(monkeypatch):
    class Point:
        name, value = "from_outside", "json"

    monkeypatch.setattr(plugins, "entry_points", lambda group: [Point] if group == "samunet.variants" else [])
    monkeypatch.setattr(plugins, "installed_methods", plugins.installed_methods.__wrapped__)
    assert "from_outside" in variant_names()
