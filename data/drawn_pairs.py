"""Verification pairs drawn from labelled faces, for sets without a pair list."""

import numpy as np

from fusedface.data.pair_list import NUM_FOLDS, PairList, from_index_pairs
from fusedface.data.sources import FaceSource, SomeIdentities, SomeImages


def fewer_people(source: FaceSource, max_images: int) -> FaceSource:
    """The source, or some of its people, spread over it, if it has more than `max_images` images.

    They are two people at least, also where those have more images, for pairs are of one or of two.
    """
    counts = np.bincount(source.labels, minlength=source.num_classes)
    if len(source) <= max_images:
        return source
    step = np.random.default_rng(0).permutation(source.num_classes)
    num_people = max(int((np.cumsum(counts[step]) <= max_images).sum()), 2)
    if num_people >= source.num_classes:
        return source
    return SomeIdentities(source, np.sort(step[:num_people]).tolist())


def sample_pairs(source: FaceSource, num_pairs: int, *, whole: bool = False) -> PairList:
    """Draw distinct pairs of images, half of them genuine, in ten folds; the same pairs at every call.

    Args:
        source: where the images come from.
        num_pairs: the largest number of pairs; a small source has fewer.
        whole: also keep the images that are in no pair, so that all pairs can be scored.

    Raises:
        ValueError: there are too few genuine pairs, or no impostor pairs.
    """
    rng = np.random.default_rng(0)
    genuine = _genuine_pairs(source.labels, num_pairs // 2, rng)
    if len(genuine) < NUM_FOLDS:
        raise ValueError(
            f"verification needs at least {NUM_FOLDS} pairs of images of one person, the people there "
            f"are for it have {len(genuine)}; give a list with --pairs"
        )
    impostor = _impostor_pairs(source.labels, len(genuine), rng)
    if not len(impostor):
        raise ValueError(
            f"verification needs pairs of images of two people, none was drawn from {len(source):,} images "
            f"of {len(np.unique(source.labels)):,} people; give a list with --pairs"
        )
    pairs = np.concatenate([genuine, impostor])
    same = np.arange(len(pairs)) < len(genuine)
    fold = np.concatenate([np.arange(len(part)) % NUM_FOLDS for part in (genuine, impostor)])
    if whole:
        images = SomeImages(source, np.arange(len(source)))
        return PairList(images, pairs[:, 0], pairs[:, 1], same, fold, drawn=True)
    return from_index_pairs(source, pairs[:, 0], pairs[:, 1], same, fold)


def _genuine_pairs(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """At most `count` different pairs (P, 2) of images of one person, out of all of them shuffled.

    All are numbered, person by person, and only the drawn ones are made: VGGFace2's 500 people that are
    kept back have 32 million.
    """
    images = np.argsort(labels, kind="stable")  # those of a person together
    sizes = np.unique(labels, return_counts=True)[1]
    ends, pair_ends = np.cumsum(sizes), np.cumsum(sizes * (sizes - 1) // 2)
    drawn = rng.permutation(int(pair_ends[-1]) if len(sizes) else 0)[:count]
    person = np.searchsorted(pair_ends, drawn, side="right")
    pairs = np.empty((len(drawn), 2), dtype=np.int64)
    for which in np.unique(person):
        size, of = int(sizes[which]), person == which
        own = images[ends[which] - size : ends[which]]
        numbers = drawn[of] - pair_ends[which] + size * (size - 1) // 2
        pairs[of] = own[_pair_of(numbers, size)]
    return pairs


def _pair_of(numbers: np.ndarray, size: int) -> np.ndarray:
    """The pairs (n, 2) of `size` things with these numbers: 0 1, 0 2, ..., 1 2, 1 3, ..."""
    one = np.arange(size)
    begins = one * (2 * size - one - 1) // 2  # the number of the first pair of each
    first = np.searchsorted(begins[:-1], numbers, side="right") - 1
    return np.stack([first, numbers - begins[first] + first + 1], axis=1)


def _impostor_pairs(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """At most `count` different pairs (P, 2) of images of two people."""
    drawn = np.sort(rng.integers(len(labels), size=(4 * count, 2)), axis=1)
    drawn = np.unique(drawn[labels[drawn[:, 0]] != labels[drawn[:, 1]]], axis=0)
    return rng.permutation(drawn)[:count]
