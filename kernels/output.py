"""The output of a margin head."""

from typing import NamedTuple

from torch import Tensor

from fusedface.kernels.interface.whole import WholeLoss
from fusedface.kernels.margins import State


class Modulation(NamedTuple):
    """Smallest, mean and largest dN/dc over the hard negatives of a batch, 0-d; NaN without any.

    The paper's M (CurricularFace, Fig. 2): t + 2 c there, t in MV-Softmax, 1 without re-weighting.
    """

    min: Tensor
    mean: Tensor
    max: Tensor


class MarginOutput(NamedTuple):
    """The output of a margin head; only the losses have a gradient.

    Losses and cosines are float32, or float64 if the embeddings or the class centres are.
    """

    loss: Tensor  # 0-d, or (B,) with reduction="none"
    per_sample_loss: Tensor  # (B,), 0 where the label is ignored
    target_cosine: Tensor  # (B,), before the margin; NaN where the label is ignored
    max_negative_cosine: Tensor  # (B,)
    correct: Tensor  # (B,) bool: the target cosine is the largest; False where the label is ignored
    hard_negatives: Tensor  # (B,) int64: negatives above the margin's threshold
    modulation: Modulation
    state: State  # what this batch used of margin and weighting, 0-d by name, such as CurricularFace's t


def of_whole(out: WholeLoss, names: tuple[str, ...], per_sample: bool) -> MarginOutput:
    """The output of a backend that has all of the loss, its states by name."""
    return MarginOutput(
        loss=out.per_sample if per_sample else out.loss,
        per_sample_loss=out.per_sample,
        target_cosine=out.target_cosine,
        max_negative_cosine=out.max_cosine,
        correct=out.correct,
        hard_negatives=out.num_hard,
        modulation=Modulation(*out.modulation),
        state=dict(zip(names, out.state, strict=True)),
    )
