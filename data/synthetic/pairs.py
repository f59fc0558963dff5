"""Verification pairs of generated faces, half of the impostors look-alikes."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from fusedface.data.synthetic.source import SyntheticFaces


class IndexPairs(NamedTuple):
    """P pairs of images of a source; all arrays are (P,)."""

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray


def synthetic_pairs(
    source: "SyntheticFaces",
    num_pairs: int,
    *,
    folds: int = 10,
    seed: int = 0,
    within_family: float = 0.5,
) -> IndexPairs:
    """Draw verification pairs: each fold has as many genuine as impostor pairs.

    Args:
        source: generated faces with at least 2 images of each person.
        num_pairs: P, rounded up to a multiple of 2 `folds`.
        folds: number of folds.
        seed: of the choice.
        within_family: share of the impostor pairs that show look-alikes.

    Raises:
        ValueError: the source has one image of each person.
    """
    if source.images_per_identity < 2:
        raise ValueError("genuine pairs need at least 2 images of each person, the source has 1")
    people = np.arange(source.num_classes)
    family = np.array([source.family(int(i) * source.images_per_identity) for i in people])
    rng = np.random.default_rng(seed)
    per_fold = -(-num_pairs // (2 * folds))
    rows = []
    for i in range(folds * per_fold):
        fold = i // per_fold
        one = int(rng.choice(people))
        rows.append((*_two_images(source, one, one, rng), True, fold))
        other = _other_person(family, one, i % per_fold < within_family * per_fold, rng)
        rows.append((*_two_images(source, one, other, rng), False, fold))
    first, second, same, fold = (np.array(column) for column in zip(*rows, strict=True))
    return IndexPairs(first, second, same, fold)


def _other_person(family: np.ndarray, one: int, wants_alike: bool, rng: np.random.Generator) -> int:
    """Another person than `one`; of the same family, if that is wanted and it has one."""
    people = np.arange(len(family))
    others = people[people != one]
    alike = others[family[others] == family[one]]
    return int(rng.choice(alike if wants_alike and len(alike) > 0 else others))


def _two_images(
    source: "SyntheticFaces", one: int, other: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Two different images, of these people."""
    count = source.images_per_identity
    a = int(rng.integers(count))
    b = int((a + rng.integers(1, count)) % count) if one == other else int(rng.integers(count))
    return one * count + a, other * count + b
