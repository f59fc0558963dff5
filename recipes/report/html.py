"""A report in one HTML file: opens offline, figures inside it, tables that sort."""

import base64
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
class Link:
    """A cell that leads to a file or folder beside the report."""

    text: str
    target: str


@dataclass(frozen=True)
class Table:
    """Rows of text; a click on a heading sorts by its column, all rows stay."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Link]]
    caption: str
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture, PNG or SVG, taken into the file."""

    path: Path
    caption: str


Section = Prose | Table | Figure

CSS = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0 .3rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem;
  border-bottom: 1px solid var(--line); }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid; }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; background: white; padding: .5rem; }
.note, figcaption { color: #777; font-size: .9em; }
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
    """Write the file; every text is escaped.

    Args:
        path: of the file.
        title: its heading.
        sections: from top to bottom.
    """
    body = "\n".join(_html(section) for section in sections)
    text = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
    path.write_text(text, encoding="utf-8")


def _html(section: Section) -> str:
    match section:
        case Prose(text):
            return f"<p>{escape(text)}</p>"
        case Figure(file, caption):
            kind = "svg+xml" if file.suffix == ".svg" else "png"
            data = base64.b64encode(file.read_bytes()).decode("ascii")
            said = escape(caption)
            return (
                f'<figure><img alt="{said}" src="data:image/{kind};base64,{data}">'
                f"<figcaption>{said}</figcaption></figure>"
            )
        case Table(columns, rows, caption, note):
            heads = "".join(f'<th scope="col"><button>{escape(c)}</button></th>' for c in columns)
            lines = "\n".join(
                f"<tr>{''.join(f'<td>{_cell(c)}</td>' for c in row)}</tr>" for row in rows
            )
            under = f'<p class="note">{escape(note)}</p>' if note else ""
            return (
                f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{heads}</tr>'
                f"</thead><tbody>\n{lines}\n</tbody></table></div>{under}"
            )


def _cell(cell: str | Link) -> str:
    if isinstance(cell, Link):
        return f'<a href="{quote(cell.target)}">{escape(visible(cell.text))}</a>'
    return escape(cell).replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
