"""A picture of a source: one row per identity, with its images side by side."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fusedface.data.sources import FaceSource, Images
from fusedface.data.sources.images import UnreadableImage
from fusedface.data.transforms import fit

MAX_ROWS = MAX_COLUMNS = 64  # 165 MB of pixels at 112x112
MARGIN, LABEL_WIDTH = 4, 110  # pixels
INK, PAPER, BROKEN = (40, 40, 40), (255, 255, 255), (220, 120, 120)


def contact_sheet(
    source: FaceSource,
    path: Path,
    *,
    num_identities: int = 8,
    images_per_identity: int = 8,
    cell: tuple[int, int] = (112, 112),
) -> None:
    """Write a sheet of the first identities of a source.

    Args:
        source: where the faces come from.
        path: the picture to write, any kind that Pillow writes.
        num_identities: the largest number of rows.
        images_per_identity: the largest number of columns.
        cell: (H, W) in pixels to which images are scaled; an unreadable one is a red cell.

    Raises:
        ValueError: there are no rows or columns, or too many for a picture.
    """
    check_sheet(num_identities, images_per_identity)
    rows = min(num_identities, source.num_classes)
    height, width = cell
    size = (
        LABEL_WIDTH + images_per_identity * (width + MARGIN) + MARGIN,
        rows * (height + MARGIN) + MARGIN,
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for row in range(rows):
        top = MARGIN + row * (height + MARGIN)
        draw.text((MARGIN, top + height // 2 - 6), str(source.class_names[row])[:18], fill=INK)
        for column, index in enumerate(np.flatnonzero(source.labels == row)[:images_per_identity]):
            left = LABEL_WIDTH + column * (width + MARGIN)
            sheet.paste(face_cell(source, int(index), cell), (left, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def check_sheet(num_identities: int, images_per_identity: int) -> None:
    """Raise ValueError unless a sheet can have this many rows and columns."""
    for what, number, limit in (
        ("identities (rows)", num_identities, MAX_ROWS),
        ("images (columns)", images_per_identity, MAX_COLUMNS),
    ):
        if not 1 <= number <= limit:
            raise ValueError(f"a sheet has 1 to {limit} {what}, got {number}")


def face_cell(images: Images, index: int, cell: tuple[int, int]) -> Image.Image:
    """An image scaled to `cell` (H, W), or a red one where it cannot be read."""
    try:
        return Image.fromarray(np.ascontiguousarray(fit(images.image(index), cell)))
    except UnreadableImage:
        return Image.new("RGB", (cell[1], cell[0]), BROKEN)
