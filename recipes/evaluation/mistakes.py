"""The worst mistakes of a network as a picture: whoever looks at it finds wrong labels and broken crops."""

from pathlib import Path

import numpy as np

from fusedface.data.pair_sheet import Block, pair_sheet
from fusedface.recipes.evaluation.measure import Measured

NUM_WORST = 12


def worst_pairs(cosine: np.ndarray, sign: int) -> np.ndarray:
    """Positions of at most 12 cosines (P,), the highest first with sign 1, the lowest with -1."""
    return np.argsort(-sign * cosine, kind="stable")[:NUM_WORST]


def draw_mistakes(measured: Measured, path: Path) -> None:
    """Write the impostor pairs that look most alike and the genuine pairs that look least alike.

    Among the pairs that the thresholds rest on. The titles count those on the wrong side of the
    threshold with the fewest errors.

    Args:
        measured: of one set.
        path: where the picture goes.
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
    """The cosine, and the ends of both names: person and file, where images are files."""
    paths = [Path(measured.pairs.images.describe(index)) for index in pair]
    names = ["/".join(path.parts[-2:]) for path in paths]
    return [f"{measured.scores.cosine[position]:.3f}", *names]
