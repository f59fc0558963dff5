"""The interface of margins: how the target cosine is lowered, and how hard negatives are re-weighted.

    loss_i = log( e^(s T_i) + sum_{j != y} e^(s N(c_j)) ) - s T_i + penalty_i    docs/losses.md (1)
    N(c) = c                                     where c <= threshold_i         an easy negative
    N(c) = square c^2 + linear c + constant      where c >  threshold_i         a hard negative

c_j is the cosine between an embedding and class centre j, c_y the one of its own class (the target
cosine), s the scale. T, the threshold and the penalty are B numbers, so a margin computes them in plain
PyTorch, as it likes, from all that is known of the batch. The negatives are B C numbers, which exist only
inside the kernels. There a margin is three numbers and no code, so a new margin changes no kernel.
docs/losses.md lists the losses that do not fit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.interface.negatives import NegativeStats, Reweighting
from fusedface.kernels.margins.form import Form
from fusedface.kernels.margins.records import check_types, require

State = dict[str, Tensor]

# Past it the rounding of a float32 cosine is a tenth of a logit; below its inverse all logits are 0.
MAX_SCALE = 1e6


class Batch(NamedTuple):
    """The inputs of a margin from a batch; all (B,)."""

    cos_y: Tensor
    """Target cosines, without margin; any number where the label is ignored."""
    norms: Tensor
    """Lengths of the embeddings; with gradient in `target` and `penalty` if the margin `learns_norms`."""
    labels: Tensor
    """Classes, int64; -1 where ignored."""
    valid: Tensor
    """Bool, False where the label is ignored."""
    negatives: NegativeStats | None = None
    """Set in `target` and `penalty`; None before, because they depend on the threshold."""


@dataclass(frozen=True, kw_only=True)
class Margin:
    """Base of all margins, and the identity: no margin, no re-weighting, no state.

    For each batch `update_state` (in training only), `threshold` and `reweighting` are called without
    gradient, then, after the pass over the negatives, `target` and `penalty` with it.

    Args:
        s: the scale of the logits, 1e-6 <= s <= 1e6.

    Raises:
        TypeError: a parameter is not a number, or not a bool where one is asked for.
        ValueError: a parameter is out of its range.
    """

    s: float = 64.0

    name: ClassVar[str]
    learns_norms: ClassVar[bool] = False  # whether gradient flows through the lengths

    def __post_init__(self) -> None:
        check_types(self)
        require("s", self.s, 1.0 / MAX_SCALE <= self.s <= MAX_SCALE, "a scale, 1e-6 <= s <= 1e6")

    def initial_state(self) -> dict[str, float]:
        """Numbers that training carries from batch to batch, by name, with their first value."""
        return {}

    def update_state(self, batch: Batch, state: State) -> None:
        """Fold one batch into `state`, 0-d tensors by the names of `initial_state`, in place."""

    def state_at(self, target_cosine: float) -> dict[str, float]:
        """The state, by name, to which a constant mean target cosine leads in the long run.

        For a network that starts from trained weights, whose state has left `initial_state` behind. A
        number left out here has its value from `initial_state`.
        """
        del target_cosine
        return {}

    def target(self, batch: Batch, state: State) -> Tensor:
        """T (B,): the target cosine after the margin, differentiable in `batch.cos_y`."""
        return batch.cos_y

    def threshold(self, batch: Batch, state: State) -> Tensor:
        """The cosine (B,) above which a negative is hard; T unless the paper says otherwise."""
        return self.target(batch, state)

    def reweighting(self, state: State) -> Reweighting:
        """N of a hard negative; the identity for margins that do not re-weight."""
        return Reweighting()

    def penalty(self, batch: Batch, state: State) -> Tensor | None:
        """The penalty (B,) added to the loss of each sample, differentiable; None without one."""
        return None

    def form(self) -> Form | None:
        """T, penalty and the state's average in numbers, if kernels know the kind; not inherited."""
        return None

    def class_margins(self, device: torch.device) -> Tensor | None:
        """m_j of every class, (C,) float32, if the kind of the form takes them."""
        return None

    def with_class_counts(self, counts: tuple[int, ...]) -> "Margin":
        """The margin for training images of which class j has counts[j]; itself if that does not matter."""
        return self

    def example_labels(self, num_classes: int) -> Tensor:
        """Labels that represent all C classes: a single one unless the margin differs between classes."""
        return torch.zeros(1, dtype=torch.int64)

    def collapse_loss(
        self, num_classes: int, cosine: float = 0.0, state: Mapping[str, float] | None = None
    ) -> float:
        """The loss of a collapsed network: all cosines are the same, so none separates people.

        At cosine 0: s sin m + ln C for ArcFace, s (t - 1) more for MV-Arc-Softmax (docs/losses.md (9)).
        The mean over the classes, without the penalty.

        Args:
            num_classes: C.
            cosine: the common cosine of all embeddings with all class centres.
            state: of the margin, by the names of `initial_state`; None: its initial one. Embeddings have
                length 1.
        """
        common = self._common(num_classes, cosine, state)
        with torch.no_grad():
            gap = self.s * (common.negative - self.target(common.batch, common.state))
        gap = gap + math.log(num_classes - 1)
        return torch.logaddexp(gap, torch.zeros_like(gap)).mean().item()

    def slope_gap(
        self,
        cosine: float = 0.0,
        state: Mapping[str, float] | None = None,
        *,
        num_classes: int = 2,
        target_gradient: str = "exact",
    ) -> float:
        """N' - T' where all cosines are the same: above 0 a step lowers all of them together.

        At cosine 0 it is F0 (docs/losses.md (11)): 1 - cos m for ArcFace, t - cos m for MV-Arc-Softmax and
        CurricularFace (whose t starts at 0), 0 for NormFace and CosFace. The mean over the classes.

        Args:
            cosine: the common cosine of all embeddings with all class centres.
            state: as in `collapse_loss`.
            num_classes: C, where the margin differs between classes.
            target_gradient: of the head; "straight_through" has T' = 1.
        """
        # Counts of images that are not known here change no slope.
        margin = self.with_class_counts((1,) * num_classes)
        common = margin._common(num_classes, cosine, state)
        slope = torch.ones_like(common.batch.cos_y)
        if target_gradient == "exact":
            cos_y = common.batch.cos_y.requires_grad_()
            with torch.enable_grad():
                lowered = margin.target(common.batch, common.state).sum()
            (slope,) = torch.autograd.grad(lowered, cos_y)
        return (common.modulation - slope).mean().item()

    def _common(
        self, num_classes: int, cosine: float, state: Mapping[str, float] | None
    ) -> "_Common":
        """Samples of all classes with one cosine to every class centre."""
        labels = self.example_labels(num_classes)
        cos = torch.full(labels.shape, cosine, dtype=torch.float64)
        numbers = self.initial_state() | dict(state or {})
        tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items()}
        batch = Batch(cos, torch.ones_like(cos), labels, labels >= 0)
        hard = cos > self.threshold(batch, tensors)
        curve = self.reweighting(tensors)
        negative = torch.where(hard, curve.value(cos), cos)
        modulation = torch.where(hard, torch.as_tensor(curve.slope(cos), dtype=cos.dtype), 1.0)
        return _Common(batch, tensors, negative, modulation)


class _Common(NamedTuple):
    """See `Margin._common`; N and N' of every negative, as `batch.cos_y`."""

    batch: Batch
    state: State
    negative: Tensor
    modulation: Tensor


def defines_form(margin: Margin) -> bool:
    """Whether its own class defines a form; none is inherited, as a subclass may have changed T."""
    return "form" in vars(type(margin))


def form_of(margin: Margin) -> Form | None:
    """The form that the margin's own class defines, if it does."""
    return margin.form() if defines_form(margin) else None


def batch_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of `values` (B,) over the valid rows, 0-d; 0 where none is valid."""
    return (values * valid).sum() / valid.sum().clamp_min(1)


def fold_in(average: Tensor, value: Tensor, momentum: float, valid: Tensor) -> None:
    """average <- momentum value + (1 - momentum) average, in place, on the device.

    A batch without valid rows or with a value that is not finite leaves the average as it was: one
    bad batch must not poison every later one.
    """
    usable = valid.any() & value.isfinite()
    step = torch.where(usable, momentum * (value - average), torch.zeros_like(average))
    average.add_(step)
