"""What mkdocs does beside building pages: see `hooks` in mkdocs.yml."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
API = "reference/api.md"
EQUATIONS = re.compile(r"^```math\n(.+?)^```$", re.MULTILINE | re.DOTALL)
OUTSIDE = {
    path: f"project/{path.name}"
    for path in (
        *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY")),
        *ROOT.glob("benchmarks/results/*.png"),
    )
}
"""Files beside the folder that belong to the site, and where in it they lie."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the navigation from the lists of README.md: a section for each paragraph that begins with a bold word."""
    nav: list[Any] = [{"Start": "README.md"}]
    for title, rest in re.findall(r"^\*\*([^*]+)\*\*(.+?)(?=^\*\*|\Z)", _map(), flags=re.MULTILINE | re.DOTALL):
        pages = [
            {name: _uri(FOLDER / target)} for name, target in re.findall(r"\[([^]]+)\]\(([^)#]+\.(?:md|ipynb))", rest)
        ]
        nav.append({title: pages + ([{"API": API}] if title == "Reference" else [])})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere, that of the public names, and notebooks as pages."""
    for path, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    files.append(File.generated(config, API, content=_api()))
    for path in FOLDER.glob("examples/*.ipynb"):
        files.append(File.generated(config, f"examples/{path.stem}.md", content=_notebook(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Write equations as MathML, and let links lead to where files lie in the site; those to nothing in it are text."""
    source = Path(page.file.abs_src_path or FOLDER / page.file.src_uri)

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found.groups()
        uri = _uri((source.parent / target).resolve())
        if uri is None:
            return text
        return f"[{text}]({os.path.relpath(uri, Path(page.file.src_uri).parent)}{anchor or ''})"

    return re.sub(r"\[([^]\n]+)\]\((?!http|data:)([^)#\s]+)(#[^)\s]+)?\)", link, EQUATIONS.sub(_equations, markdown))


def _notebook(path: Path) -> str:
    """A notebook as a page: text, code, and what it printed and drew."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if png := data.get("image/png"):
                parts.append(f"![Output of the cell above](data:image/png;base64,{''.join(png).strip()})")
            else:
                parts.append(f"```text\n{''.join(output.get('text') or data['text/plain']).strip()}\n```")
    return "\n\n".join(parts)


def _map() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def _uri(path: Path) -> str | None:
    """Where a file lies in the site, if it does."""
    path = path.resolve()
    if not path.is_relative_to(FOLDER):
        return OUTSIDE.get(path)
    return (path.with_suffix(".md") if path.suffix == ".ipynb" else path).relative_to(FOLDER).as_posix()


def _equations(found: re.Match[str]) -> str:
    mathml = convert(found[1].strip(), display="block")
    aligned = mathml.replace('columnalign="', 'style="text-align: ')  # browsers do not know the attribute
    return f'<div style="overflow-x: auto">{aligned}</div>'


def _api() -> str:
    """A section for each public name, in the order of its stub."""
    stub = ast.parse((ROOT / "samunet" / "__init__.pyi").read_text(encoding="utf-8"))
    sections = ["# API\n\nEvery public name of `import samunet`. How they work together: [Python](python.md)."]
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            name = node.names[0].name
            options = f"    options:\n      heading: samunet.{name}\n      toc_label: {name}"
            sections.append(f"::: samunet.{node.module}.{name}\n{options}")
    return "\n\n".join(sections) + "\n"
