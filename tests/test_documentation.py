"""The documentation keeps its promises: links resolve, generated tables are current, the project speaks of itself only."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *sorted((ROOT / "documentation").rglob("*.md"))]


def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")  # it imports its neighbors
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_tables_are_what_the_results_give():
    texts = tables().pages()
    assert texts == {name: (ROOT / name).read_text() for name in texts}
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "documentation/results").iterdir()} <= set(texts)


def test_every_command_has_a_section_and_every_section_a_command():
    names = re.findall(r"^(samunet_\w+) = ", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    text = (ROOT / "documentation" / "reference" / "commands.md").read_text()
    assert set(re.findall(r"^## (samunet_\w+)", text, flags=re.MULTILINE)) == set(names)


def test_every_option_is_documented():
    import contextlib
    import importlib
    import io

    text = (ROOT / "documentation" / "reference" / "commands.md").read_text()
    for name, module in re.findall(r'^samunet_(\w+) = "([\w.]+):main"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE):
        output = io.StringIO()
        with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
            importlib.import_module(module).main(["--help"])
        options = set(re.findall(r"(?<![\w-])(--?[a-z]\w*)", output.getvalue().split("options:")[1]))
        missing = sorted(option for option in options - {"-h", "--help", "--version"} if f"`{option}" not in text)
        assert not missing, f"samunet_{name}: {missing}"


def test_every_kind_of_finding_is_documented():
    from samunet.checking.findings import KINDS

    text = (ROOT / "documentation" / "reference" / "dataset-checks.md").read_text()
    assert all(f"| `{code}` | {severity} | {fix} |" in text for code, (severity, fix) in KINDS.items())


def test_no_file_names_a_place_of_one_machine():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".json", ".cff", ".j2"} and path.is_file():
            assert str(ROOT.parent) + "/" not in path.read_text(), name
