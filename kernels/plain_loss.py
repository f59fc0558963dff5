"""A margin loss from a backend's cosines and log-sum-exp: plain PyTorch on B numbers.

    loss_i = log(1 + e^(lse_i - s T_i))         lse over the negatives: primitive.py      docs/losses.md (2)

The form keeps full precision near 0, where a log-sum-exp and its own largest term would cancel. Backends
that compute a whole loss in their kernels are tested against it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedface.kernels import checks
from fusedface.kernels.interface.negatives import modulation_of
from fusedface.kernels.interface.primitive import Backend, Spec, compute_dtype
from fusedface.kernels.interface.update import CentreUpdate
from fusedface.kernels.margins import Batch, State
from fusedface.kernels.options import HeadOptions
from fusedface.kernels.output import MarginOutput, Modulation


def margin_loss(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    options: HeadOptions,
    state: State,
    training: bool,
    precision: str,
    run: Backend,
    update: CentreUpdate | None,
) -> MarginOutput:
    """See `functional.margin_loss`; the inputs are checked, and autocast is off."""
    if options.keep_exponentials:
        checks.check_keeps_nothing(embeddings, weight)
    margin = options.margin
    valid = labels != options.ignore_index
    ignored = ~valid
    labels = labels.long().masked_fill(ignored, -1)

    with torch.no_grad():
        before = Batch(*run.target_cosine(embeddings, weight, labels), labels, valid)
        if training:
            margin.update_state(before, state)
        # The next batch updates the state in place, perhaps before this one's backward.
        used = {name: state[name].clone() for name in margin.initial_state()}
        # Above infinity no negative is hard: an ignored row counts in no statistics.
        threshold = margin.threshold(before, used).masked_fill(ignored, torch.inf)

    spec = Spec(margin.s, margin.reweighting(used), precision, update)
    cos_y, lse, stats = run.cosine_lse(embeddings, weight, labels, threshold, spec)
    checks.check_centres(cos_y, lse, weight)

    norms = before.norms
    if margin.learns_norms:
        norms = torch.linalg.vector_norm(embeddings.to(compute_dtype(embeddings, weight)), dim=1)
    batch = Batch(cos_y, norms, labels, valid, stats)
    target = margin.target(batch, used)
    if options.target_gradient == "straight_through":
        target = cos_y + (target - cos_y).detach()
    per_sample = _focal_cross_entropy(lse - margin.s * target, options.focal_gamma)
    if (penalty := margin.penalty(batch, used)) is not None:
        per_sample = per_sample + penalty
    per_sample = per_sample.masked_fill(ignored, 0.0)
    if options.weighting is not None:
        with torch.no_grad():
            losses = per_sample.detach()
            if training:
                options.weighting.update_state(losses, valid, state)
            used |= {name: state[name].clone() for name in options.weighting.initial_state()}
            weights = options.weighting.weights(losses, used)
        per_sample = per_sample * weights
    cos_y = cos_y.detach().masked_fill(ignored, torch.nan)
    return MarginOutput(
        loss=_reduce(per_sample, valid, options.reduction),
        per_sample_loss=per_sample,
        target_cosine=cos_y,
        max_negative_cosine=stats.max_cosine,
        correct=cos_y > stats.max_cosine,
        hard_negatives=stats.num_hard.long(),
        modulation=Modulation(*modulation_of(*stats[1:])),
        state=used,
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
