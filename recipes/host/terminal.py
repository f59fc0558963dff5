"""Output on the terminal: safe text, errors of bounded length, tables that fit the width.

Names of files, folders, recipes and people may contain control characters or markup, which must not take
effect. So every text goes through `plain`, every line through `say`, and every table is a `Table`.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

LONGEST_MESSAGE = 4000  # characters; names and lists inside a message may be longer
LONGEST_CELL = 300
GAP = 2  # blanks between two columns of a table
SHARE_OF_TEXT = 3  # a column of text may be narrowed to this fraction of the width: 1/3
UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories of characters that control the terminal or are invisible."""
HARMLESS = frozenset(
    "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
)  # part of names in some scripts


def visible(text: str, keep: str = "") -> str:
    r"""`text` with control characters replaced by their escapes, such as \x1b.

    Args:
        text: any text; bytes of a file name that are not UTF-8 are escaped too.
        keep: characters that stay, such as a newline.
    """
    if text.isascii() and text.isprintable():
        return text
    allowed = HARMLESS.union(keep)
    return "".join(
        letter
        if letter in allowed or unicodedata.category(letter) not in UNSAFE
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def bounded(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """A text; of a long one the beginning and the end, and how much is left out between them."""
    if len(text) <= longest:
        return text
    end = longest // 4
    left_out = len(text) - longest
    return f"{text[: longest - end]} [... {left_out:,} characters ...] {text[-end:]}"


def error_text(error: Exception) -> str:
    """The message of an error, safe for a terminal or a log; it may have several lines."""
    return bounded(visible(str(error), keep="\n"))


class LastingConsole(Console):
    """A console that goes quiet when nobody reads its output any more, such as a `tee` that has ended.

    rich would end the program there, and a run would save nothing.
    """

    def on_broken_pipe(self) -> None:
        """Print nothing more."""
        with suppress(SystemExit):
            super().on_broken_pipe()


def print_error(error: Exception) -> None:
    """Print an error's message to standard error."""
    text = Text.assemble(("error:", "red"), " ", error_text(error))
    Console(stderr=True).print(text, soft_wrap=True, highlight=False)


def plain(text: str, style: str = "") -> Text:
    """A text on one line, without markup, in one style."""
    return Text(bounded(visible(text)), style=style)


def say(console: Console, text: str | Text, style: str = "") -> None:
    """Print a line without wrapping it, because log files are searched by line."""
    line = plain(text, style) if isinstance(text, str) else text
    console.print(line, soft_wrap=True, highlight=False)


@contextmanager
def working(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """Show a text on a terminal while the block runs; the yielded function changes the text."""
    with console.status(plain(text)) as status:
        yield lambda changed: status.update(plain(changed))


def _literal(cell: str | Text) -> Text:
    """A cell of a table; a string is bounded and taken literally."""
    return Text(bounded(visible(cell), LONGEST_CELL)) if isinstance(cell, str) else cell


class Table:
    """Rows of text and figures, for `Console.print`. Figures are never cut or broken.

    A table that is too wide becomes several tables, each with the key columns. If these would hold only a
    figure or two, each row becomes a paragraph.

    Args:
        title: text above the table.
        text: headings of the first columns, which hold text and may wrap.
        figures: headings of the other columns.
        num_keys: number of first columns that identify a row. With two, the first is not repeated from row
            to row.
    """

    def __init__(
        self, title: str, text: Sequence[str], figures: Sequence[str] = (), num_keys: int = 1
    ) -> None:
        self.title, self.num_keys = title, num_keys
        self.headings = [plain(heading, "bold") for heading in (*text, *figures)]
        self.is_text = [True] * len(text) + [False] * len(figures)
        self.rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row with one cell per column; strings are taken literally."""
        if len(cells) != len(self.headings):
            raise ValueError(f"a row needs {len(self.headings)} cells, got {len(cells)}")
        self.rows.append([_literal(cell) for cell in cells])

    def add_rows(self, rows: Iterable[Sequence[str | Text]]) -> None:
        """Add rows, each as `add_row` does."""
        for row in rows:
            self.add_row(*row)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The layout that fits the width."""
        width = options.max_width
        if self.title:
            yield plain(self.title, "italic")
        parts = self._parts(width)
        if parts is None:
            yield from self._paragraphs(width)
            return
        for number, part in enumerate(parts):
            if number:
                yield Text()
            yield self._rich(part, width)

    def _parts(self, width: int) -> list[list[int]] | None:
        """The columns of each table without the keys; None if paragraphs are better."""
        keys = list(range(self.num_keys))
        room = width - sum(self._least(i, width) + GAP for i in keys)
        parts: list[list[int]] = [[]]
        left = room
        for i in range(self.num_keys, len(self.headings)):
            need = self._least(i, width) + (GAP if parts[-1] else 0)
            if need > left:
                parts.append([])
                need, left = need - GAP, room
            if need > left:
                return None
            parts[-1].append(i)
            left -= need
        if len(parts) > 1 and len(self.headings) - self.num_keys < 2 * len(parts):
            return None
        return [keys + part for part in parts]

    def _rich(self, part: Sequence[int], width: int) -> RichTable:
        table = RichTable(
            box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0),
            show_header=any(heading.plain for heading in self.headings),
        )  # fmt: skip
        widths = {i: self._least(i, width) for i in part}
        left = width - sum(widths.values()) - GAP * (len(part) - 1)
        for i in part:
            more = min(left, max(0, self._most(i) - widths[i]))
            widths[i], left = widths[i] + more, left - more
            justify = "left" if self.is_text[i] else "right"
            table.add_column(self.headings[i], justify=justify, width=widths[i], overflow="fold")
        for number, row in enumerate(self.rows):
            cells = [row[i] for i in part]
            if self.num_keys > 1 and number:
                if row[0] == self.rows[number - 1][0]:
                    cells[0] = Text()
                else:
                    table.add_section()
            table.add_row(*cells)
        return table

    def _paragraphs(self, width: int) -> RenderResult:
        for row in self.rows:
            keys = [cell.plain for cell in row[: self.num_keys] if cell.plain]
            yield Text(", ".join(keys), style="bold", overflow="fold")
            for heading, cell in list(zip(self.headings, row, strict=True))[self.num_keys :]:
                if not cell.plain:
                    continue
                value = Text(" ").join(cell.split("\n"))
                line = Text.assemble(
                    "  ", Text(heading.plain), ": " if heading.plain else "", value
                )
                if cell_len(line.plain) <= width:
                    yield line
                    continue
                yield Text(f"  {heading.plain}:")
                wrapped = value.wrap(Console(width=width), max(1, width - 4), overflow="fold")
                for piece in wrapped:
                    yield Text.assemble("    ", piece)

    def _cells(self, i: int) -> list[str]:
        return [line for row in self.rows for line in row[i].plain.split("\n")]

    def _most(self, i: int) -> int:
        """The width of a column without wrapping."""
        return max(map(cell_len, [self.headings[i].plain, *self._cells(i)]))

    def _least(self, i: int, width: int) -> int:
        """The least width of a column: figures stay whole, and words unless they are long."""
        heading = self.headings[i].plain
        words = heading.split()
        if not self.is_text[i]:
            lines = [cell_len(line) for line in (*words, *self._cells(i))]
            return max([*lines, cell_len(heading) // 2])
        words += [word for line in self._cells(i) for word in line.split()]
        return min(max(map(cell_len, words), default=0), max(1, width // SHARE_OF_TEXT))
