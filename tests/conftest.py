"""Fixtures: a tiny planned, preprocessed and trained 3D dataset, made once per session with the smallest backbone."""

from __future__ import annotations

import importlib
import locale
import os
from pathlib import Path

import pytest
import torch
from samples import Project, make_tiny_project

from samunet.cli import common
from samunet.cli.words import module_of

LOCALE = locale.setlocale(locale.LC_ALL)
torch.set_num_threads(1)  # tests run in parallel processes, and threads that wait for each other keep every core busy
os.environ |= {"OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}  # so do commands that tests start


@pytest.fixture(scope="session", autouse=True)
def next_commands_parse():
    """Every command that a command proposes next is one that its own parser takes."""
    plain = common.command_line

    def parsed(words: list[str]) -> str:
        main = importlib.import_module(module_of(words[0].removeprefix("samunet_"))).main
        common.parser_of(main).parse_args(words[1:])
        return plain(words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "command_line", parsed)
        yield


@pytest.fixture(autouse=True)
def own_locale():
    """ITK changes it when it writes DICOM, as tests do, and Python then decodes files as ASCII."""
    locale.setlocale(locale.LC_ALL, LOCALE)  # fixtures of a wider scope came first
    yield
    locale.setlocale(locale.LC_ALL, LOCALE)


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Project:
    """The tiny project that tests share; models other than `trained` belong elsewhere, since others would find them."""
    return make_tiny_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def environment(project, monkeypatch) -> None:
    """nnU-Net's variables name the tiny dataset's folders."""
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def trained(project) -> Path:
    """The fold folder of a short training of the tiny dataset."""
    return project.train()


@pytest.fixture
def images(project) -> Path:
    """The folder of the tiny dataset's test images."""
    return project.workspace.raw / project.dataset / "imagesTr"
