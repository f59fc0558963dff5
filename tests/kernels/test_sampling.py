"""Class sampling: against the oracle with the same sample, and the laws of drawing."""

import math

import pytest
import torch
from margin_oracle import all_margins, inputs, loss_and_gradients, matched_state, relative

from fusedface.kernels import ArcFace, CurricularFace, HeadOptions, margin_loss
from fusedface.kernels.sampling import Sample, draw, num_kept
from fusedface.models import MarginHead

ROWS, CLASSES, DIM, RATE = 16, 90, 8, 0.3


def batch(dtype=torch.float64):
    embeddings, weight, labels = inputs(ROWS, CLASSES, DIM, dtype=dtype)
    labels[3] = -1
    return embeddings.requires_grad_(), weight.requires_grad_(), labels


def sampled(margin, backend="chunked", *, seed=0, tensors=None, **options):
    """The output and the gradients of embeddings and class centres."""
    embeddings, weight, labels = tensors or batch()
    torch.manual_seed(seed)
    state = matched_state(margin, embeddings.detach(), torch.float64)
    out = margin_loss(
        embeddings, weight, labels, margin, state=state, training=True, backend=backend,
        **{"sample_rate": RATE} | options,
    )  # fmt: skip
    return out, *torch.autograd.grad(out.loss, (embeddings, weight))


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("name", all_margins())
def test_every_margin_against_the_oracle(name, backend):
    margin = all_margins(s=16.0)[name]
    embeddings, weight, labels = batch()
    for corrected in (True, False):
        out, dx, dw = sampled(margin, backend, sample_correction=corrected)
        kept = dw.coalesce().indices()[0]
        added = torch.full((ROWS, CLASSES), -torch.inf, dtype=torch.float64)
        share = (CLASSES - 1) / (len(kept) - 1) if corrected else 1.0
        added[:, kept] = math.log(share)
        truth = loss_and_gradients(margin, embeddings, weight, labels, out.state, added=added)
        for actual, expected in zip((out.per_sample_loss, dx, dw.to_dense()), truth, strict=True):
            assert relative(actual, expected) < 1e-9
        negatives = added.masked_fill(
            torch.nn.functional.one_hot(labels.clamp_min(0), CLASSES) > 0, -torch.inf
        )
        cos = torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(weight).T
        largest = cos.masked_fill(negatives.isinf(), -torch.inf).amax(dim=1)
        valid = labels >= 0
        torch.testing.assert_close(out.max_negative_cosine[valid], largest[valid])


def test_the_state_is_that_of_all_classes():
    embeddings, weight, labels = batch()
    margin = CurricularFace(t_momentum=0.5)
    state = matched_state(margin, embeddings.detach(), torch.float64)
    whole = margin_loss(embeddings, weight, labels, margin, state=state, training=True)
    out, _, _ = sampled(margin)
    assert torch.equal(out.state["t"], whole.state["t"])
    both_nan = out.target_cosine.isnan() & whole.target_cosine.isnan()
    assert (both_nan | (out.target_cosine - whole.target_cosine).abs().lt(1e-15)).all()


def test_only_in_training_and_only_below_one():
    embeddings, weight, labels = batch()
    for options in ({"training": False, "sample_rate": RATE}, {"training": True}):
        out = margin_loss(embeddings, weight, labels, ArcFace(), **options)
        (dw,) = torch.autograd.grad(out.loss, weight)
        assert not dw.is_sparse
        assert torch.equal(out.loss, margin_loss(embeddings, weight, labels, ArcFace()).loss)


def test_a_gradient_through_other_operations_is_dense():
    _, _, sparse = sampled(ArcFace())
    embeddings, weight, labels = batch()
    _, _, dense = sampled(ArcFace(), tensors=(embeddings, weight * 1.0, labels))
    assert not dense.is_sparse
    assert torch.equal(sparse.to_dense(), dense)


def draws(count, num_draws, labels=()):
    labels = torch.tensor([-1, *labels])
    return [
        draw(count, CLASSES, labels, Sample(RATE, True, torch.tensor(seed), 0))
        for seed in range(num_draws)
    ]


def test_targets_are_kept_and_others_drawn_alike():
    targets, count, num_draws = [5, 17, 17, 89, 0], 20, 2000
    kept = torch.stack(draws(count, num_draws, targets))
    assert kept.shape == (num_draws, count)
    assert (kept.diff(dim=1) > 0).all()  # rising, so none twice
    often = torch.bincount(kept.flatten(), minlength=CLASSES)
    assert (often[targets] == num_draws).all()
    others = torch.ones(CLASSES, dtype=torch.bool)
    others[targets] = False
    p = (count - 4) / (CLASSES - 4)
    sigma = math.sqrt(num_draws * p * (1 - p))
    assert (often[others] - num_draws * p).abs().max() < 5 * sigma
    pairs = (kept == 30).any(dim=1) & (kept == 31).any(
        dim=1
    )  # neighbours know nothing of each other
    q = p * (count - 5) / (CLASSES - 5)
    assert abs(pairs.sum() - num_draws * q) < 5 * math.sqrt(num_draws * q)


def test_shards_draw_differently():
    labels, seed = torch.tensor([-1]), torch.tensor(3)
    one, other = (draw(20, CLASSES, labels, Sample(RATE, True, seed, c)) for c in (0, CLASSES))
    assert not torch.equal(one, other)


def test_the_sum_over_the_negatives_keeps_its_expectation():
    """For one row, whose negatives are all drawn alike; the log of it lies below, by Jensen."""
    embeddings, weight, _ = batch()
    tensors = embeddings[:1], weight, torch.tensor([7])
    margin = ArcFace(s=8.0)
    whole = margin_loss(*tensors, margin)
    excess = math.expm1(whole.loss.item())  # e^(lse - s T)
    found = torch.stack(
        [
            sampled(margin, seed=seed, tensors=tensors)[0].loss.detach().expm1()
            for seed in range(400)
        ]
    )
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - excess) < 4 * error
    assert error < 0.05 * excess
    plain = [
        sampled(margin, seed=seed, tensors=tensors, sample_correction=False)[0]
        .loss.detach()
        .expm1()
        for seed in range(400)
    ]
    share = torch.stack(plain).mean() / excess
    assert share == pytest.approx(26 / 89, rel=0.1)  # K - 1 of C - 1 negatives


def test_equal_cosines_have_the_loss_of_all_classes():
    """What a network that has collapsed shows: the verdict on a run rests on it."""
    embeddings, weight = torch.ones(4, 2), torch.tensor([1.0, 0.0]).expand(CLASSES, 2)
    options = {"training": True, "sample_rate": RATE}
    out = margin_loss(embeddings, weight, torch.arange(4), ArcFace(), **options)
    expected = ArcFace().collapse_loss(CLASSES, math.sqrt(0.5))
    assert out.loss.item() == pytest.approx(expected, rel=1e-6)


def test_the_seed_decides_the_sample():
    kept = [sampled(ArcFace(), seed=seed)[2].coalesce().indices() for seed in (0, 0, 1)]
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    margin_loss(*batch(), ArcFace(), training=True)
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn without sampling


@pytest.mark.parametrize(("rate", "count"), [(0.3, 27), (1 / 9, 10), (0.001, 2), (1.0, 90)])
def test_how_many_are_kept(rate, count):
    assert num_kept(CLASSES, rate) == count
    assert num_kept(CLASSES, rate, 40) == max(count, 40)
    assert num_kept(1, rate) == 1


def test_mistakes_are_named():
    for rate in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"sample_rate must be in \(0, 1\]"):
            HeadOptions(sample_rate=rate)
    head = MarginHead(DIM, CLASSES, sample_rate=0.1)
    with pytest.raises(ValueError, match=r"at least B / C = 16 / 90 = 0\.1778.* got 0\.1"):
        head(torch.ones(ROWS, DIM), torch.zeros(ROWS, dtype=torch.int64))
