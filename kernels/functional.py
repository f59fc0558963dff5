"""margin_loss: any margin on any backend, from embeddings and class centres to the loss.

    loss_i = log(1 + e^(lse_i - s T(c_y)))      lse over the negatives: primitive.py      docs/losses.md (2)

The form keeps full precision near 0, where a log-sum-exp and its own largest term would cancel.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedface.kernels import checks
from fusedface.kernels.dispatch import pick_backend, pick_precision
from fusedface.kernels.margins import Margin, State
from fusedface.kernels.primitive import NegativeStats, Spec


class Modulation(NamedTuple):
    """Smallest, mean and largest dN/dc over the hard negatives of a batch, 0-d; NaN without any.

    The paper's M (CurricularFace, Fig. 2): t + 2 c there, t in MV-Softmax, 1 without re-weighting.
    """

    min: Tensor
    mean: Tensor
    max: Tensor


class MarginOutput(NamedTuple):
    """What a margin head returns; all but the losses without gradient."""

    loss: Tensor  # 0-d, or (B,) with reduction="none"
    per_sample_loss: Tensor  # (B,), 0 where the label is ignored
    target_cosine: Tensor  # (B,), before the margin; NaN where the label is ignored
    max_negative_cosine: Tensor  # (B,)
    correct: Tensor  # (B,) bool: the target cosine is the largest; False where the label is ignored
    hard_negatives: Tensor  # (B,) int64: negatives above the margin's threshold
    modulation: Modulation
    t: Tensor | None  # 0-d, CurricularFace's t that this batch used


def margin_loss(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    margin: Margin,
    *,
    state: State | None = None,
    training: bool = False,
    backend: checks.Backend = "auto",
    precision: checks.Precision = "auto",
    focal_gamma: float = 0.0,
    reduction: checks.Reduction = "mean",
    ignore_index: int = -1,
    target_gradient: checks.TargetGradient = "exact",
) -> MarginOutput:
    """Margin-softmax cross-entropy between normalised embeddings and class centres.

    Args:
        embeddings: (B, D), float16, bfloat16, float32 or float64; need not be normalised.
        weight: class centres (C, D), floating point, C >= 2; need not be normalised.
        labels: (B,) integers in [0, C), or `ignore_index`.
        margin: one of `MARGINS`, such as `CurricularFace(m=0.5, s=64.0)`.
        state: the margin's running numbers by name (`margin.initial_state()`) as 0-d tensors;
            without it they have their first value.
        training: fold this batch into `state`, in place, before it is used; not in the second forward
            that gradient checkpointing runs inside the backward, which uses `state` as it is.
        backend: "reference" materialises (B, C); "chunked" and "triton" (CUDA) do not; "auto" picks the
            best for the device.
        precision: of the operands of the matrix products; "auto" is that of autocast, else float32.
            "tf32" is float32 on CPUs and without Triton.
            Everything else is in float32, or float64 where an input has it.
        focal_gamma: weigh each sample by (1 - p_y)^gamma (Lin et al., "Focal Loss", 2017), per sample.
        reduction: "mean" over the samples that are not ignored, "sum" or "none".
        ignore_index: a label that takes no part in loss, gradients and `state`.
        target_gradient: "exact" differentiates T; "straight_through" passes dT/dc_y = 1, as
            insightface's trainer does since 2022-12.

    Raises:
        TypeError: an input is no tensor or of the wrong dtype, or `margin` is no margin.
        ValueError: shapes or devices disagree, a label is out of range, an option is unknown, or (as
            NonFiniteInputError) an input is not finite. See `checks.check_values` for GPUs.
    """
    checks.check_options(margin, backend, precision, focal_gamma, reduction, target_gradient)
    checks.check_tensors(embeddings, weight, labels)
    state = _state_for(margin, state, embeddings)
    checks.check_values(embeddings, labels, state, len(weight), ignore_index)
    resolved = pick_precision(precision, embeddings.device)  # before autocast is switched off
    training = training and not _is_recomputed()
    with torch.autocast(embeddings.device.type, enabled=False):
        return _margin_loss(
            embeddings, weight, labels, margin, state, training, backend, resolved,
            focal_gamma, reduction, ignore_index, target_gradient,
        )  # fmt: skip


def _margin_loss(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    margin: Margin,
    state: State,
    training: bool,
    backend: str,
    precision: str,
    focal_gamma: float,
    reduction: str,
    ignore_index: int,
    target_gradient: str,
) -> MarginOutput:
    valid = labels != ignore_index
    ignored = ~valid
    labels = labels.long().masked_fill(ignored, -1)
    run = pick_backend(backend, embeddings, weight)

    with torch.no_grad():
        cos_y, norms = run.target_cosine(embeddings, weight, labels)
        if training:
            margin.update_state(state, cos_y, norms, valid)
        # The next batch updates the state in place, perhaps before this one's backward.
        state = {name: value.clone() for name, value in state.items()}
        # Above infinity no negative is hard: an ignored row counts in no statistics.
        threshold = margin.threshold(cos_y, norms, state).masked_fill(ignored, torch.inf)

    spec = Spec(margin.s, margin.hard_map(state), precision)
    cos_y, lse, stats = run.cosine_lse(embeddings, weight, labels, threshold, spec)
    checks.check_centres(cos_y, lse, weight)

    target = margin.target(cos_y, norms, state)
    if target_gradient == "straight_through":
        target = cos_y + (target - cos_y).detach()
    per_sample = _focal_cross_entropy(lse - margin.s * target, focal_gamma).masked_fill(
        ignored, 0.0
    )
    cos_y = cos_y.detach().masked_fill(ignored, torch.nan)
    return MarginOutput(
        loss=_reduce(per_sample, valid, reduction),
        per_sample_loss=per_sample,
        target_cosine=cos_y,
        max_negative_cosine=stats.max_cosine,
        correct=cos_y > stats.max_cosine,
        hard_negatives=stats.num_hard.long(),
        modulation=_modulation(stats),
        t=state.get("t"),
    )


def _focal_cross_entropy(excess: Tensor, gamma: float) -> Tensor:
    """Cross-entropy (B,) from lse - s T, times (1 - p_y)^gamma = e^(-gamma log(1 + e^-excess))."""
    loss = F.softplus(excess, threshold=50.0)
    if gamma == 0.0:
        return loss
    return loss * torch.exp(-gamma * F.softplus(-excess, threshold=50.0))


def _reduce(per_sample: Tensor, valid: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return per_sample
    total = per_sample.sum()
    return total / valid.sum().clamp_min(1) if reduction == "mean" else total


def _modulation(stats: NegativeStats) -> Modulation:
    count = stats.num_hard.sum()
    none = count == 0
    return Modulation(
        min=stats.slope_min.amin().masked_fill(none, torch.nan),
        mean=stats.slope_sum.sum() / count,  # 0 / 0 without any
        max=stats.slope_max.amax().masked_fill(none, torch.nan),
    )


def _is_recomputed() -> bool:
    """Whether this forward runs inside a backward: the same batch a second time."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _state_for(margin: Margin, state: State | None, embeddings: Tensor) -> State:
    initial = margin.initial_state()
    if state is None:
        return {
            name: torch.full((), value, device=embeddings.device) for name, value in initial.items()
        }
    checks.check_state(margin, state)
    return state
