"""Heads on several processes for tests/sharded_cases.py: how they are made, trained and compared.

The truth is a head without a process group on the whole batch, computed by the same process.
"""

import itertools

import torch
import torch._dynamo  # an optimiser would: once here, not in every process
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fusedface.kernels import (
    MARGINS,
    AdaFace,
    MagFace,
    SelfPaced,
    SelfPacedLinear,
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
    """Of four ranks, two steps with each weighting and eight with one; of two, eight with two others.

    The target gradients take turns over weightings and margins; TWENTY_STEPS has every pair.
    """
    first = list(MARGINS).index(margin_name)
    if num_ranks == 4:
        half = [OPTIONS[2 * i + (first + i) % 2] for i in range(len(WEIGHTINGS))]
        return [(2, half), (STEPS, [OPTIONS[first % 8]])]
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


def trained_long(name):
    def case(rank, num_ranks):
        """20 steps with every target gradient and weighting."""
        plan = (margins()[name], 20, OPTIONS, torch.float64)
        shard = classes_of(CLASSES, rank, num_ranks)
        same_training(train(*plan, rank, "world"), train(*plan), torch.float64, shard)

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
