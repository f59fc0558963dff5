"""The cures of sinking: settings that keep a margin from lowering all cosines (docs/convergence.md).

scale warm-up      a quarter of s for a tenth of the run, half of it for another, then s
margin warm-up     no margin for a tenth of the run, half of it for another, then m
softmax first      no margin until the target cosine passes sin(m / 2), above which ArcFace raises cosines
straight-through   the gradient of the target without the margin's slope: T' = 1
half scale         half of s for the whole run
"""

import math

from fusedface.kernels import Margin

PROBED = (-0.5, 0.0, 0.5)  # cosines at which two gradients are compared


def cures(margin: Margin) -> dict[str, str]:
    """The setting of each cure by its name, without those that change nothing in this margin."""
    s, m = margin.s, getattr(margin, "m", None)
    found = {"scale warm-up": f"schedule.loss=0.1 s={s / 4:g}, 0.2 s={s / 2:g}"}
    if m is not None:
        found["margin warm-up"] = f"schedule.loss=0.1 m=0, 0.2 m={m / 2:g}"
        found["softmax first"] = f"schedule.loss=0.9 cosine>{math.sin(m / 2):.3f} normface"
    if _has_slope(margin):
        found["straight-through"] = "head.target_gradient=straight_through"
    return found | {"half scale": f"head.margin.s={s / 2:g}"}


def _has_slope(margin: Margin) -> bool:
    """Whether the margin changes the slope of the target, T', from 1."""
    return any(
        abs(margin.slope_gap(c) - margin.slope_gap(c, target_gradient="straight_through")) > 1e-6
        for c in PROBED
    )
