"""Predicted losses against closed forms, against real heads, and against published training logs."""

import math

import pytest
import torch

from fusedface.kernels import (
    ArcFace,
    CosFace,
    CurricularFace,
    MVArc,
    NormFace,
    margin_loss,
    predicted_initial_loss,
)


@pytest.mark.parametrize(
    ("margin", "num_classes", "expected"),
    [
        (ArcFace(), 10_572, 64 * math.sin(0.5) + math.log(10_572)),
        (ArcFace(), 85_742, 42.04),
        (MVArc(t=1.2), 10_572, 52.75),
        (MVArc(t=1.4), 10_572, 65.55),
        (CurricularFace(), 10_572, 39.95),
        (NormFace(), 1000, math.log(1000)),
        (CosFace(m=0.35), 1000, 64 * 0.35 + math.log(999)),
    ],
    ids=str,
)
def test_collapse_loss(margin, num_classes, expected):
    assert margin.collapse_loss(num_classes) == pytest.approx(expected, abs=0.01)


def test_collapse_loss_is_that_of_a_collapsed_network():
    """Embeddings orthogonal to every class centre."""
    weight = torch.zeros(50, 8)
    weight[:, :7] = torch.randn(50, 7)
    embeddings = torch.zeros(4, 8)
    embeddings[:, 7] = 1
    for margin in (ArcFace(), MVArc(), CurricularFace(), CosFace()):
        out = margin_loss(embeddings, weight, torch.arange(4), margin)
        assert out.loss.item() == pytest.approx(margin.collapse_loss(50), rel=1e-5)


MARGINS = [NormFace(), CosFace(), ArcFace(), MVArc(t=1.4), CurricularFace()]


@pytest.mark.parametrize("margin", MARGINS, ids=str)
def test_initial_loss_is_that_of_random_embeddings(margin):
    g = torch.Generator().manual_seed(1)
    half = torch.randn(128, 64, generator=g)
    embeddings = torch.cat([half, -half])
    weight = torch.randn(3000, 64, generator=g)
    labels = torch.randint(3000, (128,), generator=g).repeat(2)
    loss = margin_loss(embeddings, weight, labels, margin).loss.item()
    assert predicted_initial_loss(margin, 3000, 64) == pytest.approx(loss, abs=0.5)


@pytest.mark.parametrize(
    ("margin", "num_classes", "first_logged"),
    [
        (ArcFace(m=0.5), 85_742, 46.02),  # MS1MV2, published insightface log
        (ArcFace(m=0.5), 93_431, 46.13),  # MS1MV3
        (CosFace(m=0.4), 205_990, 41.83),  # WebFace4M
    ],
    ids=str,
)
def test_initial_loss_is_that_of_published_logs(margin, num_classes, first_logged):
    assert predicted_initial_loss(margin, num_classes, 512) == pytest.approx(first_logged, abs=0.25)
