"""Whether people of a verification set are also in the training set.

People are compared by the names of their folders, images byte for byte. Neither comparison finds
everyone: packs number their people, and an image that was encoded again has other bytes.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusedface.data.pair_list import PairList
from fusedface.data.sources import FaceSource, Images
from fusedface.data.sources.images import UnreadableImage

# Training images whose bytes are compared: as many as can be read in seconds.
COMPARED_IMAGES = 20_000
SHOWN_NAMES = 3


class Overlap(NamedTuple):
    """The overlap of a verification set with the training images."""

    names: tuple[str, ...]  # of people in both
    num_people: int  # people of the set whose names were compared; 0 if either side has no names
    images: int  # images of the set that are training images
    num_images: int  # in the set
    num_compared: int  # training images that they were compared with
    all_compared: bool  # whether these are all training images

    def __str__(self) -> str:
        """A sentence for people."""
        which = "" if self.all_compared else f" (of {self.num_compared:,} looked at)"
        found = []
        if self.names:
            more = ", ..." if len(self.names) > SHOWN_NAMES else ""
            shown = ", ".join(self.names[:SHOWN_NAMES])
            found.append(
                f"{len(self.names):,} of its {self.num_people:,} people have the names of training "
                f"people ({shown}{more})"
            )
        if self.images:
            found.append(
                f"{self.images:,} of its {self.num_images:,} images are training images{which}"
            )
        if found:
            return "; ".join(found)
        if self.num_people:
            return f"no name and no image of it is among the training people and images{which}"
        return f"no image of it is among the training images{which}; names cannot be compared"


def overlaps(source: FaceSource, tests: dict[str, PairList]) -> dict[str, Overlap]:
    """Compare the people and images of verification sets with the training images.

    Args:
        source: the training images.
        tests: the verification sets by name.
    """
    count = min(len(source), COMPARED_IMAGES)
    indices = np.linspace(0, len(source) - 1, count).round().astype(int)
    trained = set(_digests(source, indices.tolist()))
    return {name: _overlap(source, pairs, trained, count) for name, pairs in tests.items()}


def _overlap(source: FaceSource, pairs: PairList, trained: set[bytes], count: int) -> Overlap:
    images = pairs.images
    shared = sum(digest in trained for digest in _digests(images, range(len(images))))
    same_folder = _same(source.folder(), images.folder())
    # "0" in two places is a number, not a person.
    trained_on, people = (
        {name for name in names if same_folder or not name.isdigit()}
        for names in (source.people(), images.people())
    )
    return Overlap(
        tuple(sorted(trained_on & people)), len(people) if trained_on else 0, shared, len(images),
        count, count == len(source),
    )  # fmt: skip


def _same(one: Path | None, other: Path | None) -> bool:
    return one is not None and other is not None and one.resolve() == other.resolve()


def _digests(images: Images, indices: Iterable[int]) -> Iterator[bytes]:
    """Digests of the images that can be read."""
    for index in indices:
        try:
            yield blake2b(images.encoded(index), digest_size=16).digest()
        except UnreadableImage:
            continue
