"""The verdict on a run, from its metrics only.

non_finite    a loss, gradient or weight became NaN or infinite
interrupted   a signal stopped it
collapsed     at its end the loss was that of a network whose cosines are all equal (closed form)
sunk          the cosines of all classes fell together, and training accuracy is low (`sunk.py`)
chance        it verifies no better than chance, or than the same network with drawn weights
unfinished    it learned, and its accuracy was still rising when its steps were over
converged     it learned, and its accuracy had stopped rising

The first verdict that fits applies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fusedface.kernels import Margin
from fusedface.kernels.sinking import CRITERION_STEPS
from fusedface.recipes.run_directory.metrics import accuracies_of
from fusedface.recipes.run_directory.sunk import foretold, low_cosine, sunk

Ended = Literal["finished", "interrupted", "non_finite"]
Verdict = Literal[
    "converged", "unfinished", "chance", "sunk", "collapsed", "non_finite", "interrupted"
]
Lines = Sequence[dict[str, Any]]

COLLAPSE_BAND = 0.03
"""Relative distance from `Margin.collapse_loss` at the mean target cosine of the line; for cosines of 0
it is s sin m + ln C (+ s (t - 1) for MV). Noise of a batch and the spread of cosines stay within the band;
the loss of a network that distinguishes people is far below."""
COLLAPSE_STEPS = 100
"""A collapsed run stays in the band for these steps, or a tenth of the run if that is more. Healthy runs
pass through the band in their first tens of steps, while batch normalisation and class centres find their
scale."""
CHANCE_SIGMAS = 3.0
"""Accuracy within this many standard errors of 50 % (binomial over the pairs) is chance."""
LATE_SHARE = 0.1
"""The last part of a run, which shows whether it was still rising. It is short, because most of the gain
comes in the last quarter, where the rate falls, and then stops."""
LATE_GAIN = 0.005
"""A run that gains more accuracy than this in that part is still rising. Half a percentage point is about
the standard error of accuracy on some thousands of pairs."""
LATE_FALL = 0.02
"""Without such evaluations, a run is still rising if more than this share of the loss's fall is in that
part."""


@dataclass(frozen=True)
class Judgement:
    """A verdict, the step where the run went wrong (None if it did not), and a sentence."""

    verdict: Verdict
    step: int | None
    message: str


def judge(
    lines: Lines,
    *,
    ended: Ended,
    end_message: str,
    end_step: int,
    margin: Margin,
    num_classes: int,
    margin_begins: int = 0,
    from_weights: bool = False,
    target_gradient: str = "exact",
    warmup_steps: int = 0,
) -> Judgement:
    """Judge a run.

    Args:
        lines: the lines of metrics.jsonl.
        ended: how training stopped.
        end_message: a sentence on that.
        end_step: the step at which it stopped.
        margin: its margin at the end.
        num_classes: C.
        margin_begins: the step after which it is trained with that margin.
        from_weights: whether it began with trained weights; then it need not surpass them to have learned.
        target_gradient: that of its head.
        warmup_steps: those of its schedule.
    """
    if ended != "finished":
        return Judgement(ended, end_step if ended == "non_finite" else None, end_message)
    train = [line for line in lines if line["kind"] == "train"]
    if not train:
        return Judgement("unfinished", None, "no line of training metrics is left to judge it by")
    accuracies = accuracies_of([line for line in lines if line["kind"] == "evaluation"])
    at_the_end = [line for line in train if line["step"] > margin_begins]
    if (since := collapsed_since(at_the_end, margin, num_classes)) is not None:
        text = (
            f"from step {since} to the end the loss was that of cosines that are all the same: at last "
            f"{train[-1]['loss']:.1f} at a cosine of {train[-1]['target_cosine']:.2f}"
        )
        return Judgement("collapsed", since, text)
    if (found := sunk(at_the_end)) is not None:
        since, text = found
        if margin_begins < warmup_steps + CRITERION_STEPS:  # else the criterion met another margin
            text += foretold(train, margin, target_gradient, warmup_steps)
        return Judgement("sunk", since, text)
    if chance := _chance(lines, accuracies, from_weights):
        return Judgement("chance", _last_step(lines), chance)
    return _learned(train, accuracies, from_weights)


def _learned(train: Lines, accuracies: list[tuple[int, float]], from_weights: bool) -> Judgement:
    """The verdict on a run that learned: whether it was still rising at its end."""
    gain = _late_gain(accuracies)
    if gain is None:
        fall = _late_fall(train)
        is_rising = fall > LATE_FALL
        text = f"{fall:.0%} of the loss's fall came in the last {LATE_SHARE:.0%} of the steps"
    else:
        is_rising = gain > LATE_GAIN
        text = (
            f"accuracy {'rose' if gain >= 0 else 'fell'} by {100 * abs(gain):.2f} points in the last "
            f"{LATE_SHARE:.0%} of the steps"
        )
    text = f"{'still rising' if is_rising else 'at rest'} at the end: {text}{low_cosine(train)}"
    if from_weights and accuracies:
        text += (
            f"; accuracy is {accuracies[-1][1]:.2%}, and was {accuracies[0][1]:.2%} at the start"
        )
    return Judgement("unfinished" if is_rising else "converged", None, text)


def collapsed_since(train: Lines, margin: Margin, num_classes: int) -> int | None:
    """The step since which a run has stayed in the band of the collapse loss; None if it has not.

    Args:
        train: lines of kind "train".
        margin: its loss.
        num_classes: C.
    """
    since = None
    for line in reversed(train):
        state = {name: line[name] for name in margin.initial_state() if name in line}
        expected = margin.collapse_loss(num_classes, line["target_cosine"], state)
        if abs(line["loss"] - expected) > COLLAPSE_BAND * expected:
            break
        since = line["step"]
    if since is None:
        return None
    last = train[-1]["step"]
    return since if last - since >= max(COLLAPSE_STEPS, 0.1 * last) else None


def _chance(lines: Lines, accuracies: list[tuple[int, float]], from_weights: bool) -> str | None:
    """A sentence if the last accuracy is not better than chance or than drawn weights, else None."""
    if not accuracies:
        return None
    last = accuracies[-1][1]
    sets = [line for line in lines if line["kind"] == "evaluation"][-1]["verification"]
    # The accuracy is the mean of the sets', whatever their sizes.
    variance = sum(0.25 / f["num_pairs"] for f in sets.values()) / len(sets) ** 2
    error = CHANCE_SIGMAS * math.sqrt(variance)
    if last <= 0.5 + error:
        return f"accuracy is {last:.1%}, which is not {CHANCE_SIGMAS:g} standard errors above 50 %"
    first_step, untrained = accuracies[0]
    if from_weights:
        return None
    if first_step == 0 and len(accuracies) > 1 and last <= untrained:
        return f"accuracy is {last:.1%}, and was {untrained:.1%} before training"
    return None


def _late_gain(accuracies: list[tuple[int, float]]) -> float | None:
    """Accuracy at the end minus accuracy at the begin of the last part, linear between evaluations.

    None if no evaluation lies between the first step and the last.
    """
    trained = [point for point in accuracies if point[0] > 0]
    if len(trained) < 2:
        return None
    begins = (1.0 - LATE_SHARE) * trained[-1][0]
    before = max(point for point in trained if point[0] <= max(begins, trained[0][0]))
    after = min(point for point in trained if point[0] > before[0])
    share = max(0.0, begins - before[0]) / (after[0] - before[0])
    return trained[-1][1] - before[1] - share * (after[1] - before[1])


def _late_fall(train: Lines) -> float:
    """Share of the loss's whole fall that is in the last part of a run."""
    begins = (1.0 - LATE_SHARE) * train[-1]["step"]
    before = min((line["loss"] for line in train if line["step"] <= begins), default=math.inf)
    least = min(line["loss"] for line in train)
    fall = train[0]["loss"] - least
    return max(0.0, before - least) / fall if fall > 0 else 0.0


def _last_step(lines: Lines) -> int:
    return lines[-1]["step"]
