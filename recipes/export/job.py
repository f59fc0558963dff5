"""What the writers of all formats are given."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fusedface.recipes.export.deployed import Deployed


@dataclass(frozen=True, eq=False)
class Job:
    """One export.

    Args:
        network: what is exported.
        step: how many steps it was trained, where known.
        calibration: makes (N, 3, H, W) float32 inputs of faces, for formats with integers.
        keep_float: layers and blocks that such formats leave float32.
    """

    network: Deployed
    step: int | None
    calibration: Callable[[], np.ndarray]
    keep_float: tuple[str, ...] = ()
