"""Texts of a comparison: labels of losses with a cure, and shortened lists of differences."""

from collections.abc import Sequence

JOINT = " + "  # between the label of a loss and its cure
SHOWN = 6  # number of differences in a message


def with_cure(label: str, cure: str) -> str:
    """The label of a loss with a cure; that of the loss if the cure is empty."""
    return f"{label}{JOINT}{cure}" if cure else label


def loss_of(label: str) -> str:
    """The label of the loss without its cure."""
    return label.partition(JOINT)[0]


def cure_of(label: str) -> str:
    """The cure of a label; empty for the plain loss."""
    return label.partition(JOINT)[2]


def seeds_text(count: int) -> str:
    """The number of seeds in words and figures, such as "one seed" or "3 seeds"."""
    return "one seed" if count == 1 else f"{count} seeds"


def shortened(lines: Sequence[str]) -> str:
    """The first few differences, one line each."""
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n  ".join(["", *lines[:SHOWN], *more])
