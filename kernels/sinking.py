"""Whether the cosines of all classes will fall together, and how fast (docs/losses.md (10)-(13)).

    a        length of the mean of the unit embeddings, e their direction
    b        component of the mean of the unit class centres against e: -(mean of the unit centres) . e
    db/dt  = beta (N' - T'(c_y)) a (1 - b^2)           a step at a time
    beta   = lr / (1 - momentum) s / (C |w|^2)
    F0     = N' - T' at cosine 0

Found by summing the gradients of all class centres: what tells people apart drops out of the sum.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from fusedface.kernels.margins import Margin

CRITERION_SHARE = 0.5
"""Share of F0. A target cosine above it, about 80 steps after the warm-up, predicts that a run learns.
Fitted. On the committed map (docs/comparisons/map), values from 0.47 to 0.95 are right for as many runs."""
CRITERION_STEPS = 80
"""Steps after the warm-up. By then the embeddings have become similar, and separated again or not."""
BISECTIONS = 50
GRID = 200  # integration steps of the way down


class Moment(NamedTuple):
    """The quantities that moved the common component in the steps since the previous moment."""

    step: int
    gap: float
    """N' - T' of those steps."""
    spread: float
    """a at this step."""
    pace: float
    """beta of those steps."""


def pace(s: float, num_classes: int, centre_length: float, lr: float, momentum: float) -> float:
    """beta: how far one step moves the common component of the class centres, for N' - T' = 1.

    Args:
        s: scale.
        num_classes: C.
        centre_length: |w|, the mean length of the class centres.
        lr: the learning rate of the class centres.
        momentum: of SGD.
    """
    return lr / (1.0 - momentum) * s / (num_classes * max(centre_length, 1e-12) ** 2)


def learns_above(margin: Margin, target_gradient: str = "exact") -> float | None:
    """F0 / 2, the target cosine that predicts learning; None for a margin that lowers no cosine."""
    gap = margin.slope_gap(target_gradient=target_gradient)
    return CRITERION_SHARE * gap if gap > 1e-9 else None


def turning_cosine(margin: Margin, target_gradient: str = "exact") -> float | None:
    """The cosine above which the margin pulls all cosines up: sin(m / 2) for ArcFace.

    None where F0 is not above 0, or where there is none below 1.
    """
    if learns_above(margin, target_gradient) is None:
        return None
    low, high = 0.0, 1.0 - 1e-9
    if margin.slope_gap(high, target_gradient=target_gradient) > 0.0:
        return None
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        if margin.slope_gap(middle, target_gradient=target_gradient) > 0.0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def steps_down(
    margin: Margin, start: float, end: float, beta: float, target_gradient: str = "exact"
) -> float | None:
    """Steps in which the common force takes all cosines from `start` down to `end`, with a = 1.

    None where it does not take them there.
    """
    width = (start - end) / GRID
    total = 0.0
    for i in range(GRID):
        cosine = start - (i + 0.5) * width
        rate = margin.slope_gap(cosine, target_gradient=target_gradient) * (1.0 - cosine**2)
        if rate <= 0.0:
            return None
        total += width / rate
    return total / beta


def common_component(moments: Sequence[Moment], first: float) -> list[float]:
    """b at each moment by db/dt, from its measured value at the first of them; nothing is fitted."""
    found = [first]
    for before, after in pairwise(moments):
        spread = 0.5 * (before.spread + after.spread)
        speed = after.pace * after.gap * spread * (1.0 - found[-1] ** 2)
        found.append(found[-1] + speed * (after.step - before.step))
    return found
