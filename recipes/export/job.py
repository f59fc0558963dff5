"""The argument of the writers of all formats."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fusedface.recipes.export.deployed import Deployed

NUM_CALIBRATION = 256  # faces, at most, for `Job.calibration`


@dataclass(frozen=True, eq=False)
class Job:
    """One export.

    Args:
        network: the network to export.
        step: number of steps that it was trained, if known.
        calibration: makes (N, 3, H, W) float32 inputs of faces, for formats with integers.
        keep_float: layers and blocks that stay float32 in such formats.
    """

    network: Deployed
    step: int | None
    calibration: Callable[[], np.ndarray]
    keep_float: tuple[str, ...] = ()
