"""HeadOptions: everything that decides what a head computes and how, in one frozen record."""

import functools
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, zeros

from fusedface.kernels.interface.negatives import Reweighting
from fusedface.kernels.interface.whole import Call
from fusedface.kernels.margins import CurricularFace, Margin, defines_form, form_of
from fusedface.kernels.margins.records import check_types, choices, require
from fusedface.kernels.weightings import Weighting, weighting_form

BackendName = Literal["auto", "reference", "chunked", "triton"]
Precision = Literal["auto", "float32", "tf32", "bfloat16", "float16"]
Reduction = Literal["mean", "sum", "none"]
TargetGradient = Literal["exact", "straight_through"]

PRECISIONS = tuple(name for name in choices(Precision) if name != "auto")
MAX_GAMMA = 100.0  # a sample of probability 1/2 then counts 1e-30 of one of probability 0


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadOptions:
    """The options that `margin_loss`, `MarginHead` and a recipe's head have in common.

    Raises:
        TypeError: a value is of the wrong kind.
        ValueError: a value is out of its range, or none of the choices.
    """

    margin: Margin = field(default_factory=CurricularFace)
    """Any of `fusedface.kernels.MARGINS`, with its parameters."""
    weighting: Weighting | None = None
    """Any of `fusedface.kernels.WEIGHTINGS`, without gradient; None: all samples weigh the same."""
    focal_gamma: float = 0.0
    """Weighs each sample by (1 - p_y)^gamma (Lin et al., "Focal Loss", 2017); 0 is off."""
    target_gradient: TargetGradient = "exact"
    """"exact" differentiates T; "straight_through" has dT/dc_y = 1, as insightface since 2022-12."""
    reduction: Reduction = "mean"
    """"mean" over the samples that are not ignored, "sum" or "none"."""
    ignore_index: int = -1
    """Samples with this label have no part in loss, gradients and state."""
    sample_rate: float = 1.0
    """Share of the classes that a batch meets in training, in (0, 1]: its own, and others drawn at random
    (Partial FC), see `sampling.py`; at least B / C. 1: all of them, as always outside training."""
    sample_correction: bool = True
    """Whether a sampled log-sum-exp is raised by log(1 / rate), so that its sum has the expectation of that
    over all classes; Partial FC does not do this."""
    keep_exponentials: bool = False
    """Whether the forward keeps a number of every logit for the backward, which then computes no cosine
    again: 6 B C D operations instead of 8. This takes B x C x 2 bytes (both rounded up to 128 and 256),
    which no other head does. Only for `backend="triton"` with products in bfloat16, D <= 512, and a margin
    with a form (no weighting of one's own, no sampled or shared class centres). Elsewhere a forward with
    gradients raises ValueError; one without gradients keeps nothing. See docs/performance.md."""
    backend: BackendName = "auto"
    """"reference" materialises (B, C), "chunked" and "triton" (CUDA) do not; "auto" picks one."""
    precision: Precision = "auto"
    """Precision of the products' operands; "auto" is autocast's, else float32. "tf32" is float32 on CPUs
    and without Triton. Everything else is in float32, or float64 where an input has it."""

    def __post_init__(self) -> None:
        check_types(self)
        in_range = 0.0 <= self.focal_gamma <= MAX_GAMMA
        fits = -(2**63) <= self.ignore_index < 2**63
        require("ignore_index", self.ignore_index, fits, "an integer of 64 bits, as labels are")
        require("sample_rate", self.sample_rate, 0.0 < self.sample_rate <= 1.0, "in (0, 1]")
        require("focal_gamma", self.focal_gamma, in_range, f"between 0 and {MAX_GAMMA:g}")

    def initial_state(self) -> dict[str, float]:
        """The state that training carries from batch to batch, by name, with its initial value."""
        weighting = {} if self.weighting is None else self.weighting.initial_state()
        return self.margin.initial_state() | weighting

    def call(self, training: bool, precision: str) -> Call | None:
        """The options for a backend that has a whole loss in its kernels; None if they lack a part."""
        form, weights = form_of(self.margin), weighting_form(self.weighting)
        if form is None or weights is None:
            return None
        n = self.margin.reweighting({name: zeros(()) for name in self.margin.initial_state()})
        state_is_linear = isinstance(n.linear, Tensor)
        linear = 1.0 if isinstance(n.linear, Tensor) else n.linear
        return Call(
            form.target.value, *form.padded, form.average.value, form.momentum, linear, state_is_linear,
            self.focal_gamma, self.target_gradient == "exact", training, self.ignore_index,
            self.reduction == "mean",
            self.margin.s, n.square, n.constant, precision,
            state_is_linear or n != Reweighting(), abs(linear), self.keep_exponentials,
            weights.kind.value, weights.first_share, weights.growth,
        )  # fmt: skip


def head_options(margin: Margin | HeadOptions, changes: dict[str, Any]) -> HeadOptions:
    """A record from a margin or another record, and changes by name.

    Raises:
        TypeError, ValueError: a change is unknown, or as `HeadOptions`.
    """
    if isinstance(margin, HeadOptions):
        return replace(margin, **changes) if changes else margin
    if not defines_form(margin):  # perhaps without a hash
        return HeadOptions(margin=margin, **changes)
    try:
        return _kept_options(margin, **changes)
    except TypeError:  # a change without a hash, or of the wrong type
        return HeadOptions(margin=margin, **changes)


@functools.lru_cache(maxsize=256, typed=True)
def _kept_options(margin: Margin, **changes: Any) -> HeadOptions:
    """The record, which costs less to find than to make."""
    return HeadOptions(margin=margin, **changes)
