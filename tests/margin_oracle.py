"""Margin losses written down once more, in float64, from the angles, one logit matrix at a time.

It shares no line with fusedface.kernels: angles come from acos, logits are assembled whole, the loss is
torch's cross-entropy of them, and gradients are autograd's.
"""

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedface.kernels import (
    MARGINS,
    ArcFace,
    Combined,
    CurricularFace,
    MagFace,
    Margin,
    MVArc,
    margin_loss,
)

NUM_COUNTED = 200_000  # classes of which LDAM is told how many images they have


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


class Targets(NamedTuple):
    """What a formula may use: target cosines, their angles, lengths, labels; (B, 1) or (B,)."""

    cos: Tensor
    theta: Tensor
    norms: Tensor
    labels: Tensor
    state: dict


def arc(margin, of, m):
    """cos(theta + m), and past theta = pi - m what the official code has there."""
    lowered = torch.cos(of.theta + m)
    if margin.easy_margin:
        return torch.where(of.cos > 0, lowered, of.cos)
    return torch.where(of.theta < math.pi - m, lowered, of.cos - m * math.sin(m))


def sphereface(margin, of):
    inside = margin.m * of.theta < math.pi
    return torch.where(inside, torch.cos(margin.m * of.theta), -torch.ones_like(of.cos))


def combined(margin, of):
    moved = margin.m1 * of.theta + margin.m2
    return torch.where(moved < math.pi, torch.cos(moved), -torch.ones_like(moved)) - margin.m3


def adaface(margin, of):
    centred = of.norms.detach().clamp(0.001, 100) - of.state["norm_mean"]
    quality = (margin.h * centred / (of.state["norm_std"] + 1e-3)).clamp(-1, 1)
    moved = (of.theta - margin.m * quality).clamp(1e-3, math.pi - 1e-3)
    return torch.cos(moved) - margin.m * (1 + quality)


def magface(margin, of):
    share = (of.norms - margin.l_a) / (margin.u_a - margin.l_a)
    m = margin.l_m + share.clamp(0, 1) * (margin.u_m - margin.l_m)
    lowered = of.cos * torch.cos(m) - torch.sin(of.theta) * torch.sin(m)
    if margin.easy_margin:
        return torch.where(of.cos > 0, lowered, of.cos)
    return torch.where(of.theta + m < math.pi, lowered, of.cos - m * torch.sin(m))


def magface_penalty(margin, of):
    a = of.norms.clamp(margin.l_a, margin.u_a)
    return margin.lambda_g * (1 / a + a / margin.u_a**2)


def ldam(margin, of):
    counts = torch.tensor(margin.class_counts, dtype=torch.float64)
    return of.cos - margin.max_m * counts.min() ** 0.25 / counts[of.labels] ** 0.25


def arc_threshold(margin, cos_y):
    return torch.cos(torch.acos(cos_y.clamp(-1, 1)) + margin.m)


def mv(margin, cos, state):
    return margin.t * cos + margin.t - 1


class Formula(NamedTuple):
    """T, and where it has them: the threshold and N of hard negatives, and what is added to the loss."""

    target: Callable
    threshold: Callable | None = None
    hard: Callable | None = None
    penalty: Callable | None = None


FORMULAE = {
    "normface": Formula(lambda margin, of: of.cos),
    "cosface": Formula(lambda margin, of: of.cos - margin.m),
    "arcface": Formula(lambda margin, of: arc(margin, of, margin.m)),
    "sphereface": Formula(sphereface),
    "combined": Formula(combined),
    "mvam": Formula(
        lambda margin, of: of.cos - margin.m, lambda margin, cos_y: cos_y - margin.m, mv
    ),
    "mvarc": Formula(lambda margin, of: arc(margin, of, margin.m), arc_threshold, mv),
    "curricularface": Formula(
        lambda margin, of: arc(SimpleNamespace(easy_margin=False), of, margin.m),
        arc_threshold,
        lambda margin, cos, state: cos * (state["t"] + cos),
    ),
    "adaface": Formula(adaface),
    "magface": Formula(magface, penalty=magface_penalty),
    "ldam": Formula(ldam),
}


def formula(margin: Margin) -> Formula:
    """What is written down here of a margin."""
    if margin.name not in FORMULAE:
        raise LookupError(
            f"the oracle has no formula for the margin {margin.name!r}: write it down"
        )
    return FORMULAE[margin.name]


def targets(cos, norms, labels, state) -> Targets:
    return Targets(cos, torch.acos(cos.clamp(-1 + 1e-15, 1 - 1e-15)), norms, labels, state)


def target_logit(margin: Margin, cos, norms, state, labels=None):
    """T at the cosine of the target, from its angle; of class 0 by default."""
    labels = torch.zeros_like(cos, dtype=torch.int64) if labels is None else labels
    return formula(margin).target(margin, targets(cos, norms, labels, state))


def threshold(margin: Margin, cos_y):
    """The cosine above which a negative is hard, given the target's; None where none ever is."""
    bar = formula(margin).threshold
    return None if bar is None else bar(margin, cos_y)


def negative_logits(margin: Margin, cos, cos_y, state):
    """N of all cosines (B, C), given the target cosine (B, 1)."""
    bar = threshold(margin, cos_y)
    return (
        cos
        if bar is None
        else torch.where(cos > bar, formula(margin).hard(margin, cos, state), cos)
    )


def logits(margin: Margin, embeddings, cos, labels, state, straight_through=False):
    """Logits (B, C) from all cosines, and what is added to the loss of each sample."""
    norms, column = embeddings.norm(dim=1)[:, None], labels[:, None]
    of = targets(cos.gather(1, column), norms, column, state)
    target = formula(margin).target(margin, of)
    if straight_through:
        target = of.cos + (target - of.cos).detach()
    negative = negative_logits(margin, cos, of.cos.detach(), state)
    added = formula(margin).penalty
    penalty = cos.new_zeros(len(cos)) if added is None else added(margin, of)[:, 0]
    return margin.s * negative.scatter(1, column, target), penalty


def loss_and_gradients(
    margin, embeddings, weight, labels, state, *,
    gamma=0.0, reduction="mean", ignore_index=-1, straight_through=False, of_cosines=None, added=None,
    shares=None,
):  # fmt: skip
    """Per-sample loss (B,) and the gradients of the reduced loss, all float64.

    `of_cosines` makes all cosines of embeddings and weight, where they are not to be the exact ones;
    `added` (B, C) is added to the logits of negatives. With `shares` (B,) the gradients are those of the
    sum of the losses times these.
    """
    x = embeddings.detach().double().requires_grad_()
    w = weight.detach().double().requires_grad_()
    state = {name: float(value) for name, value in state.items()}
    valid = labels != ignore_index
    known = labels.where(valid, torch.zeros_like(labels))
    cos = (of_cosines or cosines)(x, w)
    z, penalty = logits(margin, x, cos, known, state, straight_through)
    if added is not None:
        z = z + added.scatter(1, known[:, None], 0.0)
    loss = F.cross_entropy(z, labels, reduction="none", ignore_index=ignore_index)
    if gamma:
        loss = (1 - torch.exp(-loss)) ** gamma * loss
    loss = loss + penalty * valid
    reduced = {"mean": loss.sum() / valid.sum(), "sum": loss.sum(), "none": loss.sum()}[reduction]
    if shares is not None:
        reduced = (loss * shares.double()).sum()
    return loss.detach(), *torch.autograd.grad(reduced, (x, w))


def rounded_loss_and_gradients(margin, embeddings, weight, labels, state, dtype, **options):
    """The same with cosines from a product in `dtype`: what torch computes under autocast."""

    def rounded(x, w):
        return (F.normalize(x, dim=1).to(dtype) @ F.normalize(w, dim=1).to(dtype).T).double()

    return loss_and_gradients(
        margin, embeddings, weight, labels, state, of_cosines=rounded, **options
    )


def fresh_state(margin: Margin, dtype=torch.float32, **values):
    """State of a margin, with t away from 0 so that both terms of t + 2 c count."""
    start = margin.initial_state() | ({"t": 0.3} if "t" in margin.initial_state() else {}) | values
    return {name: torch.tensor(value, dtype=dtype) for name, value in start.items()}


# AdaFace's state is set to the lengths of the test inputs, so that all of its quality range is used.
def matched_state(margin: Margin, embeddings, dtype=torch.float32):
    if "norm_mean" not in margin.initial_state():
        return fresh_state(margin, dtype)
    norms = embeddings.double().norm(dim=1)
    std = norms.std(correction=0).item() + 0.1
    return fresh_state(margin, dtype, norm_mean=norms.mean().item(), norm_std=std)


def relative(actual, expected):
    """Largest error over the largest magnitude."""
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


def all_margins(s=64.0):
    """One of each registered margin, and the variants that take another branch."""
    counts = tuple(1 + 7 * i % 300 for i in range(NUM_COUNTED))
    margins = {name: cls(s=s).with_class_counts(counts) for name, cls in MARGINS.items()}
    margins["combined m1=1.35"] = Combined(s=s, m1=1.35, m2=0.1, m3=0.05)
    margins["magface easy"] = MagFace(s=s, l_a=1.0, u_a=30.0, lambda_g=9.0, easy_margin=True)
    margins["arcface easy"] = ArcFace(s=s, easy_margin=True)
    margins["mvarc easy t=1.4"] = MVArc(s=s, easy_margin=True, t=1.4)
    margins["curricularface m=0.3"] = CurricularFace(s=s, m=0.3)
    return margins


def without_form(margin: Margin):
    """The margin as a class of one's own, whose T is PyTorch's in every backend: no form is inherited."""
    own = type("Own", (type(margin),), {})
    return own(**{field.name: getattr(margin, field.name) for field in dataclasses.fields(margin)})


def run(margin, embeddings, weight, labels, state, backend, *, shares=None, **options):
    """Our head on copies: its output, and both gradients of its (summed) loss.

    With `shares` (B,), each sample's loss counts as many times.
    """
    x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    if shares is not None:
        options["reduction"] = "none"
    out = margin_loss(x, w, labels, margin, state=state, backend=backend, **options)
    (out.loss if shares is None else out.loss * shares).sum().backward()
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
