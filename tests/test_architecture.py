"""The picture in docs/architecture.md shows the rooms that there are, in the order that imports follow."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PICTURE = PAGE.split("```")[1]
TOPS = ("cli", "commands", "bench", "recipes", "data", "models", "kernels")


def contract(container):
    """The layers of an import contract, from the top down: names side by side in one layer."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (found,) = [c for c in contracts if c.get("containers") == [container]]
    return [layer.replace("|", ":").replace(" ", "").split(":") for layer in found["layers"]]


def test_the_folders_stand_in_the_order_of_imports():
    tops = [f"{name}/" for name in ("commands", "recipes", "data", "models", "kernels")]
    places = [PICTURE.index(name) for name in tops]
    assert places == sorted(places)


@pytest.mark.parametrize("top", ["recipes", "kernels"])
def test_rooms_stand_in_the_order_of_imports(top):
    previous = -1
    for layer in contract(f"fusedface.{top}"):
        folders = [name for name in layer if (ROOT / top / name).is_dir()]
        places = [PICTURE.index(f" {name}/") for name in folders]
        assert all(place > previous for place in places), layer
        previous = max(places, default=previous)


def test_the_picture_names_every_folder_and_no_other():
    folders = {
        path.name
        for top in ("recipes", "data", "models", "kernels", "bench")
        for path in (ROOT / top).iterdir()
        if (path / "__init__.py").exists()
    }
    named = {
        word[:-1].split("/")[-1] for word in PICTURE.replace("|", " ").split() if word.endswith("/")
    }
    tops = {"commands", "recipes", "bench", "data", "models", "kernels"}
    assert named - tops == folders


def imported(path):
    """Folders of this project that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fusedface":
            parts = node.module.split(".")[1:]
            yield from [parts[0]] if parts else [alias.name for alias in node.names]


@pytest.mark.parametrize("top", TOPS)
def test_the_table_says_which_folder_imports_which(top):
    files = [ROOT / "cli.py"] if top == "cli" else sorted((ROOT / top).rglob("*.py"))
    found = {name for file in files for name in imported(file)} & set(TOPS) - {top}
    name = "cli.py" if top == "cli" else f"{top}/"
    (row,) = re.findall(rf"^\| `{re.escape(name)}` \| (.*) \|$", PAGE, re.MULTILINE)
    said = set(re.findall(r"`(\w+)(?:\.py|/)`", row))
    assert said == found, f"the row of {name} in docs/architecture.md should name {sorted(found)}"


DEEPEST = 12
"""Modules in the longest chain of imports; __init__.py and __main__.py, which are ways in, do not count."""


def modules():
    """Path of each module of the package by name."""
    paths = [ROOT / "cli.py", *(path for top in TOPS[1:] for path in (ROOT / top).rglob("*.py"))]
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


def taken(tree):
    """(module, name) of each import of ours, wherever in a module, type checkers' own left out."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        return
    if isinstance(tree, ast.ImportFrom) and (tree.module or "").split(".")[0] == "fusedface":
        yield from ((tree.module.partition(".")[2], alias.name) for alias in tree.names)
    for node in ast.iter_child_nodes(tree):
        yield from taken(node)


def test_no_chain_of_imports_is_longer_than_its_bound():
    paths = modules()
    imports = {m: list(taken(ast.parse(p.read_text(encoding="utf-8")))) for m, p in paths.items()}

    def home(module, name):
        """The module that a name comes from: of what a package hands on, the one that it has it from."""
        if (inner := f"{module}.{name}".lstrip(".")) in paths:
            return inner
        if paths.get(module, ROOT).name == "__init__.py":
            handed_on = [source for source in imports[module] if source[1] == name]
            return home(*handed_on[0]) if handed_on else module
        return module

    @cache
    def chain(module):
        below = {home(*source) for source in imports.get(module, ())} - {module}
        longest = max(map(chain, below), key=len, default=())
        is_door = module not in paths or paths[module].name in ("__init__.py", "__main__.py")
        return longest if is_door else (module, *longest)

    longest = max(map(chain, paths), key=len)
    assert len(longest) <= DEEPEST, " > ".join(longest)
