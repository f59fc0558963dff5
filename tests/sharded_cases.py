"""What several processes do together in tests/models/test_sharded_head.py; each case runs in all of them.

The truth is a head without a process group on the whole batch, computed by the same process.
"""

import copy
import itertools
import math
from functools import partial

import torch
import torch.distributed as dist
from centre_cases import CENTRES
from gloo import fails
from sharded_training import (
    CLASSES,
    DIM,
    batch,
    make,
    near,
    own,
    same_outputs,
    trained,
    trained_long,
    truths,
)
from torch import nn
from traffic_cases import TRAFFIC, Counting

from fusedface.kernels import (
    MARGINS,
    AdaFace,
    ArcFace,
    CurricularFace,
    MagFace,
    MVArc,
    NonFiniteInputError,
    margin_loss,
)
from fusedface.models import MarginHead


def compare_once(rank, num_ranks, rows, labels, num_classes, margin, **options):
    """One batch in both ways, from the embeddings on."""
    dtype = rows.dtype
    _, head = make(margin, dtype, num_classes, **options)
    _, shard = make(margin, dtype, num_classes, group="world", **options)
    x = rows.clone().requires_grad_()
    y = own(rows, rank, num_ranks).clone().requires_grad_()
    expected, actual = head(x, labels), shard(y, own(labels, rank, num_ranks))
    expected.loss.sum().backward()
    actual.loss.sum().backward()
    same_outputs(actual, expected, dtype)
    near("d embeddings", y.grad, num_ranks * own(x.grad, rank, num_ranks), dtype)
    classes = slice(shard.classes.start, shard.classes.stop)
    near("d weight", shard.weight.grad, head.weight.grad[classes], dtype)


def few_classes(rank, num_ranks):
    """Ranks with one class or none, on each backend; one class that is the target of every row."""
    for num_classes, backend in itertools.product((2, 3, 5, 9), ("reference", "chunked")):
        for margin in (CurricularFace(s=16.0), ArcFace(s=16.0)):
            rows, labels = batch(1, num_classes=num_classes)
            compare_once(rank, num_ranks, rows, labels, num_classes, margin, backend=backend)
            labels[labels >= 0] = num_classes - 1
            compare_once(rank, num_ranks, rows, labels, num_classes, margin, backend=backend)


def ignored(rank, num_ranks):
    rows, labels = batch(2)
    own(labels, 0, num_ranks).fill_(-1)
    for margin in (CurricularFace(), AdaFace(), MagFace(l_a=1.0, u_a=6.0)):
        compare_once(rank, num_ranks, rows, labels, CLASSES, margin)
    labels[labels < 0] = 255
    compare_once(rank, num_ranks, rows, labels, CLASSES, CurricularFace(), ignore_index=255)
    labels[:] = -1
    compare_once(rank, num_ranks, rows, labels, CLASSES, CurricularFace())


def reductions(rank, num_ranks):
    for reduction in ("sum", "none"):
        compare_once(rank, num_ranks, *batch(1), CLASSES, MVArc(), reduction=reduction)


def without_direction(rank, num_ranks):
    """Embeddings of length zero."""
    rows, labels = batch(1)
    rows[::4] = 0.0
    compare_once(rank, num_ranks, rows, labels, CLASSES, CurricularFace())


def half_precision(rank, num_ranks):
    """The gradient has the embeddings' dtype, and their error; the sum over ranks adds none."""
    rows, labels = batch(1)
    y = own(rows, rank, num_ranks).bfloat16().requires_grad_()
    x = rows.bfloat16().float().requires_grad_()
    _, head = make(CurricularFace(s=16.0), torch.float32)
    _, shard = make(CurricularFace(s=16.0), torch.float32, group="world")
    expected, actual = head(x, labels), shard(y, own(labels, rank, num_ranks))
    near("loss", actual.loss.detach(), expected.loss.detach(), torch.float32)
    expected.loss.backward()
    actual.loss.backward()
    assert y.grad.dtype == torch.bfloat16
    wanted = num_ranks * own(x.grad, rank, num_ranks)
    assert (y.grad.float() - wanted).abs().max() <= 2**-7 * wanted.abs().max()


def evaluation(rank, num_ranks):
    """No state is learned, and nothing is differentiated."""
    rows, labels = batch(1)
    _, head = make(CurricularFace(), torch.float64)
    _, shard = make(CurricularFace(), torch.float64, group="world")
    with torch.no_grad():
        expected = head.eval()(rows, labels)
        actual = shard.eval()(own(rows, rank, num_ranks), own(labels, rank, num_ranks))
    same_outputs(actual, expected, torch.float64)
    assert shard.t == 0


def one_process(rank, num_ranks):
    """A group of one is the head without a group."""
    groups = [dist.new_group([i]) for i in range(num_ranks)]
    rows, labels = batch(rank)
    _, head = make(CurricularFace(), torch.float64)
    _, shard = make(CurricularFace(), torch.float64, group=groups[rank])
    x, y = (rows.clone().requires_grad_() for _ in range(2))
    head(x, labels).loss.backward()
    shard(y, labels).loss.backward()
    near("d embeddings", x.grad, y.grad, torch.float64)
    near("d weight", head.weight.grad, shard.weight.grad, torch.float64)
    other = groups[(rank + 1) % num_ranks]
    fails(TypeError, ["process_group"], lambda: MarginHead(DIM, CLASSES, process_group=other))


def functional(rank, num_ranks):
    """margin_loss takes shards of any sizes, in the order of the ranks."""
    rows, labels = batch(1)
    weight = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(1)).double()
    sizes = [CLASSES - num_ranks + 1] + [1] * (num_ranks - 1)
    shard = weight.split(sizes)[rank].clone().requires_grad_()
    weight.requires_grad_()
    expected = margin_loss(rows, weight, labels, MVArc())
    y, own_labels = own(rows, rank, num_ranks), own(labels, rank, num_ranks)
    actual = margin_loss(y, shard, own_labels, MVArc(), process_group="world")
    expected.loss.backward()
    actual.loss.backward()
    near("loss", actual.loss.detach(), expected.loss.detach(), torch.float64)
    near("d weight", shard.grad, weight.grad.split(sizes)[rank], torch.float64)


def new_class_centres(rank, num_ranks):
    """One seed, one head, whatever the number of ranks; and the generator is where it would be."""
    for num_classes in (CLASSES, 3, 200):
        torch.manual_seed(3)
        head = MarginHead(DIM, num_classes)
        after = torch.rand(1)
        torch.manual_seed(3)
        shard = MarginHead(DIM, num_classes, process_group="world")
        assert torch.equal(torch.rand(1), after)
        classes = shard.classes
        assert torch.equal(shard.weight, head.weight[classes.start : classes.stop])
        shard.t.fill_(0.5)
        shard.reset_parameters()
        assert shard.t == 0


def state_dicts(rank, num_ranks):
    """Each rank saves its rows; all of them are gathered; any number of ranks loads all of them."""
    for num_classes in (CLASSES, 5):
        _, head = make(CurricularFace(), torch.float32, num_classes)
        _, shard = make(CurricularFace(), torch.float32, num_classes, group="world")
        head.t.fill_(0.25)
        shard.t.fill_(0.25)
        assert shard.state_dict()["weight"].shape == (len(shard.classes), DIM)
        full = shard.full_state_dict()
        if rank == 0:
            assert full.keys() == head.state_dict().keys()
            assert all(torch.equal(full[name], value) for name, value in head.state_dict().items())
        else:
            assert full == {}
        other = MarginHead(DIM, num_classes, process_group="world")
        other.load_state_dict(shard.state_dict())
        assert torch.equal(other.weight, shard.weight)
        again = MarginHead(DIM, num_classes, process_group="world")
        nested = nn.ModuleDict({"head": again})
        nested.load_state_dict({f"head.{k}": v for k, v in head.state_dict().items()})
        assert torch.equal(again.weight, shard.weight)
        assert again.t == 0.25
        wrong = shard.state_dict() | {"weight": torch.zeros(num_classes + 1, DIM)}
        words = ["weight", str(num_classes), str(num_classes + 1), "full_state_dict"]
        fails(ValueError, words, partial(again.load_state_dict, wrong))
        assert torch.equal(again.weight, shard.weight)
        assert copy.deepcopy(shard).shard is shard.shard


def mistakes(rank, num_ranks):
    """Named on every rank, so that none waits for another."""
    _, head = make(CurricularFace(), torch.float32, group="world")
    rows, labels = (own(part, rank, num_ranks) for part in batch(1, dtype=torch.float32))
    first = rank == 0
    fails(
        ValueError, ["rows", "ignore_index", f"{len(rows) - 1} on rank 0"],
        lambda: head(rows[first:], labels[first:]),
    )  # fmt: skip
    fails(
        ValueError,
        ["dtype", "float64 on rank 0"],
        lambda: head(rows.double() if first else rows, labels),
    )
    fails(ValueError, ["dimension", "9 on rank 0"], lambda: wide(first, rows, labels))
    out_of_range = labels.clone()
    out_of_range[-1] = CLASSES if first else 0
    fails(
        ValueError,
        [f"[0, {CLASSES})", f"labels[{len(rows) - 1}] = {CLASSES}"],
        lambda: head(rows, out_of_range),
    )
    bad = rows.clone()
    bad[0] = math.nan if first else 1.0
    fails(NonFiniteInputError, ["embeddings", "row 0"], lambda: head(bad, labels))
    head.train(first)
    fails(ValueError, ["training", "True on rank 0"], lambda: head(rows, labels))
    head.train()
    with torch.no_grad():
        head.t.fill_(0.5 if first else 0.0)
    fails(ValueError, ["state t", "0.5 on rank 0"], lambda: head(rows, labels))
    head.t.zero_()
    with torch.no_grad():
        head.weight[0] = math.nan if rank == 1 else 1.0
    fails(NonFiniteInputError, ["weight", "row 0", "rank 1"], lambda: head(rows, labels))
    different = ArcFace(m=0.3) if first else ArcFace()
    fails(
        ValueError, ["m=0.3", "m=0.5", "rank 1"],
        lambda: MarginHead(DIM, CLASSES, different, process_group="world"),
    )  # fmt: skip
    fails(ValueError, ["at least 2", "got 1"], lambda: lonely(first, rows, labels))


def wide(first, rows, labels):
    dim = DIM + first
    x, weight = torch.ones(len(rows), dim), torch.ones(2, dim)
    return margin_loss(x, weight, labels, ArcFace(), process_group="world")


def lonely(first, rows, labels):
    weight = torch.ones(int(first), DIM)
    return margin_loss(rows, weight, labels, ArcFace(), process_group="world")


def bytes_sent(rank, num_ranks):
    """docs/scaling.md: (N - 1) (b (D (e + max(e, 4)) + 8 + 18 e') + 8 (6 + states)) for each step."""
    for dtype, e, num_classes in (
        (torch.float64, 8, CLASSES), (torch.float32, 4, CLASSES), (torch.float32, 4, 10 * CLASSES),
        (torch.bfloat16, 2, CLASSES),
    ):  # fmt: skip
        wide = 8 if dtype == torch.float64 else 4
        _, head = make(
            CurricularFace(), torch.float64 if e == 8 else torch.float32, num_classes, group="world"
        )
        rows, labels = batch(1, num_classes=num_classes)
        rows = own(rows, rank, num_ranks).to(dtype).requires_grad_()
        with Counting() as count:
            head(rows, own(labels, rank, num_ranks)).loss.backward()
        b = len(rows)
        per_row = DIM * (e + max(e, 4)) + 8 + 18 * wide
        assert count.sent == (num_ranks - 1) * (b * per_row + 8 * (6 + 1)), (count.sent, per_row)


TWENTY_STEPS = {name: trained_long(name) for name in MARGINS}
CASES = {"truths": truths} | {f"training {name}": trained(name) for name in MARGINS} | {
    case.__name__: case
    for case in (
        few_classes, ignored, reductions, without_direction, half_precision, evaluation, one_process,
        functional, new_class_centres, state_dicts, mistakes, bytes_sent,
    )
} | CENTRES | TRAFFIC  # fmt: skip
