"""Margin losses written down once more, in float64, from the angles, one logit matrix at a time.

It shares no line with fusedface.kernels: angles come from acos, logits are assembled whole, the loss is
torch's cross-entropy of them, and gradients are autograd's.
"""

import math

import torch
import torch.nn.functional as F

from fusedface.kernels import MARGINS, AdaFace, Margin, margin_loss


def inputs(num_rows, num_classes, dim, *, seed=0, dtype=torch.float32, spread=1.0):
    """Embeddings, class centres and labels that reach every branch (asserted by `reaches_branches`).

    Rows come opposite to their class centre (i % 4 == 0), far from it (1), near it (2), or at random.
    """
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(num_classes, dim, generator=g, dtype=torch.float64)
    labels = torch.randint(num_classes, (num_rows,), generator=g)
    noise = torch.randn(num_rows, dim, generator=g, dtype=torch.float64)
    pull = torch.tensor([-2.5, 0.3, 1.5, 0.0], dtype=torch.float64)[torch.arange(num_rows) % 4]
    embeddings = spread * (noise + pull[:, None] * weight[labels])
    return embeddings.to(dtype), weight.to(dtype), labels


def reaches_branches(embeddings, weight, labels, m):
    """Whether there are hard and easy negatives and targets on both sides of theta = pi - m."""
    cos = cosines(embeddings.double(), weight.double())
    theta = torch.acos(cos.gather(1, labels[:, None])[:, 0].clamp(-1, 1))
    hard = cos > torch.cos(theta + m)[:, None]
    past = theta > math.pi - m
    return bool(hard.any() and (~hard).any() and past.any() and (~past).any())


def cosines(embeddings, weight):
    return F.normalize(embeddings, dim=1) @ F.normalize(weight, dim=1).T


def target_logit(margin: Margin, cos, norms, state):
    """T at the cosine of the target, from its angle."""
    theta = torch.acos(cos.clamp(-1 + 1e-15, 1 - 1e-15))
    name = margin.name
    if name == "normface":
        return cos
    if name in ("cosface", "mvam"):
        return cos - margin.m
    if name == "sphereface":
        return torch.where(
            margin.m * theta < math.pi, torch.cos(margin.m * theta), -torch.ones_like(cos)
        )
    if isinstance(margin, AdaFace):
        quality = (
            margin.h * (norms.clamp(0.001, 100) - state["norm_mean"]) / (state["norm_std"] + 1e-3)
        )
        quality = quality.clamp(-1, 1)
        moved = (theta - margin.m * quality).clamp(1e-3, math.pi - 1e-3)
        return torch.cos(moved) - margin.m * (1 + quality)
    lowered = torch.cos(theta + margin.m)
    if getattr(margin, "easy_margin", False):
        return torch.where(cos > 0, lowered, cos)
    return torch.where(theta < math.pi - margin.m, lowered, cos - margin.m * math.sin(margin.m))


def threshold(margin: Margin, cos_y):
    """The cosine above which a negative is hard, given the target's; None where none ever is."""
    if margin.name == "mvam":
        return cos_y - margin.m
    if margin.name in ("mvarc", "curricularface"):
        return torch.cos(torch.acos(cos_y.clamp(-1, 1)) + margin.m)
    return None


def negative_logits(margin: Margin, cos, cos_y, state):
    """N of all cosines (B, C), given the target cosine (B, 1)."""
    bar = threshold(margin, cos_y)
    if bar is None:
        return cos
    is_curricular = margin.name == "curricularface"
    hard = cos * (state["t"] + cos) if is_curricular else margin.t * cos + margin.t - 1
    return torch.where(cos > bar, hard, cos)


def logits(margin: Margin, embeddings, weight, labels, state, straight_through=False):
    cos = cosines(embeddings, weight)
    cos_y = cos.gather(1, labels[:, None])
    norms = embeddings.detach().norm(dim=1, keepdim=True)
    target = target_logit(margin, cos_y, norms, state)
    if straight_through:
        target = cos_y + (target - cos_y).detach()
    negative = negative_logits(margin, cos, cos_y.detach(), state)
    return margin.s * negative.scatter(1, labels[:, None], target)


def loss_and_gradients(
    margin, embeddings, weight, labels, state, *,
    gamma=0.0, reduction="mean", ignore_index=-1, straight_through=False,
):  # fmt: skip
    """Per-sample loss (B,) and the gradients of the reduced loss, all float64."""
    x = embeddings.detach().double().requires_grad_()
    w = weight.detach().double().requires_grad_()
    state = {name: float(value) for name, value in state.items()}
    valid = labels != ignore_index
    z = logits(margin, x, w, labels.where(valid, torch.zeros_like(labels)), state, straight_through)
    loss = F.cross_entropy(z, labels, reduction="none", ignore_index=ignore_index)
    if gamma:
        loss = (1 - torch.exp(-loss)) ** gamma * loss
    reduced = {"mean": loss.sum() / valid.sum(), "sum": loss.sum(), "none": loss.sum()}[reduction]
    return loss.detach(), *torch.autograd.grad(reduced, (x, w))


def rounded_loss_and_gradients(margin, embeddings, weight, labels, state, dtype, **options):
    """The same with cosines from a product in `dtype`: what torch computes under autocast."""

    def rounded(x, w):
        return (F.normalize(x, dim=1).to(dtype) @ F.normalize(w, dim=1).to(dtype).T).double()

    exact = globals()["cosines"]
    globals()["cosines"] = rounded
    try:
        return loss_and_gradients(margin, embeddings, weight, labels, state, **options)
    finally:
        globals()["cosines"] = exact


def fresh_state(margin: Margin, dtype=torch.float32, **values):
    """State of a margin, with t away from 0 so that both terms of t + 2 c count."""
    start = margin.initial_state() | ({"t": 0.3} if "t" in margin.initial_state() else {}) | values
    return {name: torch.tensor(value, dtype=dtype) for name, value in start.items()}


# AdaFace's state is set to the lengths of the test inputs, so that all of its quality range is used.
def matched_state(margin: Margin, embeddings, dtype=torch.float32):
    if not isinstance(margin, AdaFace):
        return fresh_state(margin, dtype)
    norms = embeddings.double().norm(dim=1)
    std = norms.std(correction=0).item() + 0.1
    return fresh_state(margin, dtype, norm_mean=norms.mean().item(), norm_std=std)


def relative(actual, expected):
    """Largest error over the largest magnitude."""
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


def all_margins(s=64.0):
    """One of each registered margin, and the variants that take another branch."""
    from fusedface.kernels import ArcFace, CurricularFace, MVArc

    margins = {name: cls(s=s) for name, cls in MARGINS.items()}
    margins["arcface easy"] = ArcFace(s=s, easy_margin=True)
    margins["mvarc easy t=1.4"] = MVArc(s=s, easy_margin=True, t=1.4)
    margins["curricularface m=0.3"] = CurricularFace(s=s, m=0.3)
    return margins


def run(margin, embeddings, weight, labels, state, backend, **options):
    """Our head on copies: its output, and both gradients of its (summed) loss."""
    x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    out = margin_loss(x, w, labels, margin, state=state, backend=backend, **options)
    out.loss.sum().backward()
    return out, x.grad, w.grad


def compare(margin, embeddings, weight, labels, backend, tolerance, **options):
    """Hold loss and gradients of a backend against the oracle; returns the output."""
    dtype = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
    state = matched_state(margin, embeddings, dtype)
    out, dx, dw = run(margin, embeddings, weight, labels, state, backend, **options)
    truth = loss_and_gradients(
        margin, embeddings, weight, labels, state,
        gamma=options.get("focal_gamma", 0.0),
        reduction=options.get("reduction", "mean"),
        ignore_index=options.get("ignore_index", -1),
        straight_through=options.get("target_gradient") == "straight_through",
    )  # fmt: skip
    for name, actual, expected in zip(
        ("loss", "embeddings", "weight"), (out.per_sample_loss, dx, dw), truth, strict=True
    ):
        error = relative(actual, expected)
        assert error < tolerance, f"{name}: relative error {error:.1e}, allowed {tolerance:.0e}"
    return out
