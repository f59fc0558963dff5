"""The documentation: the site builds, its links lead somewhere, its commands and names exist."""

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer

from fusedface.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it that a link may name."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.places = set(), set(), {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])
        elif given.get("src"):
            self.loads.add(given["src"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            self.loads.add(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages of the built site by their path."""
    pytest.importorskip("zensical")
    here = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", here / "docs")
    shutil.copy(ROOT / "zensical.toml", here)
    (here / "build" / "types").mkdir(parents=True)
    (here / "build" / "types" / "fusedface").symlink_to(ROOT)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=here,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built = here / "build" / "site"
    return {
        path.resolve(): Page(path)
        for path in built.rglob("*.html")
        if "comparisons" not in path.parts
    }


def test_every_link_of_the_site_leads_somewhere(site):
    dead = []
    for path, page in site.items():
        for link in page.links | page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists() or (
                target in site and parts.fragment not in site[target].places
            ):
                dead.append(f"{path.name}: {link}")
    assert not dead, "\n".join(sorted(dead))


def test_the_site_loads_nothing_from_elsewhere(site):
    assert not [load for page in site.values() for load in page.loads if urlsplit(load).netloc]


def test_every_page_is_in_the_navigation(site):
    index = next(page for path, page in site.items() if path.name == "index.html")
    linked = {urlsplit(link).path.removeprefix("./") for link in index.links}
    pages = {
        p.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        for p in PAGES
        if "docs" in p.parts
    }
    assert pages - {"index.html"} <= linked


def test_the_reference_names_the_public_functions(site):
    (kernels,) = [page for path, page in site.items() if path.name == "kernels.html"]
    public = ("margin_loss", "HeadOptions", "MarginOutput", "CurricularFace", "SelfPaced")
    assert {f"fusedface.kernels.{name}" for name in public} <= kernels.places


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_files_that_the_front_pages_link_to_exist(name):
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [urlsplit(link) for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert links
    assert [x.path for x in links if not x.scheme and x.path and not (ROOT / x.path).exists()] == []


def blocks(language):
    """(page, text) for each fenced block of a language."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL):
            yield page, block


def test_python_on_the_pages_imports_what_exists():
    for page, block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("fusedface"):
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name), f"{page.name}: {node.module}.{name.name}"


def commands():
    """(page, words) for each call of the command line in a block of shell."""
    for page, block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if "cli.py " in line:
                yield page, shlex.split(line.split("cli.py ", 1)[1].split("&&")[0], comments=True)


def test_commands_on_the_pages_have_options_that_exist():
    root = typer.main.get_command(app)
    for page, words in commands():
        command, given = root, list(words)
        while hasattr(command, "commands") and given and given[0] in command.commands:
            command = command.commands[given.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts} | {
            "--help",
            "...",
        }
        used = {word.split("=")[0] for word in given if word.startswith("--")}
        assert not hasattr(command, "commands") or used <= {"--help", "--version"}, (
            f"{page.name}: {words}"
        )
        assert used <= known, f"{page.name}: {' '.join(words)}: {sorted(used - known)}"


def test_the_page_of_commands_is_what_the_commands_say(tmp_path):
    """CONTRIBUTING.md has the command that writes it."""
    made = tmp_path / "commands.md"
    subprocess.run(
        [sys.executable, "-m", "typer", "fusedface.cli", "utils", "docs", "--name", "cli.py",
         "--title", "Commands", "--output", str(made)], check=True, capture_output=True,
    )  # fmt: skip
    assert (ROOT / "docs" / "commands.md").read_text() == made.read_text()
