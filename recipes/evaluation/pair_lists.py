"""The pair lists that a command line names: each by its name, and fit for figures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fusedface.data import PairList, read_pairs


def read_lists(paths: Sequence[str | Path], root: str | Path | None) -> dict[str, PairList]:
    """Pair lists by name, the name of the file without its suffix.

    Args:
        paths: lists and .bin files.
        root: see `read_pairs`.

    Raises:
        ValueError: two have the same name, one cannot be read, or its pairs are all in one fold.
    """
    check_names([Path(path).stem for path in paths])
    return {Path(path).stem: _fit_for_figures(path, root) for path in paths}


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError if two sets would have the same name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"sets are named after their files: {twice!r} is given twice, rename one")


def _fit_for_figures(path: str | Path, root: str | Path | None) -> PairList:
    """The pairs of a list, if they are in several folds."""
    pairs = read_pairs(path, root)
    if len(np.unique(pairs.fold)) < 2:
        raise ValueError(
            f"{path}: all {len(pairs)} pairs are in one fold, but the accuracy of a fold takes its "
            "threshold from the others; give a list of at least two folds"
        )
    return pairs
