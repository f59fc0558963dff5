"""A picture of the worst mistakes of a network, which often shows wrong labels and broken crops."""

from pathlib import Path

import numpy as np

from fusedface.data.pair_sheet import Block, pair_sheet
from fusedface.recipes.evaluation.measure import Measured

NUM_WORST = 12


def worst_pairs(cosine: np.ndarray, sign: int) -> np.ndarray:
    """Positions of at most 12 cosines (P,), the highest first with sign 1, the lowest with -1."""
    return np.argsort(-sign * cosine, kind="stable")[:NUM_WORST]


def draw_mistakes(measured: Measured, path: Path) -> None:
    """Draw the impostor pairs with the highest and the genuine pairs with the lowest cosines.

    They come from the pairs behind the thresholds. The titles count the pairs on the wrong side of the
    threshold with the fewest errors.

    Args:
        measured: the measurements on one set.
        path: the file to write.
    """
    scores, threshold = measured.scores, measured.thresholds.best
    wrong = (scores.cosine > threshold) != scores.same
    blocks = []
    for same, sign, what in (
        (False, 1, "Two people, most alike"),
        (True, -1, "One person, least alike"),
    ):
        kind = np.flatnonzero(scores.same == same)
        shown = kind[worst_pairs(scores.cosine[kind], sign)]
        side = "rejected" if same else "accepted"
        title = (
            f"{what}: {wrong[kind].sum():,} of {len(kind):,} pairs are {side} at {threshold:.3f}"
        )
        pairs = [(int(scores.first[p]), int(scores.second[p])) for p in shown]
        captions = [_caption(measured, p, pair) for p, pair in zip(shown, pairs, strict=True)]
        blocks.append(Block(title, pairs, captions))
    pair_sheet(measured.pairs.images, blocks, path)


def _caption(measured: Measured, position: int, pair: tuple[int, int]) -> list[str]:
    """The cosine, and the ends of both names (person and file, if images are files)."""
    paths = [Path(measured.pairs.images.describe(index)) for index in pair]
    names = ["/".join(path.parts[-2:]) for path in paths]
    return [f"{measured.scores.cosine[position]:.3f}", *names]
