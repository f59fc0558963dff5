"""The verdict `sunk`: the cosines of all classes fell together (docs/convergence.md, "Verdicts").

A margin loss falls when the network learns to distinguish people. It also falls when every embedding
turns away from every class centre, because a margin on the angle costs nothing at angles near pi. Three
figures of training distinguish the two cases. Each is a mean over the last tenth of the steps; a run that
has sunk meets all three conditions.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from fusedface.kernels import Margin
from fusedface.kernels.sinking import CRITERION_STEPS, learns_above, turning_cosine

Lines = Sequence[dict[str, Any]]

SUNK_COSINE = -0.1
"""The mean target cosine is below this. It is 0 for drawn weights, and hundreds of images determine it to
0.01. Runs between -0.1 and 0.1 may learn or sink."""
SUNK_GAP = 0.1
"""The target cosine exceeds that of the nearest other class by less than this. A margin of 0.5 demands at
least 0.12 (1 - cos m), so a smaller gap shows that the other cosines have fallen too."""
SUNK_ACCURACY = 0.5
"""The training accuracy is below this: the share of images that are nearest to their own class centre. A
network with a higher accuracy has learned, whatever its cosines are."""
LAST_SHARE = 0.1
FIGURES = ("target_cosine", "max_negative_cosine", "accuracy")


def sunk(train: Lines) -> tuple[int, str] | None:
    """If a run has sunk, the step since which its cosines are low, and a sentence; else None.

    Args:
        train: lines of kind "train", in order.
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
    """Text for the verdict: the early prediction of the criterion, and the turning point of the margin.

    Args:
        train: all lines of kind "train".
        margin: that of the head.
        target_gradient: that of the head.
        warmup_steps: those of the schedule.
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
    """Text for a better verdict if the target cosine is as low as in a sunk run; else empty."""
    cosine = train[-1].get("target_cosine", 0.0) if train else 0.0
    return f"; but the target cosine is {cosine:.2f}" if cosine < SUNK_COSINE else ""


def _last_means(train: Lines) -> tuple[float, float, float] | None:
    """Means of target cosine, nearest negative and accuracy at the end; None if one is not known."""
    begins = (1.0 - LAST_SHARE) * train[-1]["step"] if train else 0.0
    last = [line for line in train if line["step"] > begins]
    if not last or any(name not in line for line in last for name in FIGURES):
        return None
    cosine, nearest, accuracy = (fmean(line[name] for line in last) for name in FIGURES)
    return cosine, nearest, accuracy
