"""The house: layers point one way, every __all__ resolves, nothing unsafe is called."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import write_tiny_dataset

import samunet
from samunet.cli.words import words
from samunet.core.plugins import variant_names

ROOT = Path(samunet.__file__).parent
ROWS = (
    ("errors", "__init__"),
    ("core",),
    ("machine",),
    ("imageio", "ops", "sam"),
    ("planning", "preprocessing", "models", "evaluation", "phantom", "importing"),
    ("data", "variants", "checking"),
    ("checkpoints", "pretraining"),
    ("training", "inference"),
    ("pipeline",),
    ("comparison", "ext_trainer", "interaction", "fewshot"),
    ("api", "serving"),
    ("cli", "napari_plugin"),
)
ROW_OF = {room: index for index, row in enumerate(ROWS) for room in row} | {"__main__": len(ROWS)}
MODULES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "samunet"}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("samunet.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_from_layers_before_its_own(path):
    own = room_of(path)
    assert own in ROW_OF, f"{own} has no layer"
    for other in imported(path) - {own, "__version__"}:
        assert ROW_OF[other] < ROW_OF[own], f"{own} imports {other}"


def test_the_architecture_page_names_every_room_once_and_in_order():
    page = (ROOT.parent / "documentation" / "architecture.md").read_text(encoding="utf-8")
    table = page[page.index("| row | rooms |") : page.index("Planning, checking")]
    named = [[name for name in re.findall(r"`(\w+)`[:.]", line) if name in ROW_OF] for line in table.splitlines()]
    rows = [sorted(row) for row in named if row]
    assert rows == [sorted(set(row) - {"__init__"}) for row in ROWS]
    assert ROW_OF.keys() - {"errors", "__init__", "__main__"} == {
        path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()
    }
    assert sorted(path.name for path in ROOT.glob("*.py")) == ["__init__.py", "__main__.py", "errors.py"]


def test_core_needs_numpy_and_the_standard_library_only():
    allowed = set(sys.stdlib_module_names) | {"numpy", "samunet", "torch"}  # torch in annotations only, see below
    for path in (ROOT / "core").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                name = node.names[0].name if isinstance(node, ast.Import) else str(node.module)
                assert name.split(".")[0] in allowed, f"{path.name} imports {name}"


def test_help_of_every_command_loads_nothing_heavy():
    code = (
        "import importlib, sys\n"
        "from samunet.cli.common import parser_of\n"
        "from samunet.cli.words import module_of, words\n"
        "texts = [parser_of(importlib.import_module(module_of(word)).main).format_help() for word in words()]\n"
        "print(len(texts), all('Exit codes: 0 done' in text for text in texts))\n"
        "print(sorted({'numpy', 'torch', 'SimpleITK', 'nibabel', 'scipy', 'matplotlib', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{len(words())} True", "[]"]


def test_comparing_predictions_needs_no_torch():
    code = (
        "import sys, samunet.cli.compare, samunet.comparison.from_folders, samunet.comparison.report\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_measuring_planning_and_preprocessing_need_no_torch(tmp_path):
    write_tiny_dataset(tmp_path / "raw")
    folders = {f"nnUNet_{kind}": str(tmp_path / kind) for kind in ("raw", "preprocessed", "results")}
    code = (
        "import sys\nfrom samunet.cli import plan_and_preprocess as command\ncode = command.main(['-d', '999', "
        "'-backbone', 'vit_nano'])\n"
    )
    code += "print(code, 'torch' in sys.modules, 'matplotlib' in sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | folders
    )
    assert done.stderr.strip().endswith("0 False False"), done.stderr


def test_nothing_in_the_package_asserts_prints_below_cli_or_loads_unsafely():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.Assert), f"{path} asserts"
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert name not in ("eval", "exec", "pickle.load", "pickle.loads"), f"{path} calls {name}"
            assert keywords.get("shell") != "True" and keywords.get("allow_pickle") != "True"
            if name == "torch.load":
                assert keywords.get("weights_only") == "True", path
            if name == "print":
                assert room_of(path) == "cli", f"{path} prints"


def test_the_environment_is_read_in_the_workspace_only():
    for path in MODULES:
        if room_of(path) != "cli" and path.name != "workspace.py":
            assert "os.environ" not in path.read_text(encoding="utf-8"), path


def test_every_public_name_resolves():
    # They subclass nnU-Net's trainer, and are loaded by nnU-Net alone.
    within_nnunet = {"samunet.ext_trainer.samunetTrainer", "samunet.comparison.timed"}
    with_nnunet, with_napari = (importlib.util.find_spec(name) is not None for name in ("nnunetv2", "napari"))
    for module in pkgutil.walk_packages(samunet.__path__, "samunet."):
        if module.name in within_nnunet and not with_nnunet:
            continue
        if module.name.startswith("samunet.napari_plugin.") and not with_napari:
            continue
        loaded = importlib.import_module(module.name)
        for name in getattr(loaded, "__all__", ()):
            assert hasattr(loaded, name), f"{module.name}.{name}"


def test_only_the_download_of_weights_knows_a_network():
    clients = {"urllib", "http", "ftplib", "requests", "httpx", "aiohttp", "huggingface_hub"}
    harmless = {"urllib.parse"}  # takes addresses apart
    knowing = [
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in {*(alias.name for alias in node.names), getattr(node, "module", None) or ""} - harmless
        if name.split(".")[0] in clients
    ]
    assert set(knowing) == {"sam/download.py"}


def test_only_its_plugin_knows_napari():
    knowing = {
        room_of(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and {"napari", "magicgui", "qtpy"}
        & {(name or "").split(".")[0] for name in [*(alias.name for alias in node.names), getattr(node, "module", "")]}
    }
    assert knowing == {"napari_plugin"}


def modules_imported(path: Path) -> set[str]:
    """Names of the package's modules that a module imports, inside functions too, but for annotations."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    annotations = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and node not in annotations:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node not in annotations:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in PATH_OF else str(node.module))
    return names & set(PATH_OF)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


PATH_OF = {name_of(path): path for path in MODULES}
IMPORTS = {name: modules_imported(path) for name, path in PATH_OF.items()}


def reached(start: str) -> set[str]:
    """Modules that a module imports, and those that these import."""
    found, waiting = set(), [start]
    while waiting:
        for other in IMPORTS[waiting.pop()] - found:
            found.add(other)
            waiting.append(other)
    return found


def test_no_module_comes_back_to_itself_through_its_imports():
    assert [name for name in IMPORTS if name in reached(name)] == []


def test_what_methods_share_serves_two_of_them():
    """A method and its promptable twin count as one."""
    families: dict[str, set[str]] = {}
    for name in PATH_OF:
        if name.startswith("samunet.variants.") and name.split(".")[2] in variant_names():
            family = name.split(".")[2].removesuffix("_prompted")
            families[family] = families.get(family, set()) | reached(name)
    assert len(families) > 5
    for name in PATH_OF:
        if name.startswith("samunet.models."):
            users = [family for family, modules in families.items() if name in modules]
            assert len(users) >= 2, f"{name} serves {users} alone; it belongs to that method"
