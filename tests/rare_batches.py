"""Batches that take the paths which few take: problems as in `margin_oracle`, and options of the step."""

import dataclasses

import margin_oracle
import torch
from emulated_head import clear_rows, inputs
from margin_oracle import fresh_state


def repeated_labels(margin, dim):
    """Targets of one tile in several rows.

    No two class centres are equal: torch rounds the target's cosine and its double's alike, and we only
    the double's. Eight rows share the class. A gradient is projected by the rounded class centre, and the
    rows of a class share that error: from a third of the batch on it passes the budget, in tf32 at D = 512.
    """
    embeddings, weight, labels = margin_oracle.inputs(60, 150, dim)
    embeddings[:8] += weight[labels[0]] - weight[labels[:8]]
    labels[:8] = labels[0]
    clear = clear_rows(margin, embeddings, weight, labels)
    assert (clear < 8).sum() > 3
    problem = (margin, embeddings[clear], weight, labels[clear], fresh_state(margin, t=0.3))
    return problem, {"reduction": "sum"}


# About the largest scales at which the reference of exponentials is fixed.
SCALES = {"curricularface": 74.0, "mvarc": 106.0, "arcface": 148.0}


def rows_summed_again(margin, dim):
    """At t = 1, cosines near -1 in some rows and near 1 in others: one reference suits only the latter."""
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(1, dim, generator=g)
    weight = shared + 0.05 * torch.randn(170, dim, generator=g)
    sides = torch.tensor([-1.0, 1.0, -1.0, -1.0, 1.0])[:, None]
    embeddings = sides * shared + 0.05 * torch.randn(5, dim, generator=g)
    margin = dataclasses.replace(margin, s=SCALES[margin.name])
    problem = (margin, embeddings, weight, torch.arange(5), fresh_state(margin, t=1.0))
    return problem, {"reduction": "sum"}


def loss_pushed_up(margin, dim):
    """Samples with a weight below 0 and of 0, whose coefficients have another sign, or none."""
    problem = (margin, *inputs(margin, 39, 150, dim), fresh_state(margin, t=0.3))
    return problem, {"shares": torch.tensor([1.0, -2.0, 0.0] * 13)}
