"""The output of a margin head."""

# A named tuple whose fields are computed later is one to its users, not to a checker of types.
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# pyright: reportAssignmentType=false

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

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

    Most backends compute the statistics when one of them is read.

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


class _Deferred(MarginOutput):
    """An output whose statistics are computed when one of them is read, or all are."""

    _rest: Callable[[], MarginOutput]

    @functools.cached_property
    def _all(self) -> MarginOutput:
        return self._rest()

    max_negative_cosine = property(lambda self: self._all.max_negative_cosine)
    correct = property(lambda self: self._all.correct)
    hard_negatives = property(lambda self: self._all.hard_negatives)
    modulation = property(lambda self: self._all.modulation)
    state = property(lambda self: self._all.state)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._all)

    def __getitem__(self, index: Any) -> Any:
        return self._all[index]

    def __repr__(self) -> str:
        return repr(self._all)

    def __reduce__(self) -> tuple[Any, ...]:
        return MarginOutput, tuple(self._all)

    def _replace(self, **changes: Any) -> MarginOutput:
        return self._all._replace(**changes)

    def _asdict(self) -> dict[str, Any]:
        return self._all._asdict()


def of_whole(
    out: WholeLoss, names: tuple[str, ...], per_sample: bool, at_once: bool
) -> MarginOutput:
    """The output of a backend that has all of the loss, its states by name.

    Args:
        out: its result.
        names: of the states.
        per_sample: whether the loss is that of each sample.
        at_once: compute the statistics now. A CUDA graph must hold them: its replays fill the same memory.
    """
    loss = out.per_sample if per_sample else out.loss
    first = (loss, out.per_sample, out.target_cosine)

    def complete() -> MarginOutput:
        rest = out.rest()
        return MarginOutput(
            *first, rest.max_cosine, rest.correct, rest.num_hard, Modulation(*rest.modulation),
            dict(zip(names, rest.state, strict=True)),
        )  # fmt: skip

    if at_once:
        return complete()
    deferred = _Deferred(*first, *(None,) * 5)  # pyright: ignore[reportArgumentType]
    deferred._rest = complete
    return deferred
