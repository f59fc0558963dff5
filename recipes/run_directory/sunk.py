"""The verdict `sunk`: the cosines of all classes fell together (docs/convergence.md, "Verdicts").

A margin loss falls when the network tells people apart, and it also falls when every embedding turns
away from every class centre: on the far side of the sphere a margin on the angle costs nothing. Three
figures of training tell the two apart, each a mean over the last tenth of the steps, and all must hold.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from fusedface.kernels import Margin
from fusedface.kernels.sinking import CRITERION_STEPS, learns_above, turning_cosine

Lines = Sequence[dict[str, Any]]

SUNK_COSINE = -0.1
"""The target cosine is below this. It is 0 for drawn weights, and the mean of hundreds of images is
known to 0.01; between -0.1 and 0.1 runs go either way."""
SUNK_GAP = 0.1
"""It exceeds that of the nearest other class by less than this. A margin of 0.5 asks for 0.12 where it
asks for least (1 - cos m), so the others have fallen with it."""
SUNK_ACCURACY = 0.5
"""Fewer training images than this share are nearer to their own class centre than to any other. A network
that tells most of them right has learned, wherever its cosines are."""
LAST_SHARE = 0.1
FIGURES = ("target_cosine", "max_negative_cosine", "accuracy")


def sunk(train: Lines) -> tuple[int, str] | None:
    """Whether a run has sunk: the step since which its cosines are low, and a sentence; None if not.

    Args:
        train: lines of kind "train", in their order.
    """
    last = _last_means(train)
    if last is None:
        return None
    cosine, nearest, accuracy = last
    if cosine >= SUNK_COSINE or cosine - nearest >= SUNK_GAP or accuracy >= SUNK_ACCURACY:
        return None
    since = train[-1]["step"]
    for line in reversed(train):
        if line.get("target_cosine", 0.0) >= SUNK_COSINE:
            break
        since = line["step"]
    return since, (
        f"all cosines fell together: that of the own class is below {SUNK_COSINE:g} from step {since} and "
        f"ends at {cosine:.2f}, that of the nearest other class at {nearest:.2f}; the training accuracy is "
        f"{accuracy:.1%}"
    )


def foretold(train: Lines, margin: Margin, target_gradient: str, warmup_steps: int) -> str:
    """What to add to the verdict: what the criterion said early, and where the margin would have turned.

    Args:
        train: all lines of kind "train".
        margin: of the head.
        target_gradient: of the head.
        warmup_steps: of the schedule.
    """
    above = learns_above(margin, target_gradient)
    turn = turning_cosine(margin, target_gradient)
    asked = [line for line in train if line["step"] >= warmup_steps + CRITERION_STEPS]
    text = ""
    if above is not None and asked and "target_cosine" in asked[0]:
        step, cosine = asked[0]["step"], asked[0]["target_cosine"]
        side = "below" if cosine <= above else "above"
        text += f"; at step {step} it was {cosine:.3f}, {side} the F0/2 = {above:.3f} of a run that learns"
    if turn is not None:
        text += f"; above {turn:.2f} the margin would have raised all cosines"
    return text


def low_cosine(train: Lines) -> str:
    """What to add to a better verdict where the target cosine is as low as in a run that sank."""
    cosine = train[-1].get("target_cosine", 0.0) if train else 0.0
    return f"; but the target cosine is {cosine:.2f}" if cosine < SUNK_COSINE else ""


def _last_means(train: Lines) -> tuple[float, float, float] | None:
    """Target cosine, nearest negative and training accuracy, over the end; None where one is not known."""
    begins = (1.0 - LAST_SHARE) * train[-1]["step"] if train else 0.0
    last = [line for line in train if line["step"] > begins]
    if not last or any(name not in line for line in last for name in FIGURES):
        return None
    cosine, nearest, accuracy = (fmean(line[name] for line in last) for name in FIGURES)
    return cosine, nearest, accuracy
