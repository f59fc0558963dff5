"""A picture of pairs of images, such as the worst mistakes of a network, each with a caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from fusedface.data.contact_sheet import INK, MARGIN, PAPER, face_cell
from fusedface.data.sources import Images
from fusedface.data.sources.images import printable

COLUMNS = 4
CELL = (112, 112)  # H, W of an image
LINE, TITLE = 13, 24  # pixels
MOST_PAIRS = 64  # of a block
LONGEST = 38  # characters of a caption's line


@dataclass(frozen=True)
class Block:
    """Pairs under one title.

    Args:
        title: the text above the pairs.
        pairs: the indices of two images each.
        captions: the lines of text of each pair.
    """

    title: str
    pairs: Sequence[tuple[int, int]]
    captions: Sequence[Sequence[str]]


def pair_sheet(images: Images, blocks: Sequence[Block], path: Path) -> None:
    """Write the picture; a red cell is an unreadable image.

    Args:
        images: the images that the pairs index.
        blocks: the blocks, from the top down.
        path: of the picture, any kind that Pillow writes.

    Raises:
        ValueError: a block has too many pairs for a picture.
    """
    _check_blocks(blocks)
    height, width = _cell_size(blocks)
    tops, total = [], 0
    for block in blocks:
        tops.append(total)
        total += TITLE + max(1, -(-len(block.pairs) // COLUMNS)) * height
    sheet = Image.new("RGB", (COLUMNS * width + MARGIN, total + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for block, top in zip(blocks, tops, strict=True):
        draw.text((MARGIN, top + 6), shown(block.title, 2 * COLUMNS * LONGEST), fill=INK)
        for number, (pair, lines) in enumerate(zip(block.pairs, block.captions, strict=True)):
            left = MARGIN + number % COLUMNS * width
            upper = top + TITLE + number // COLUMNS * height
            for i, index in enumerate(pair):
                sheet.paste(face_cell(images, index, CELL), (left + i * (CELL[1] + 2), upper))
            _write_lines(draw, lines, left, upper + CELL[0] + 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _check_blocks(blocks: Sequence[Block]) -> None:
    for block in blocks:
        if len(block.pairs) > MOST_PAIRS:
            raise ValueError(f"a block has up to {MOST_PAIRS} pairs, got {len(block.pairs)}")


def _write_lines(draw: ImageDraw.ImageDraw, lines: Sequence[str], left: int, top: int) -> None:
    for i, line in enumerate(lines):
        draw.text((left, top + i * LINE), shown(line, LONGEST), fill=INK)


def shown(text: str, longest: int) -> str:
    """One line of at most this many characters; of longer text the end, which has a path's file name."""
    line = "".join(letter if letter.isprintable() else "?" for letter in printable(text))
    return line if len(line) <= longest else f"...{line[3 - longest :]}"


def _cell_size(blocks: Sequence[Block]) -> tuple[int, int]:
    """(H, W) of two images and their caption."""
    lines = max((len(c) for block in blocks for c in block.captions), default=0)
    return CELL[0] + lines * LINE + 3 * MARGIN, 2 * CELL[1] + 2 + 3 * MARGIN
