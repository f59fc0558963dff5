"""Count images whose size differs from a network's input, before they are scaled."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from fusedface.data.sources import Images
from fusedface.data.sources.images import UnreadableImage, image_size

LOOKED_AT = 1000  # images, spread over a source; only their headers are read
SHOWN_SIZES = 4
MAX_SHARE = 0.05  # of images of other sizes, unless scaling was asked for


class OtherSizes(NamedTuple):
    """The images of another size than asked for, among those that were looked at."""

    size: tuple[int, int]  # H, W that is asked for
    num_images: int  # images of the source
    num_looked_at: int  # images among them whose headers can be read
    others: Counter[tuple[int, int]]  # (H, W) that differ, and how many images have them

    @property
    def num_others(self) -> int:
        """Number of images that differ."""
        return self.others.total()

    def __str__(self) -> str:
        """Such as "3 of 9 images are not 112x112 (250x250: 2, 48x64: 1)"."""
        shown = [f"{h}x{w}: {count:,}" for (h, w), count in self.others.most_common(SHOWN_SIZES)]
        if len(self.others) > SHOWN_SIZES:
            shown.append(f"{len(self.others) - SHOWN_SIZES} more sizes")
        which = "images" if self.num_looked_at == self.num_images else "images looked at"
        height, width = self.size
        return (
            f"{self.num_others:,} of {self.num_looked_at:,} {which} are not {height}x{width} "
            f"({', '.join(shown)})"
        )


def other_sizes(images: Images, size: tuple[int, int]) -> OtherSizes:
    """Look at images spread over a source; at all images of a small one.

    Args:
        images: the source.
        size: (H, W) that the images should have.
    """
    indices = np.linspace(0, len(images) - 1, min(LOOKED_AT, len(images))).round().astype(int)
    found: Counter[tuple[int, int]] = Counter()
    for index in indices.tolist():
        try:
            found[image_size(images.encoded(index), images.describe(index))] += 1
        except UnreadableImage:
            continue  # reported when the image is needed
    looked_at = found.total()
    del found[size]
    return OtherSizes(size, len(images), looked_at, found)


def scaled_note(images: Images, size: tuple[int, int], name: str) -> str | None:
    """A line that says how many images are scaled; None if all have the size.

    Args:
        images: the source.
        size: (H, W) that the images should have.
        name: of the source, for the line.
    """
    others = other_sizes(images, size)
    return f"{name}: {others}; they are scaled" if others.num_others else None


def check_sizes(images: Images, size: tuple[int, int], name: str, *, resize: bool) -> str | None:
    """A warning if training images have another size than the network takes; None if all have that size.

    Args:
        images: the training images.
        size: (H, W) of the network's input.
        name: of the source, for messages.
        resize: whether any share of the images may be scaled.

    Raises:
        ValueError: too many images have another size, and `resize` is False.
    """
    others = other_sizes(images, size)
    if not others.num_others:
        return None
    if not resize and others.num_others > MAX_SHARE * others.num_looked_at:
        raise ValueError(
            f"{name}: {others}. Scaled as they are, faces would not lie where the network looks for "
            "them: crop them by landmarks (data align), or set data.resize=true if they are aligned "
            "crops of another size"
        )
    return f"{name}: {others}; they are scaled"
