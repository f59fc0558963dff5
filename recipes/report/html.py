"""A report in one HTML file that opens offline, with embedded figures and sortable tables for any width."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from fusedface.recipes.host.terminal import visible


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Headline:
    """The main results, one sentence each."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Tags:
    """A cell of coloured words: text with "green", "yellow" or "red"."""

    words: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Link:
    """A cell with a link to a file or folder next to the report."""

    text: str
    target: str


@dataclass(frozen=True)
class Table:
    """Rows of text. The first cell names the row; a click on a heading sorts by its column."""

    columns: Sequence[str]
    rows: Sequence[Sequence["Cell"]]
    caption: str
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture, PNG or SVG, embedded in the file, with links to the PNG and SVG files next to it."""

    path: Path
    caption: str


Cell = str | Link | Tags
Section = Headline | Prose | Table | Figure

CSS = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881; --dim: light-dark(#555, #aaa);
  --green: light-dark(#0a6b3d, #7ee2a8); --yellow: light-dark(#7a5400, #f0c866);
  --red: light-dark(#a3211b, #ff9c94); --link: light-dark(#0b5cad, #8cc2ff); }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  overflow-wrap: break-word; }
h1 { font-size: 1.3rem; font-weight: 600; color: var(--dim); margin: 0 0 .5rem; }
.headline { font-size: 1.25rem; line-height: 1.45; margin: 0 0 1.5rem; padding: .9rem 1.1rem;
  border-left: 4px solid var(--link); background: var(--soft); }
.headline p { margin: .2rem 0; }
.headline p:first-child { font-weight: 650; font-size: 1.45rem; }
a { color: var(--link); }
table { border-collapse: collapse; margin: 1.2rem 0 .3rem; width: 100%;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0;
  border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; line-height: 1.25; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid; }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
td:first-child { font-weight: 600; }
.tag { display: inline-block; padding: 0 .5em; border-radius: .7em; font-size: .88em;
  margin: 0 .25em .15em 0; border: 1px solid currentColor; background: var(--soft); font-weight: 600;
  white-space: nowrap; }
.green { color: var(--green); } .yellow { color: var(--yellow); } .red { color: var(--red); }
figure { margin: 1.8rem 0; }
img { display: block; max-width: 100%; height: auto; background: white; padding: .5rem;
  border-radius: .4rem; }
.note, figcaption { color: var(--dim); font-size: .9em; }
@media (max-width: 760px) {
  thead { display: none; }
  table, caption, tbody, tr, td { display: block; width: 100%; }
  tr { padding: .5rem 0; border-bottom: 1px solid var(--line); }
  td { border: 0; padding: .1rem 0; display: grid; grid-template-columns: 45% 1fr; gap: .5rem; }
  td:first-child { display: block; font-size: 1.05em; }
  td:not(:first-child)::before { content: attr(data-label); color: var(--dim); font-size: .9em; }
  td:empty { display: none; }
}
"""

SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  table.querySelectorAll("th").forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const up = head.ariaSort !== "ascending";
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.ariaSort = up ? "ascending" : "descending";
    const value = row => {
      const text = row.cells[column].textContent.replaceAll(",", "").replace("+", "");
      const number = parseFloat(text);
      return Number.isNaN(number) ? text : number;
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
      return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
    });
    table.tBodies[0].append(...rows);
  }));
}
"""


def write_html(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the file and escape every text.

    Args:
        path: the file.
        title: heading of the report.
        sections: from top to bottom.
    """
    body = "\n".join(_html(section, path.parent) for section in sections)
    text = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
    path.write_text(text, encoding="utf-8")


def _html(section: Section, folder: Path) -> str:
    match section:
        case Headline(sentences):
            lines = "".join(f"<p>{escape(visible(line))}</p>" for line in sentences)
            return f'<div class="headline">{lines}</div>'
        case Prose(text):
            return f"<p>{escape(text)}</p>"
        case Figure(file, caption):
            return _figure(file, caption, folder)
        case Table():
            return _table(section)


def _figure(file: Path, caption: str, folder: Path) -> str:
    kind = "svg+xml" if file.suffix == ".svg" else "png"
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    said = escape(caption)
    return (
        f'<figure><img alt="{said}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{said} {_links(file, folder)}</figcaption></figure>"
    )


def _links(file: Path, folder: Path) -> str:
    """Links to the files of a figure, as seen from the folder of the report."""
    files = [path for suffix in (".png", ".svg") if (path := file.with_suffix(suffix)).exists()]
    places = [quote(Path(os.path.relpath(path, folder)).as_posix()) for path in files]
    kinds = [path.suffix[1:].upper() for path in files]
    return ", ".join(f'<a href="{p}">{k}</a>' for p, k in zip(places, kinds, strict=True))


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col"><button>{escape(c)}</button></th>' for c in table.columns)
    lines = "\n".join(_row(table.columns, row) for row in table.rows)
    under = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f"<table><caption>{escape(table.caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>\n{lines}\n</tbody></table>{under}"
    )


def _row(columns: Sequence[str], cells: Sequence[Cell]) -> str:
    """A row of a table; each cell names its column, for narrow screens."""
    named = zip(columns, cells, strict=True)
    inside = (f'<td data-label="{escape(name)}">{_cell(cell)}</td>' for name, cell in named)
    return f"<tr>{''.join(inside)}</tr>"


def _cell(cell: Cell) -> str:
    match cell:
        case Link(text, target):
            return f'<a href="{quote(target)}">{escape(visible(text))}</a>'
        case Tags(words):
            tags = (f'<span class="tag {c}">{escape(visible(w))}</span>' for w, c in words)
            return f"<span>{''.join(tags)}</span>"
    return escape(cell).replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
