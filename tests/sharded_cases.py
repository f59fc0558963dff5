"""What several processes do together in tests/models/test_sharded_head.py; each case runs in all of them.

The truth is a head without a process group on the whole batch, computed by the same process.
"""

import copy
import itertools
import math
from functools import partial

import pytest
import torch
import torch.distributed as dist
from centre_cases import CENTRES
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from traffic_cases import TRAFFIC, Counting

from fusedface.kernels import (
    MARGINS,
    AdaFace,
    ArcFace,
    CurricularFace,
    MagFace,
    MVArc,
    NonFiniteInputError,
    SelfPaced,
    SelfPacedLinear,
    margin_loss,
)
from fusedface.kernels.sharded import classes_of
from fusedface.models import MarginHead

DIM, CLASSES, ROWS = 8, 13, 12  # 4 ranks hold 4, 4, 4 and 1 classes, and 3 rows each
STEPS = 8
WEIGHTINGS = {
    "none": {},
    "focal": {"focal_gamma": 2.0},
    "self_paced": {"weighting": SelfPaced(first_share=0.7)},
    "self_paced_linear": {"weighting": SelfPacedLinear()},
}


def margins(num_classes=CLASSES):
    counts = tuple(1 + 7 * i % 30 for i in range(num_classes))
    # Lengths of the embeddings here are from 1 to 6.
    special = {
        "magface": MagFace(s=16.0, l_a=1.0, u_a=6.0),
        "adaface": AdaFace(s=16.0, momentum=0.3),
    }
    return {
        name: special.get(name) or kind(s=16.0).with_class_counts(counts)
        for name, kind in MARGINS.items()
    }


def batch(step, num_rows=ROWS, num_classes=CLASSES, dtype=torch.float64):
    """Rows of a step, near their class or opposite to it; some are ignored, some classes have none."""
    generator = torch.Generator().manual_seed(step)
    centres = torch.randn(num_classes, DIM, generator=torch.Generator().manual_seed(9), dtype=dtype)
    top = num_classes if step % 3 else max(num_classes // 4, 1)  # all targets on the first rank
    labels = torch.randint(top, (num_rows,), generator=generator)
    pull = torch.tensor([1.5, 0.4, -1.0, 0.0], dtype=dtype)[torch.arange(num_rows) % 4]
    noise = torch.randn(num_rows, DIM, generator=generator, dtype=dtype)
    rows = noise + pull[:, None] * centres[labels]
    labels[1::5] = -1
    return rows, labels


def own(rows, rank, num_ranks):
    """This rank's of the rows of a batch."""
    return rows.chunk(num_ranks)[rank]


def make(margin, dtype, num_classes=CLASSES, group=None, **options):
    """A backbone and a head of long class centres, the same in every process."""
    torch.manual_seed(0)
    backbone = nn.Linear(DIM, DIM, dtype=dtype)
    head = MarginHead(DIM, num_classes, margin, process_group=group, **options)
    centres = torch.randn(num_classes, DIM, dtype=torch.float64)
    head.load_state_dict(head.state_dict() | {"weight": centres if group else centres.float()})
    return backbone, head.to(dtype)


def sgd(*modules):
    parameters = [p for module in modules for p in module.parameters()]
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=5e-3, nesterov=True)


def near(name, actual, expected, dtype):
    """Relative to the largest; a hard negative that rounding makes easy is within the float32 tolerance."""
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
    both_nan = actual.isnan() & expected.isnan()
    actual, expected = (x.double().masked_fill(both_nan, 0.0) for x in (actual, expected))
    infinite = expected.isinf()
    assert torch.equal(actual[infinite], expected[infinite]), name
    error = (actual - expected)[~infinite].abs().max() if (~infinite).any() else torch.zeros(())
    scale = max(expected[~infinite].abs().max().item() if (~infinite).any() else 0.0, 1e-3)
    assert error <= tolerance * scale, (name, actual, expected)


def same_outputs(actual, expected, dtype):
    for name in ("loss", "per_sample_loss", "target_cosine", "max_negative_cosine"):
        near(name, getattr(actual, name).detach(), getattr(expected, name).detach(), dtype)
    for name in ("correct", "hard_negatives"):
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name
    for name, one, other in zip(
        actual.modulation._fields, actual.modulation, expected.modulation, strict=True
    ):
        near(f"modulation {name}", one, other, dtype)
    assert actual.state.keys() == expected.state.keys()
    for name, value in actual.state.items():
        near(f"state {name}", value, expected.state[name], dtype)


def same_on_all_ranks(*tensors):
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, [tensor.detach() for tensor in tensors])
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


OPTIONS = [
    WEIGHTINGS[weighting] | {"target_gradient": gradient}
    for weighting, gradient in itertools.product(WEIGHTINGS, ("exact", "straight_through"))
]


def plans(margin_name, num_ranks):
    """Of four ranks, two steps with all options and eight with one; of two, eight with two others."""
    first = list(MARGINS).index(margin_name)
    if num_ranks == 4:
        return [(2, OPTIONS), (STEPS, [OPTIONS[first % 8]])]
    return [(STEPS, [OPTIONS[(first + 3) % 8], OPTIONS[(first + 6) % 8]])]


def train(margin, steps, all_options, dtype, rank=0, group=None):
    """Some steps with each of the options at once, each with a backbone of its own under one DDP.

    Returns:
        Of the first two steps: the outputs, the gradients of heads and backbones. At the end: weights of
        heads and of backbones, states.
    """
    num_ranks = dist.get_world_size() if group else 1
    backbones, heads = zip(
        *(make(margin, dtype, group=group, **options) for options in all_options), strict=True
    )
    # One module, so that one reducer averages all gradients.
    model = Backbones(backbones)
    model = DistributedDataParallel(model) if group else model
    optimiser = sgd(model, *heads)
    firsts = []
    for step in range(steps):
        rows, labels = batch(step, ROWS if step % 5 else 4, dtype=dtype)
        embeddings = model(own(rows, rank, num_ranks))
        targets = own(labels, rank, num_ranks)
        outs = [head(x, targets) for head, x in zip(heads, embeddings, strict=True)]
        optimiser.zero_grad()
        sum(out.loss for out in outs).backward()
        if step < 2:
            gradients = [
                [p.grad.clone() for p in part.parameters()] for part in (*heads, *backbones)
            ]
            firsts.append(([detached(out) for out in outs], gradients))
        optimiser.step()
    return firsts, [part.state_dict() for part in heads], [part.state_dict() for part in backbones]


class Backbones(nn.ModuleList):
    def forward(self, rows):
        return [backbone(rows) for backbone in self]


def detached(out):
    return out._replace(loss=out.loss.detach(), per_sample_loss=out.per_sample_loss.detach())


TRUTHS = {}


def truths(rank, num_ranks):
    """Train in one process what several will: each process some margins, and all know all of them."""
    mine = {
        name: [train(margin, *plan, dtype_of(num_ranks)) for plan in plans(name, num_ranks)]
        for i, (name, margin) in enumerate(margins().items())
        if i % num_ranks == rank
    }
    found = [None] * num_ranks
    dist.all_gather_object(found, mine)
    TRUTHS.update(item for part in found for item in part.items())


def dtype_of(num_ranks):
    return torch.float64 if num_ranks == 4 else torch.float32


def trained(name):
    def case(rank, num_ranks):
        for plan, truth in zip(plans(name, num_ranks), TRUTHS[name], strict=True):
            ours = train(margins()[name], *plan, dtype_of(num_ranks), rank, "world")
            same_training(ours, truth, dtype_of(num_ranks), classes_of(CLASSES, rank, num_ranks))

    return case


def same_training(ours, truth, dtype, shard):
    classes = slice(shard.start, shard.stop)
    for (outs, gradients), (expected, wanted) in zip(ours[0], truth[0], strict=True):
        for actual, right in zip(outs, expected, strict=True):
            same_outputs(actual, right, dtype)
        for i, (found, right) in enumerate(zip(gradients, wanted, strict=True)):
            of_head = i < len(outs)
            for p, q in zip(found, right, strict=True):
                near("gradient", p, q[classes] if of_head else q, dtype)
    started = make(margins()["arcface"], dtype)[1].weight.detach()
    for actual, right in zip(ours[1], truth[1], strict=True):
        assert not torch.allclose(right["weight"], started, rtol=0.01)
        near("weight", actual["weight"], right["weight"][classes], dtype)
        for state in actual.keys() - {"weight"}:  # float32, and one rounding apart at most
            near(state, actual[state], right[state], torch.float32)
    for actual, right in zip(ours[2], truth[2], strict=True):
        for name, value in actual.items():
            near(f"backbone {name}", value, right[name], dtype)
    states = [value for head in ours[1] for name, value in head.items() if name != "weight"]
    same_on_all_ranks(*states, *(value for part in ours[2] for value in part.values()))


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


def fails(kind, words, call):
    with pytest.raises(kind) as error:
        call()
    assert all(word in str(error.value) for word in words), (words, str(error.value))


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


CASES = {"truths": truths} | {f"training {name}": trained(name) for name in MARGINS} | {
    case.__name__: case
    for case in (
        few_classes, ignored, reductions, without_direction, half_precision, evaluation, one_process,
        functional, new_class_centres, state_dicts, mistakes, bytes_sent,
    )
} | CENTRES | TRAFFIC  # fmt: skip
