"""False and true accept rates of genuine and impostor scores, and the thresholds behind them."""

import numpy as np


def allowed_impostors(num_impostor: int, far: float) -> int:
    """How many of N impostor pairs a false accept rate allows: floor(far N)."""
    return int(np.floor(far * num_impostor * (1 + 1e-12)))


def threshold_at_far(impostor: np.ndarray, far: float) -> float | None:
    """The threshold at a false accept rate: the impostor score of rank floor(far N) + 1 from the top.

    So at most floor(far N) impostors are accepted. None if far N < 1, because no impostor determines it.

    Args:
        impostor: scores (N,).
        far: in (0, 1).
    """
    allowed = allowed_impostors(len(impostor), far)
    if allowed < 1:
        return None
    place = len(impostor) - 1 - min(allowed, len(impostor) - 1)
    return float(np.partition(impostor, place)[place])


def tar_at_far(genuine: np.ndarray, impostor: np.ndarray, far: float) -> float | None:
    """True accept rate of genuine scores (G,) at the threshold of `threshold_at_far`; None without it."""
    threshold = threshold_at_far(impostor, far)
    if threshold is None or len(genuine) == 0:
        return None
    return float(np.mean(genuine > threshold))


def equal_error_rate(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """The rate at which false accepts and false rejects are equally frequent.

    It is interpolated linearly between the points of the ROC.
    """
    far, tar = roc(genuine, impostor)
    gap = far - (1 - tar)  # rises from -1 to 1
    k = int(np.argmax(gap >= 0))
    share = gap[k - 1] / (gap[k - 1] - gap[k])
    return float(far[k - 1] + share * (far[k] - far[k - 1]))


def roc(genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true accept rates at every threshold, rising from (0, 0) to (1, 1)."""
    scores = np.concatenate([genuine, impostor])
    is_genuine = np.concatenate([np.ones(len(genuine), bool), np.zeros(len(impostor), bool)])
    order = np.argsort(-scores, kind="stable")
    accepted_genuine, accepted = np.cumsum(is_genuine[order]), np.arange(1, len(scores) + 1)
    ends = np.append(
        np.flatnonzero(np.diff(scores[order])), len(scores) - 1
    )  # equal scores make one step
    tar = accepted_genuine[ends] / max(len(genuine), 1)
    far = (accepted[ends] - accepted_genuine[ends]) / max(len(impostor), 1)
    return np.append(0.0, far), np.append(0.0, tar)


def area_under_roc(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Probability that a genuine pair scores above an impostor pair, ties counted half."""
    far, tar = roc(genuine, impostor)
    return float(np.trapezoid(tar, far))
