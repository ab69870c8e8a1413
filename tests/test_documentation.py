"""The documentation keeps its promises: links resolve, tables are current, the project speaks of itself only."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import itertools
import pkgutil
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import samunet
from samunet.core.plugins import variant_names

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "AGENTS.md",
    *sorted((ROOT / "documentation").rglob("*.md")),
]


def script(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend((ROOT / path).parent)  # it imports its neighbors
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_name_and_file_of_the_package_exists(page):
    text = re.sub(r".*my_method.*", "", page.read_text(encoding="utf-8"))
    for file in re.findall(r"\b(?:samunet|tests|benchmarks)/[\w/]+\.(?:py|json|md)\b", text):
        assert (ROOT / file).is_file(), f"{page.name} names {file}"
    for name in set(re.findall(r"\bsamunet(?:\.[A-Za-z_]\w*)+", text)) - {"samunet.egg", "samunet.git"}:
        pkgutil.resolve_name(name)
    for module, names in re.findall(r"^from (samunet[\w.]*) import (\([^)]*\)|.+)$", text, flags=re.MULTILINE):
        for name in re.findall(r"\w+", names.split("#")[0]):
            pkgutil.resolve_name(f"{module}.{name}")


def test_every_method_has_a_page_that_the_index_links_twice():
    index = (ROOT / "documentation/README.md").read_text(encoding="utf-8")
    pages = sorted(path.stem for path in (ROOT / "documentation/methods").iterdir())
    for name in variant_names():
        assert name in pages or name.removesuffix("_prompted") in pages, name
    for page in pages:
        assert index.count(f"(methods/{page}.md)") == 2, page


def test_tables_are_what_the_results_give():
    texts = script("benchmarks/tables.py").pages()
    assert texts == {name: (ROOT / name).read_text(encoding="utf-8") for name in texts}
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "documentation/results").iterdir()} <= set(texts)


def test_every_command_has_a_section_and_every_section_a_command():
    names = re.findall(r"^(samunet_\w+) = ", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = (ROOT / "documentation" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (samunet_\w+)", text, flags=re.MULTILINE)) == set(names)


SAME = {"samunet_predict_from_modelfolder": "samunet_predict", "samunet_evaluate_simple": "samunet_evaluate_folder"}
"""Commands that the page describes by another one."""


class Parsed(Exception):
    """Carries a command's parser out of it."""


def options_of(target, patch) -> set[str]:
    """Every option string of a command, its actions' too, but for help, version and the --no- forms of switches."""

    def stop(parser, *_):
        raise Parsed(parser)

    def options(parser) -> set[str]:
        found = {option for action in parser._actions for option in action.option_strings}
        actions = [
            action.choices.values() for action in parser._actions if isinstance(action, argparse._SubParsersAction)
        ]
        return found.union(*(options(inner) for inner in itertools.chain(*actions)))

    for name in ("parse_args", "parse_known_args"):
        patch.setattr(argparse.ArgumentParser, name, stop)
    with pytest.raises(Parsed) as found:
        target()
    return {option for option in options(found.value.args[0]) if not option.startswith("--no-")} - {
        "-h",
        "--help",
        "--version",
    }


def commands():
    return dict(
        re.findall(
            r'^(samunet_\w+) = "([\w.]+):main"',
            (ROOT / "pyproject.toml").read_text(encoding="utf-8"),
            flags=re.MULTILINE,
        )
    )


def section_of(name: str) -> str:
    text = (ROOT / "documentation" / "reference" / "commands.md").read_text(encoding="utf-8")
    return text.split(f"## {name}\n")[1].split("\n## ")[0]


def flags_in(text: str) -> set[str]:
    return {flag for code in re.findall(r"`(-[^`]*)`", text) for flag in re.findall(r"(?<![\w-])--?[A-Za-z]\w*", code)}


@pytest.mark.parametrize("name", commands())
def test_the_flags_of_a_command_are_those_of_its_parser(name, monkeypatch):
    options = options_of(importlib.import_module(commands()[name]).main, monkeypatch)
    text = section_of(name)
    promised = flags_in("\n".join(row.split("|")[1] for row in text.splitlines() if row.startswith("|")))
    documented = flags_in(text)
    if name in SAME:
        assert not flags_in(re.split("instead of|all other options but", text)[1]) & options
        documented |= flags_in(section_of(SAME[name]))
    assert promised <= options, "the page promises them"
    assert options <= documented, "the page lacks them"


def test_flags_that_the_page_denies_do_not_exist(monkeypatch):
    rows = re.findall(
        r"^\| `(samunet_\w+)` \| (.*) \|$", section_of("Where nnU-Net's twins differ"), flags=re.MULTILINE
    )
    assert len(rows) > 2
    for name, flags in rows:
        assert not flags_in(flags) & options_of(importlib.import_module(commands()[name]).main, monkeypatch), name


@pytest.mark.slow  # imports all of nnU-Net
def test_every_flag_and_command_of_nnunet_is_here_or_denied(monkeypatch):
    pytest.importorskip("nnunetv2")
    denied, missing = section_of("Where nnU-Net's twins differ"), []
    for entry in importlib.metadata.entry_points(group="console_scripts"):
        if not entry.name.startswith("nnUNetv2_"):
            continue
        twin = entry.name.replace("nnUNetv2", "samunet")
        if twin not in commands():
            assert f"`{entry.name}`" in denied
            continue
        lacking = options_of(entry.load(), monkeypatch) - options_of(
            importlib.import_module(commands()[twin]).main, monkeypatch
        )
        if lacking:
            missing.append(f"| `{twin}` | {', '.join(f'`{flag}`' for flag in sorted(lacking))} |")
    assert sorted(missing) == sorted(re.findall(r"^\| `samunet_\w+` \|.*\|$", denied, flags=re.MULTILINE))


def test_every_kind_of_finding_is_documented():
    from samunet.checking.findings import KINDS

    text = (ROOT / "documentation" / "reference" / "dataset-checks.md").read_text(encoding="utf-8")
    assert all(f"| `{code}` | {severity} | {fix} |" in text for code, (severity, fix) in KINDS.items())


def test_no_file_names_a_place_of_one_machine():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".json", ".cff", ".j2"} and path.is_file():
            assert str(ROOT.parent) + "/" not in path.read_text(encoding="utf-8"), name


def checks() -> list[str]:
    """What .ci/run runs once everything is installed; not that nnU-Net can be imported."""
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").split("export PATH")[1].splitlines()[1:]
    return [line for line in lines if line and not line.startswith("python -c")]


def test_git_checks_what_ci_checks():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"entry: (.+)", hooks) == checks()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "AGENTS.md"])
def test_commands_for_developers_are_those_of_ci_or_name_what_exists(page):
    text, project = ((ROOT / name).read_text(encoding="utf-8") for name in (page, "pyproject.toml"))
    lines = "".join(re.findall(r"^```bash\n(.+?)```", text, flags=re.MULTILINE | re.DOTALL)).splitlines()
    assert {line for line in checks() if "--check" not in line} <= set(lines)
    programs = {*commands(), "python", "python3", "source", "ruff"}
    for line in {*lines, *re.findall(r"`(python [^`]+)`", text)} - set(checks()):
        program, *words = shlex.split(line)
        assert program.removeprefix(".venv/bin/") in programs, line
        for word in words:
            assert "/" not in word or word.startswith(".venv") or (ROOT / word).exists(), line
            assert all(f"\n{extra} = [" in project for extra in re.findall(r"\w+", word.partition("[")[2])), line
        for marker in re.findall(r"-m (?!pytest|pip|venv)(\w+)", line):
            assert f'"{marker}: ' in project, line


def test_the_site_shows_every_public_name_and_draws_every_equation():
    pytest.importorskip("mkdocs")
    site = script("documentation/site.py")
    assert sorted(re.findall(r"heading: samunet\.(\w+)", site._api())) == sorted(samunet.__all__)
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    drawn = [site._equations(found) for text in texts for found in site.EQUATIONS.finditer(text)]
    assert len(drawn) == sum(text.count("```math") for text in texts) > 0
    for equation in drawn:
        assert "<math" in equation and not re.search(r"\\|&(?!#)|&#x00026;", equation), equation


@pytest.mark.slow  # trains a moment
def test_the_notebook_runs():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "documentation" / "examples" / "from_dataset_to_scores.ipynb", as_version=4)
    steps = next(cell for cell in notebook.cells if cell.source.startswith("epochs, iterations = "))
    steps.source = "epochs, iterations = 1, 1"
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    printed = "".join(output.text for output in notebook.cells[-2].outputs)
    assert len(re.findall(r"Dice \d\.\d{3}, NSD \d\.\d{3}", printed)) == 5
