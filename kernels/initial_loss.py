"""The loss of random embeddings, at which a run must start; for a collapse see Margin.collapse_loss."""

import math

import torch
from torch import Tensor

from fusedface.kernels.margins import Batch, Margin

NUM_ROWS = 128  # rows averaged, in pairs with opposite target cosines


def predicted_initial_loss(margin: Margin, num_classes: int, embedding_dim: int) -> float:
    """Expected loss of random embeddings against random class centres.

    Draws cosines of independent directions in D dimensions (seeded, so the figure repeats) and puts them
    through the margin's own T and N. A closed form is not known: s / sqrt(D) is so large that a few terms
    dominate the sum over classes. The margin's state is its initial one after one update. The loss
    has no weights of samples.

    Args:
        margin: the margin.
        num_classes: C >= 2.
        embedding_dim: D >= 2.
    """
    generator = torch.Generator().manual_seed(0)
    # Pairs of opposite sign: the loss is nearly linear in c_y, so most of its scatter cancels.
    half = _random_cosines(NUM_ROWS // 2, embedding_dim, generator)
    cos_y = torch.cat([half, -half])
    # Batch normalisation at the end of the backbone gives embeddings of this length.
    norms = torch.full_like(cos_y, math.sqrt(embedding_dim))
    classes = margin.example_labels(num_classes)
    spread = torch.arange(NUM_ROWS) * len(classes) // NUM_ROWS
    labels = classes[spread]
    batch = Batch(cos_y, norms, labels, labels >= 0)
    state = {k: torch.tensor(v, dtype=cos_y.dtype) for k, v in margin.initial_state().items()}
    margin.update_state(batch, state)
    target = margin.target(batch, state)
    threshold = margin.threshold(batch, state)
    penalty = margin.penalty(batch, state)
    reweighting = margin.reweighting(state)
    total = 0.0
    for z_y, limit in zip(margin.s * target, threshold, strict=True):
        cos = _random_cosines(num_classes - 1, embedding_dim, generator)
        negative = torch.where(cos > limit, reweighting.value(cos), cos)
        lse = torch.logsumexp(margin.s * negative, dim=0)
        total += torch.logaddexp(lse - z_y, lse.new_zeros(())).item()
    return total / NUM_ROWS + (0.0 if penalty is None else penalty.mean().item())


def _random_cosines(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """Cosines (count,) of random directions with a fixed one: g / sqrt(g^2 + chi^2(dim - 1))."""
    first = torch.randn(count, generator=generator)
    # chi^2(k) by Wilson and Hilferty's cube of a normal, exact to about 1e-3 from k = 10 on.
    k = dim - 1
    cube = (
        1.0 - 2.0 / (9.0 * k) + torch.randn(count, generator=generator) * math.sqrt(2.0 / (9.0 * k))
    )
    return first / (first.square() + k * cube.clamp_min(0).pow(3)).sqrt()
