"""Images of other sizes than a network takes: how many there are, before they are scaled."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from fusedface.data.sources import Images
from fusedface.data.sources.images import UnreadableImage, image_size

LOOKED_AT = 1000  # images of a source, spread over it: headers are read, not pixels
SHOWN_SIZES = 4
MAX_SHARE = 0.05  # of images of other sizes, unless they are to be scaled


class OtherSizes(NamedTuple):
    """Images of another size than asked for, among those that were looked at."""

    size: tuple[int, int]  # H, W that is asked for
    num_images: int  # in all
    num_looked_at: int  # of those, whose headers can be read
    others: Counter[tuple[int, int]]  # (H, W) that differ, and how many images have them

    @property
    def num_others(self) -> int:
        """How many differ."""
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
    """Look at images spread over a source, all of a small one.

    Args:
        images: where they come from.
        size: (H, W) that they should have.
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


def check_sizes(images: Images, size: tuple[int, int], name: str, *, resize: bool) -> str | None:
    """What is to be said of images to train on that have another size than the network takes.

    Args:
        images: to train on.
        size: (H, W) of what the network takes.
        name: of the source, for messages.
        resize: whether any share of them may be scaled.

    Raises:
        ValueError: too many have another size, and they are not to be scaled.
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
